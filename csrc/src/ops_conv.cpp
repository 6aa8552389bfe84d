// Convolution and linear by register tiles (family A): choice of tile, steps for the input's layout, and the loops.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "model.h"

namespace precut {
namespace {

constexpr size_t kNearBytes = 2u << 20;
constexpr int64_t kAhead = 2048;  // floats

// Cycles of one channel step of a tile: two multiply-adds and two loads a cycle, and four cycles of latency to hide.
double step_cycles(const TileInfo& t) {
  double vectors = double(t.ch * t.cw * t.nv);
  double loads = double(t.g > 1 || t.nv == 1 ? t.ch * t.cw : t.ch * t.cw) + t.nv;
  return std::max({vectors / 2, loads / 2, 4.0});
}

struct TileConv : Exec {
  std::shared_ptr<const Packed> packed;
  const TileInfo* tile[5] = {};  // by number of vectors
  std::vector<Step> steps;
  std::vector<std::pair<int64_t, int64_t>> step_range;  // by walk
  std::vector<std::pair<int, int>> block_units;         // units [first, second) that fill whole blocks
  int x = -1, y = -1, res = -1;
  bool wide = false, merge = false;
  float lo = 0, hi = 0;
  bool late_act = false;
  Floats slopes;
  int max_ch = 1;
  // Fetching of weights that lie far away: none; a little ahead of the first tile of each unit; or, by all of a unit's
  // tiles together, the whole next unit, so that memory has as long for it as the arithmetic takes.
  enum class Fetch { none, ahead, unit } fetch = Fetch::none;
  int64_t band = 0;  // rows at a time; 0: all

  const void* weights_key() const override { return packed.get(); }
  void fetch_by(Fetch how) {
    fetch = how;
    why = how == Fetch::unit ? "fetches units, " : "fetches ahead, ";
  }

  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    Place px = plan.place(x, r, wide), py = plan.place(y, r, wide), pr;
    if (res >= 0) pr = plan.place(res, r, wide);
    if (merge) {
      for (Place* p : {&px, &py, &pr}) {
        p->w *= p->h;
        p->h = 1;
      }
    }
    // What is split between the threads: output blocks, so that each streams its own weights; else images; else rows.
    int64_t n_blocks = int64_t(block_units.size());
    int64_t b0 = 0, b1 = n_blocks, i0 = 0, i1 = py.images, r0 = 0, r1 = py.h;
    if (parts > 1) {
      if (py.images % parts == 0) split(py.images, 1, part, parts, i0, i1);
      else if (n_blocks % parts == 0 || n_blocks >= 4 * parts) split(n_blocks, 1, part, parts, b0, b1);
      else if (py.h >= 4 * parts * max_ch) split(py.h, max_ch, part, parts, r0, r1);
      else split(n_blocks, 1, part, parts, b0, b1);
    }
    if (r0 >= r1) return;
    if (plan.buffer(x).shared && py.images > 1) fetch_input(plan, px, i0, i1);
    if (band == 0) {
      for (int64_t b = b0; b < b1; b++) block_rows(plan, px, py, pr, b, i0, i1, r0, r1);
      return;
    }
    // Bands of rows, so that the part of the input that all output blocks read stays near.
    for (int64_t i = i0; i < i1; i++)
      for (int64_t r0b = r0; r0b < r1;) {
        int64_t next = r1 - r0b < 2 * band ? r1 : r0b + band;
        for (int64_t b = b0; b < b1; b++) block_rows(plan, px, py, pr, b, i, i + 1, r0b, next);
        r0b = next;
      }
  }

  // An earlier segment wrote the input some images ago: it has left the second-level cache, and the order in which tiles
  // come to it (strided, the same few lines of each block) is none that the processor fetches ahead of by itself.
  void fetch_input(const Plan& plan, const Place& px, int64_t i0, int64_t i1) const {
    constexpr int64_t kLine = 16, kMost = 1 << 17;  // floats
    if ((i1 - i0) * px.img > kMost) return;
    const int64_t origin = plan.buffer(x).origin;
    for (int64_t i = i0; i < i1; i++)
      for (const float *p = px.p - origin + i * px.img, *end = p + px.img; p < end; p += kLine) {
        __builtin_prefetch(p, 0, 2);
        asm volatile("");  // GCC takes a function of nothing but prefetches for one without effect and drops it
      }
  }

