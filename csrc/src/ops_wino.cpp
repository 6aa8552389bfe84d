// Winograd F(4x4, 3x3) for stride 1: 2.25 multiply-adds for each output and input channel instead of the kernel's count.
#include <algorithm>
#include <cmath>

#include "model.h"

namespace precut {

bool wino_fits(const Node& n, const Shape& x, const Shape& y) {
  const Window& w = n.win;
  if (n.op != Op::conv2d || n.groups != 1 || w.kh != 3 || w.kw != 3 || w.sh * w.sw * w.dh * w.dw != 1) return false;
  if (x.c < 16 || y.c < 16 || y.h < 8 || y.w < 8) return false;
  double padded = double((y.h + 3) / 4 * 4) * double((y.w + 3) / 4 * 4);
  return padded <= 1.4 * double(y.pixels());
}

namespace {

constexpr double kG[6][3] = {{1 / 4., 0, 0},           {-1 / 6., -1 / 6., -1 / 6.}, {-1 / 6., 1 / 6., -1 / 6.},
                             {1 / 24., 1 / 12., 1 / 6.}, {1 / 24., -1 / 12., 1 / 6.}, {0, 0, 1}};

struct Wino : Exec {
  Floats w, bias, slopes;  // w: (36, unit, input channel, vectors of the unit)
  std::vector<int> unit_nv;
  const TileInfo* tile[5] = {};
  int nv = 1, lanes = 16;
  int64_t in_blocks = 0, out_blocks = 0, tiles_h = 0, tiles_w = 0, chunk_rows = 1;
  float lo = 0, hi = 0;
  bool late_act = false;
  std::vector<Step> steps;

  size_t chunk_tiles() const { return size_t(chunk_rows * tiles_w); }
  // One cache line more than the data, so that the 36 points of a tile do not all fall on the same cache sets.
  int64_t point(int64_t blocks) const { return blocks * int64_t(chunk_tiles()) * lanes + 16; }
  size_t scratch() const override { return 36 * size_t(point(in_blocks) + point(out_blocks)) + 64; }

  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    Place x = plan.place(node->in[0], r, false), y = plan.place(node->out, r, false), res;
    if (node->has_residual) res = plan.place(node->in[1], r, false);
    int64_t chunks = (tiles_h + chunk_rows - 1) / chunk_rows, total = y.images * chunks;
    const Kernels& k = plan.kernels();
    const Window& win = node->win;
    for (int64_t at = total * part / parts; at < total * (part + 1) / parts; at++) {
      int64_t i = at / chunks, row0 = at % chunks * chunk_rows, rows = std::min(chunk_rows, tiles_h - row0);
      int64_t tiles = int64_t(chunk_tiles());
      float* v = r.scratch;
      float* m = v + 36 * point(in_blocks);
      for (int64_t b = 0; b < in_blocks; b++)
        for (int64_t t = 0; t < rows; t++)
          k.wino_in({x.p + i * x.img + b * x.blk + ((row0 + t) * 4 - win.pt) * x.row - win.pl * x.col, x.row,
                     v + (b * tiles + t * tiles_w) * lanes, point(in_blocks), tiles_w});
      products(v, m, rows * tiles_w, tiles);
      for (int64_t b = 0; b < out_blocks; b++)
        for (int64_t t = 0; t < rows; t++) {
          int64_t row = (row0 + t) * 4;
          float* out = y.p + i * y.img + b * y.blk + row * y.row;
          int n = int(std::min<int64_t>(4, y.h - row));
          k.wino_out({m + (b * tiles + t * tiles_w) * lanes, point(out_blocks), bias.data() + b * lanes, out, y.row,
                      node->has_residual ? res.p + i * res.img + b * res.blk + row * res.row : nullptr, res.row, tiles_w, n,
                      int(y.w - (tiles_w - 1) * 4), lo, hi});
          for (int j = 0; late_act && j < n; j++)
            activate(plan, node->act, slopes.size() ? slopes.data() + b * lanes : nullptr, out + j * y.row, y.w);
        }
    }
  }

  void products(const float* v, float* m, int64_t count, int64_t tiles) const {
    const float* weights = w.data();
    TileArgs a{};
    a.steps = steps.data();
    a.n_steps = int64_t(steps.size());
    a.y_blk = tiles * lanes;
    a.lo = -INFINITY;
    a.hi = INFINITY;
    a.bias = kZeros;
    for (int p = 0; p < 36; p++) {
      int64_t block = 0;
      for (int n : unit_nv) {
        const TileInfo& t = *tile[n];
        a.w = weights;
        for (int64_t c = 0; c < count; c += t.cw) {
          int64_t at = std::max<int64_t>(0, std::min(c, count - t.cw));
          a.x = v + p * point(in_blocks) + at * lanes;
          a.y = m + p * point(out_blocks) + (block * tiles + at) * lanes;
          t.fn(a);
        }
        weights += in_blocks * lanes * n * lanes;
        block += n;
      }
    }
  }
};

}  // namespace