  // Rows [r0, r1) of images [i0, i1) of output block (or blocks) `b`. Each unit's weights serve all images in turn.
  void block_rows(const Plan& plan, const Place& px, const Place& py, const Place& pr, int64_t b, int64_t i0, int64_t i1,
                  int64_t r0, int64_t r1) const {
    const Window& win = node->win;
    int lanes = packed->lanes;
    for (int u = block_units[size_t(b)].first; u < block_units[size_t(b)].second; u++) {
      const Unit& unit = packed->units[size_t(u)];
      auto range = step_range[size_t(unit.walk)];
      const TileInfo& t = *tile[unit.nv];
      TileArgs a;
      a.steps = steps.data() + range.first;
      a.n_steps = range.second - range.first;
      a.w = packed->weights.data() + unit.weights;
      a.bias = packed->bias.data() + unit.bias;
      // Seen wide, the columns are images: the stride has nothing to step over.
      a.x_row = px.row * win.sh;
      a.x_col = px.col * (wide ? 1 : win.sw);
      a.y_row = py.row;
      a.y_blk = py.blk;
      a.res_row = pr.row;
      a.res_blk = pr.blk;
      a.lo = lo;
      a.hi = hi;
      a.fetch = nullptr;
      a.share = 0;
      int64_t fetched = 0, next = 0;  // tiles that fetch have run; floats to the next unit
      if (fetch == Fetch::ahead) a.fetch = a.w + kAhead;
      if (fetch == Fetch::unit && size_t(u + 1) < packed->units.size()) {
        next = int64_t(packed->units[size_t(u + 1)].weights) - int64_t(unit.weights);
        int64_t tiles = (i1 - i0) * ceil_div(r1 - r0, t.ch) * ceil_div(py.w, t.cw);
        while (a.share < 3 && tiles >= 2 << a.share) a.share++;
        a.fetch = a.w + next;
      }
      for (int64_t i = i0; i < i1; i++) {
        float* yi = py.p + i * py.img + unit.block * py.blk + unit.lane;
        const float* xi = px.p + i * px.img - win.pt * px.row - win.pl * px.col;
        const float* ri = res < 0 ? nullptr : pr.p + i * pr.img + unit.block * pr.blk + unit.lane;
        tiles(a, t, xi, yi, ri, r0, r1, py.w, lanes, next, fetched);
      }
    }
    if (late_act) finish(plan, py, b, i0, i1, r0, r1, lanes);
  }

  // Tiles over rows [r0, r1) and all columns. The last tile of a row or column is moved back to end at the edge: what it
  // computes twice is the same both times. Each of the first tiles fetches its share of the `next` floats of weights.
  static void tiles(TileArgs& a, const TileInfo& t, const float* x, float* y, const float* r, int64_t r0, int64_t r1,
                    int64_t w, int lanes, int64_t next, int64_t& fetched) {
    for (int64_t row = r0; row < r1; row += t.ch) {
      int64_t at = std::min(row, r1 - t.ch);
      for (int64_t col = 0; col < w; col += t.cw) {
        int64_t c = std::min<int64_t>(col, w - t.cw);
        a.x = x + at * a.x_row + c * a.x_col;
        a.y = y + at * a.y_row + c * lanes;
        a.res = r ? r + at * a.res_row + c * lanes : nullptr;
        t.fn(a);
        if (a.fetch) a.fetch = ++fetched >> a.share ? nullptr : a.fetch + (next >> a.share);
      }
    }
  }

  void finish(const Plan& plan, const Place& py, int64_t b, int64_t i0, int64_t i1, int64_t r0, int64_t r1,
              int lanes) const {
    const Unit& first = packed->units[size_t(block_units[size_t(b)].first)];
    for (int64_t i = i0; i < i1; i++)
      for (int v = 0; v < first.nv; v++)
        for (int64_t row = r0; row < r1; row++) {
          int64_t block = first.block + v;
          activate(plan, node->act, slopes.size() ? slopes.data() + block * lanes : nullptr,
                   py.p + i * py.img + block * py.blk + row * py.row, py.w);
        }
  }

  static void split(int64_t n, int64_t unit, int part, int parts, int64_t& from, int64_t& to) {
    int64_t chunks = n / unit;  // what does not fill a unit goes to the last part
    from = chunks * part / parts * unit;
    to = part + 1 == parts ? n : chunks * (part + 1) / parts * unit;
  }
};

// Where the weights of a layer come from: bytes a cycle of the first reading, and how many images share it.
struct Stream {
  double rate = 40;
  double images = 1;
};

// Cycles for one image of a unit: every tile reads the unit's weights, the first of all from far away.
double sheet_cycles(const TileInfo& t, int64_t h, int64_t w, double steps, double n_steps, double weight_bytes,
                    const Stream& stream) {
  double tiles = double((h + t.ch - 1) / t.ch) * double((w + t.cw - 1) / t.cw) * stream.images;
  double compute = steps * step_cycles(t) + n_steps * 2.5 + t.ch * t.cw * t.nv * 1.5 + 25;
  double near = weight_bytes > 32768 ? weight_bytes / 40 : 0;
  return ((tiles - 1) * std::max(compute, near) + std::max(compute, weight_bytes / stream.rate)) / stream.images;
}

bool tile_fits(const TileInfo& t, int64_t h, int64_t w) { return t.ch <= h && t.cw <= w; }

struct Geometry {
  Stream stream;
  int64_t h, w;
  int xs;
  bool wide, merge;
};

Geometry geometry(const Plan& plan, const Node& node, int64_t images) {
  const Shape& y = plan.shape(node.out);
  const Buffer &bx = plan.buffer(node.in[0]), &by = plan.buffer(node.out);
  size_t total = plan.model().total_weights;
  Geometry g{{total > kCacheBytes ? 10.0 : total > kNearBytes / 2 ? 20.0 : 40.0, double(images)}, y.h, y.w, 0, false, false};
  g.wide = bx.flat && by.flat;
  if (g.wide) {
    g.w = images;
    g.stream.images = 1;
  }
  auto dense_rows = [](const Buffer& b) { return !b.flat && b.row == b.w * b.col; };
  const Window& win = node.win;
  g.merge = !g.wide && win.kh * win.kw == 1 && win.sh * win.sw == 1 && win.pt + win.pl + win.pb + win.pr == 0 &&
            dense_rows(bx) && dense_rows(by) && (!node.has_residual || dense_rows(plan.buffer(node.in[1])));
  if (g.merge) {
    g.w *= g.h;
    g.h = 1;
  }
  int col = bx.block_lanes * (g.wide ? 1 : win.sw);
  const Kernels& k = plan.kernels();
  for (size_t i = 0; i < k.n_tiles; i++)
    if (k.tiles[i].xs == col) g.xs = col;
  return g;
}

const TileInfo* best_tile(const Kernels& k, const Geometry& g, int nv, int group, double steps, double n_steps,
                          double bytes) {
  const TileInfo* best = nullptr;
  double least = 0;
  for (size_t i = 0; i < k.n_tiles; i++) {
    const TileInfo& t = k.tiles[i];
    if (t.nv != nv || t.g != group || t.xs != g.xs || !tile_fits(t, g.h, g.w)) continue;
    double c = sheet_cycles(t, g.h, g.w, steps, n_steps, bytes, g.stream);
    if (!best || c < least) {
      best = &t;
      least = c;
    }
  }
  return best;
}

// Every output block reads the whole input, every band of rows reads all weights: the order of the two loops that moves
// fewer bytes into the first-level cache.
int64_t choose_band(const Plan& plan, const Node& node, const Geometry& g, const Packed& packed, int ch) {
  const Buffer& x = plan.buffer(node.in[0]);
  double near = 24576, weights = double(packed.bytes()), units = double(packed.units.size());
  double row = double(x.row * x.blocks) * 4, all = row * double(x.h);
  if (g.wide || g.merge || weights > 262144 || all <= near) return 0;
  int64_t best = 0;
  double least = units * all + weights;
  for (int64_t r = ch; r < g.h && r <= 8 * ch; r += ch) {
    double seen = row * double(r * node.win.sh + (node.win.kh - 1) * node.win.dh), bands = double(g.h) / double(r);
    double bytes = bands * ((seen <= near ? seen : units * seen) + (weights + seen <= 40960 ? weights / bands : weights));
    if (bytes < least) {
      least = bytes;
      best = r;
    }
  }
  return best;
}

std::unique_ptr<TileConv> make_tile_conv(const Plan& plan, const Node& node, const Geometry& g, const TileInfo& main,
                                         std::shared_ptr<const Packed> packed) {
  auto e = std::make_unique<TileConv>();
  const Kernels& k = plan.kernels();
  e->node = &node;
  e->packed = packed;
  e->x = node.in[0];
  e->y = node.out;
  e->res = node.has_residual ? node.in[1] : -1;
  e->wide = g.wide;
  e->merge = g.merge;
  act_bounds(node.act, e->lo, e->hi);
  e->late_act = !act_is_clamp(node.act);
  e->slopes = act_slopes(plan, node);
  const Buffer& bx = plan.buffer(node.in[0]);
  for (const auto& walk : packed->walks) {
    int64_t from = int64_t(e->steps.size());
    for (const Walk& w : walk) {
      int64_t off = w.block * bx.blk + (w.position / node.win.kw) * node.win.dh * bx.row +
                    (w.position % node.win.kw) * node.win.dw * bx.col + w.lane;
      if (off > INT32_MAX) throw Error(PRECUT_ERR_SHAPE, node.name + ": an image is too large for 32-bit offsets");
      e->steps.push_back({int32_t(off), w.n});
    }
    e->step_range.emplace_back(from, int64_t(e->steps.size()));
  }
  e->cycles = 0;
  for (size_t u = 0; u < packed->units.size(); u++) {
    const Unit& unit = packed->units[u];
    if (e->block_units.empty() || packed->units[size_t(e->block_units.back().first)].block != unit.block)
      e->block_units.emplace_back(int(u), int(u) + 1);
    else e->block_units.back().second = int(u) + 1;
    auto range = e->step_range[size_t(unit.walk)];
    double steps = 0;
    for (const Walk& w : packed->walks[size_t(unit.walk)]) steps += w.n;
    double bytes = steps * unit.nv * packed->lanes * 4;
    if (!e->tile[unit.nv])
      e->tile[unit.nv] = unit.nv == main.nv ? &main
                                            : best_tile(k, g, unit.nv, main.g, steps, double(range.second - range.first), bytes);
    if (!e->tile[unit.nv]) return nullptr;
    e->max_ch = std::max(e->max_ch, e->tile[unit.nv]->ch);
    e->cycles += sheet_cycles(*e->tile[unit.nv], g.h, g.w, steps, double(range.second - range.first), bytes, g.stream);
  }
  if (g.wide) e->cycles /= double(g.w);
  e->band = choose_band(plan, node, g, *packed, e->max_ch);
  int64_t pixels = plan.shape(node.out).pixels();
  e->macs = kept_weights(plan.model().graph, node) * pixels;
  e->vector_macs = packed->vector_macs * pixels;
  e->weight_bytes = packed->bytes();
  e->kernel = main.name;
  return e;
}

}  // namespace