std::unique_ptr<Exec> make_wino(const Plan& plan, const Node& n) {
  auto e = std::make_unique<Wino>();
  const Order &in = plan.order(n.in[0]), &out = plan.order(n.out);
  const Kernels& k = plan.kernels();
  const Shape& y = plan.shape(n.out);
  int lanes = e->lanes = k.lanes;
  e->node = &n;
  e->in_blocks = int64_t(in.size()) / lanes;
  e->out_blocks = int64_t(out.size()) / lanes;
  e->tiles_h = (y.h + 3) / 4;
  e->tiles_w = (y.w + 3) / 4;
  // As many rows of tiles as keep the transformed input and output in half of a second-level cache, and at least a tile's columns.
  while (e->chunk_rows < e->tiles_h && (e->chunk_tiles() < 8 || e->scratch() * 4 <= 600000)) e->chunk_rows++;
  int64_t count = int64_t(e->chunk_tiles());
  auto find = [&](int nv) {
    const TileInfo* best = nullptr;
    for (size_t i = 0; i < k.n_tiles; i++) {
      const TileInfo& t = k.tiles[i];
      if (t.ch != 1 || t.nv != nv || t.g != 1 || t.xs != lanes || t.cw > count) continue;
      // The last chunk may have fewer tiles than a tile has columns: it then reads and writes what lies beyond, inside
      // the chunk's own scratch, which is why cw may not exceed the chunk.
      double waste = double((count + t.cw - 1) / t.cw * t.cw) * std::max(t.cw * nv / 2.0, (t.cw + nv) / 2.0) / t.cw;
      if (!best) best = &t;
      else {
        double old = double((count + best->cw - 1) / best->cw * best->cw) *
                     std::max(best->cw * nv / 2.0, (best->cw + nv) / 2.0) / best->cw;
        if (waste < old * 0.999 || (waste < old * 1.001 && t.cw > best->cw && t.cw * nv <= 16)) best = &t;
      }
    }
    return best;
  };
  e->nv = lanes == 4 ? 4 : 2;
  for (int64_t b = 0; b < e->out_blocks;) {
    int take = e->nv;
    while (take > e->out_blocks - b || !find(take)) take /= 2;
    e->unit_nv.push_back(take);
    e->tile[take] = find(take);
    b += take;
  }
  for (int64_t b = 0; b < e->in_blocks; b++) e->steps.push_back({int32_t(b * count * lanes), lanes});
  act_bounds(n.act, e->lo, e->hi);
  e->late_act = !act_is_clamp(n.act);
  e->slopes = act_slopes(plan, n);
  const Graph& g = plan.model().graph;
  DenseRows d = expand_weights(g, n);
  e->w = Floats(36 * in.size() * out.size());
  e->bias = Floats(out.size());
  for (size_t j = 0; j < out.size(); j++)
    if (n.bias >= 0 && out[j] >= 0) e->bias.data()[j] = g.tensors[size_t(n.bias)].floats()[out[j]];
  size_t block0 = 0, at = 0;
  for (int nv : e->unit_nv) {
    size_t width = size_t(nv * lanes), first = block0 * size_t(lanes);
    for (size_t c = 0; c < in.size(); c++)
      for (size_t j = 0; j < width; j++) {
        int32_t o = out[first + j], i = in[c];
        if (o < 0 || i < 0) continue;
        const float* q = d.row(o) + i * 9;
        double t[6][3];
        for (int r = 0; r < 6; r++)
          for (int s = 0; s < 3; s++) t[r][s] = kG[r][0] * q[s] + kG[r][1] * q[3 + s] + kG[r][2] * q[6 + s];
        for (int p = 0; p < 36; p++) {
          const double* row = t[p / 6];
          const double* gg = kG[p % 6];
          e->w.data()[size_t(p) * in.size() * out.size() + at + c * width + j] =
              float(row[0] * gg[0] + row[1] * gg[1] + row[2] * gg[2]);
        }
      }
    at += in.size() * width;
    block0 += size_t(nv);
  }
  e->weight_bytes = (e->w.size() + e->bias.size()) * 4;
  e->kernel = std::string("f32_conv_winograd_4x4_") + k.isa;
  e->macs = kept_weights(g, n) * y.pixels();
  e->vector_macs = 36 * e->tiles_h * e->tiles_w * int64_t(in.size()) * e->out_blocks;
  double transforms = double(e->tiles_h * e->tiles_w) * double(e->in_blocks * 110 + e->out_blocks * 80);
  size_t total = plan.model().total_weights;
  double rate = total > kCacheBytes ? 10 : total > (1u << 20) ? 20 : 40;
  double stream = double(e->w.size()) * 4 / rate + double(e->w.size()) * 4 / 40 * std::ceil(double(e->tiles_h) / double(e->chunk_rows));
  e->cycles = std::max(double(e->vector_macs) * 0.6, stream) + transforms;
  return e;
}

}  // namespace precut