std::shared_ptr<const Packed> Model::get_packed(const Node& node, int group, int nv) {
  auto& slot = packed[{&node, group, nv}];
  if (auto p = slot.lock()) return p;
  size_t x = size_t(node.in[0]);
  auto p = std::make_shared<const Packed>(pack(graph, node, expand_weights(graph, node), orders.of[x],
                                               orders.of[size_t(node.out)], kernels->lanes, orders.is_planar[x], group, nv));
  slot = p;
  return p;
}

const char* forced_kernel() { return std::getenv("PRECUT_KERNEL"); }

std::vector<std::unique_ptr<Exec>> conv_candidates(const Plan& plan, const Node& node, int64_t images) {
  Model& model = plan.model();
  const Kernels& k = plan.kernels();
  Geometry g = geometry(plan, node, images);
  size_t x = size_t(node.in[0]);
  const Order &in = model.orders.of[x], &out = model.orders.of[size_t(node.out)];
  // Which groups of channels are worth trying: those that skip more of what is zero.
  std::vector<std::pair<int, int64_t>> groups;
  bool structured = (node.support >= 0 || node.groups > 1) && !model.orders.is_planar[x];
  {
    DenseRows dense = structured ? expand_weights(model.graph, node) : DenseRows();
    int64_t base = structured ? count_vector_macs(node, dense, in, out, k.lanes, false, 1, 1) : 0;
    groups.emplace_back(1, base);
    for (int group : model.groups) {
      if (group == 1 || !structured) continue;
      int64_t n = count_vector_macs(node, dense, in, out, k.lanes, false, group, 1);
      if (double(n) < 0.85 * double(base) || forced_kernel()) groups.emplace_back(group, n);
    }
  }
  std::vector<std::unique_ptr<Exec>> list;
  int64_t blocks = int64_t(out.size()) / k.lanes;
  struct Idea {
    const TileInfo* tile;
    double cycles;
  };
  std::vector<Idea> ideas;
  std::map<std::pair<int, int>, std::pair<double, double>> counted;  // (group, nv): steps and step records of all units
  for (auto [group, n] : groups) {
    for (size_t i = 0; i < k.n_tiles; i++) {
      const TileInfo& t = k.tiles[i];
      if (t.g != group || t.xs != g.xs || t.nv > blocks || !tile_fits(t, g.h, g.w)) continue;
      auto key = std::make_pair(group, t.nv);
      if (!counted.count(key)) {
        double vectors = double(n);
        if (structured && t.nv > 1)
          vectors = double(count_vector_macs(node, expand_weights(model.graph, node), in, out, k.lanes, false, group, t.nv));
        if (!structured) vectors = double(blocks * (node.in_channels / node.groups) * node.win.kh * node.win.kw);
        counted[key] = {vectors / t.nv, vectors / t.nv / 8};
      }
      auto [steps, records] = counted[key];
      double units = group > 1 ? double(blocks * group) : std::ceil(double(blocks) / t.nv);
      double per = steps / units;
      ideas.push_back({&t, units * sheet_cycles(t, g.h, g.w, per, records / units, per * t.nv * k.lanes * 4, g.stream)});
    }
  }
  std::sort(ideas.begin(), ideas.end(), [](const Idea& a, const Idea& b) { return a.cycles < b.cycles; });
  if (const char* forced = forced_kernel()) {
    auto it = std::find_if(ideas.begin(), ideas.end(), [&](const Idea& i) { return std::strstr(i.tile->name, forced); });
    if (it != ideas.end()) std::rotate(ideas.begin(), it, it + 1);
  }
  size_t wanted = model.autotune ? 5 : 1, taken = 0;
  for (const Idea& idea : ideas) {
    if (taken >= wanted || (!list.empty() && idea.cycles > 1.5 * ideas[0].cycles)) break;
    auto e = make_tile_conv(plan, node, g, *idea.tile, model.get_packed(node, idea.tile->g, idea.tile->nv));
    if (!e) continue;
    taken++;
    // Weights that lie beyond the second-level cache are fetched ahead where that pays: without tuning, where the whole
    // network's are too many for the third as well.
    bool far = model.total_weights > kNearBytes && e->weight_bytes > kNearBytes / 16;
    if (far && model.autotune) {
      for (auto how : {TileConv::Fetch::ahead, TileConv::Fetch::unit}) {
        auto copy = make_tile_conv(plan, node, g, *idea.tile, e->packed);
        copy->fetch_by(how);
        list.push_back(std::move(copy));
      }
    } else if (far && model.total_weights > kCacheBytes) {
      e->fetch_by(TileConv::Fetch::ahead);
    }
    list.push_back(std::move(e));
  }
  if (list.empty()) throw Error(PRECUT_ERR_INTERNAL, node.name + ": no tile fits");
  return list;
}

}  // namespace precut
