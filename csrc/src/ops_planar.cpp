// Class tables with classes of a vector or less (family B). Bands of rows are copied to planes, output channels of one
// class share their list of steps, and the sums are brought back to blocks of channels.
#include <algorithm>
#include <cmath>

#include "model.h"

namespace precut {
namespace {

struct PlanarConv : Exec {
  const PlanarInfo* tile = nullptr;
  Floats w, bias, slopes;
  std::vector<int32_t> steps, offs;
  std::vector<int64_t> first;   // of each unit's steps, and one past the end
  int lanes = 16;
  int64_t in_blocks = 0, out_blocks = 0, rows = 1, pitch = 0, plane = 0;
  float lo = 0, hi = 0;
  bool late_act = false;

  int64_t planes_size() const { return in_blocks * lanes * plane + 4 * lanes; }
  int64_t tile_columns() const { return int64_t(tile->vw) * lanes; }
  int64_t tile_size() const { return tile->vh * tile_columns(); }
  size_t scratch() const override { return size_t(planes_size() + out_blocks * lanes * tile_size()); }

  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    Place x = plan.place(node->in[0], r, false), y = plan.place(node->out, r, false), res;
    if (node->has_residual) res = plan.place(node->in[1], r, false);
    const Kernels& k = plan.kernels();
    int64_t bands = (y.h + rows - 1) / rows, total = y.images * bands;
    float* sum = r.scratch + planes_size();
    for (int64_t at = total * part / parts; at < total * (part + 1) / parts; at++) {
      int64_t i = at / bands, row0 = at % bands * rows, n = std::min(rows, y.h - row0);
      for (int64_t b = 0; b < in_blocks; b++) lift(k, x, i, b, row0, n, r.scratch);
      for (int64_t row = 0; row < n; row += tile->vh) {
        int64_t from = std::max<int64_t>(0, std::min(row, n - tile->vh));
        for (int64_t c = 0; c < y.w; c += tile_columns()) {
          multiply(r.scratch + from * pitch + c, sum);
          finish(plan, y, res, i, row0 + from, c, sum);
        }
      }
    }
  }

  // The sums of one tile of all channels, while they are in the first-level cache, to blocks of channels.
  void finish(const Plan& plan, const Place& y, const Place& res, int64_t image, int64_t row0, int64_t column, const float* sum) const {
    for (int64_t b = 0; b < out_blocks; b++)
      for (int64_t row = 0; row < tile->vh; row++) {
        float* out = y.p + image * y.img + b * y.blk + (row0 + row) * y.row + column * lanes;
        const float* rr =
            node->has_residual ? res.p + image * res.img + b * res.blk + (row0 + row) * res.row + column * lanes : nullptr;
        plan.kernels().block({sum + b * lanes * tile_size() + row * tile_columns(), tile_size(), tile_columns(),
                              bias.data() + b * lanes, out, rr, lo, hi});
        if (late_act) activate(plan, node->act, slopes.size() ? slopes.data() + b * lanes : nullptr, out, tile_columns());
      }
  }

  void lift(const Kernels& k, const Place& x, int64_t image, int64_t b, int64_t row0, int64_t n, float* planes) const {
    const Window& win = node->win;
    int64_t need = n + (win.kh - 1) * win.dh;
    for (int64_t row = 0; row < need; row++)
      k.lift({x.p + image * x.img + b * x.blk + (row0 + row - win.pt) * x.row - win.pl * x.col, offs.data(),
              int64_t(offs.size()), planes + b * lanes * plane + row * pitch, plane});
  }

  void multiply(const float* x, float* sum) const {
    PlanarArgs a{x, pitch, nullptr, 0, nullptr, nullptr, tile_size(), tile_columns()};
    for (size_t u = 0; u + 1 < first.size(); u++) {
      a.steps = steps.data() + first[u];
      a.n_steps = first[u + 1] - first[u];
      a.w = w.data() + first[u] * tile->co;
      a.y = sum + int64_t(u) * tile->co * tile_size();
      tile->fn(a);
    }
  }
};

// Cycles of one step of a tile: two multiply-adds and two loads a cycle (at two of three kernel columns the columns' vectors
// lie across cache lines, as often as they are long), and four cycles of latency to hide.
double step_cycles(const PlanarInfo& t, int lanes) {
  double vectors = double(t.vh * t.vw), loads = vectors * (1 + lanes / 24.0) + t.co;
  return std::max({vectors * t.co / 2, loads / 2, 4.0}) + 0.5;
}

int64_t tiles_of(const PlanarInfo& t, const Shape& y, int lanes) {
  return (y.h + t.vh - 1) / t.vh * (y.w / (t.vw * lanes));
}

// Rows of a band: about eight, a whole number of tiles, and none left over that is smaller than a tile.
int64_t rows_of(const PlanarInfo& t, int64_t h) {
  int64_t bands = (h + 7) / 8, rows = (h + bands - 1) / bands;
  rows = (rows + t.vh - 1) / t.vh * t.vh;
  return rows > h || (h % rows && h % rows < t.vh) ? h : rows;
}

std::unique_ptr<Exec> make_planar(const Plan& plan, const Node& n, const PlanarInfo& tile) {
  const Kernels& k = plan.kernels();
  const Shape& y = plan.shape(n.out);
  const Window& win = n.win;
  const Order &in = plan.order(n.in[0]), &out = plan.order(n.out);
  int lanes = k.lanes;
  auto e = std::make_unique<PlanarConv>();
  e->node = &n;
  e->tile = &tile;
  e->lanes = lanes;
  e->in_blocks = int64_t(in.size()) / lanes;
  e->out_blocks = int64_t(out.size()) / lanes;
  // A row of a plane holds its halo; one more vector is written where the row ends within one.
  int64_t seen = y.w + (win.kw - 1) * win.dw;
  e->pitch = (seen + lanes - 1) / lanes * lanes;
  e->rows = rows_of(tile, y.h);
  e->plane = (e->rows + (win.kh - 1) * win.dh) * e->pitch + lanes;
  const Buffer& b = plan.buffer(n.in[0]);
  for (int64_t c = 0; c < e->pitch; c++) e->offs.push_back(int32_t(std::min(c, seen - 1) * b.col));
  if (int64_t(in.size()) * e->plane > INT32_MAX) return nullptr;

  DenseRows d = expand_weights(plan.model().graph, n);
  int64_t kept = 0;
  std::vector<float> weights;
  e->first.push_back(0);
  for (size_t o = 0; o < out.size(); o += size_t(tile.co)) {
    for (size_t c = 0; c < in.size(); c++)
      for (int64_t p = 0; in[c] >= 0 && p < d.area; p++) {
        int64_t at = in[c] * d.area + p;
        bool any = false;
        for (size_t j = o; j < o + size_t(tile.co); j++) any |= out[j] >= 0 && d.keep_row(out[j])[at];
        if (!any) continue;
        e->steps.push_back(int32_t(int64_t(c) * e->plane + p / win.kw * win.dh * e->pitch + p % win.kw * win.dw));
        for (size_t j = o; j < o + size_t(tile.co); j++) {
          bool has = out[j] >= 0 && d.keep_row(out[j])[at];
          weights.push_back(has ? d.row(out[j])[at] : 0.0f);
          kept += has;
        }
      }
    e->first.push_back(int64_t(e->steps.size()));
  }
  e->w = Floats(weights.size());
  std::copy(weights.begin(), weights.end(), e->w.data());
  e->bias = Floats(out.size());
  for (size_t j = 0; j < out.size(); j++)
    if (n.bias >= 0 && out[j] >= 0) e->bias.data()[j] = plan.model().graph.tensors[size_t(n.bias)].floats()[out[j]];
  act_bounds(n.act, e->lo, e->hi);
  e->late_act = !act_is_clamp(n.act);
  e->slopes = act_slopes(plan, n);
  e->kernel = tile.name;
  e->macs = kept * y.pixels();
  e->vector_macs = int64_t(e->steps.size()) * tile.co * y.pixels() / lanes;
  e->weight_bytes = (e->w.size() + e->steps.size() + out.size()) * 4;
  double moved = double(in.size()) * double(e->pitch * y.h) * double(e->rows + 2) / double(e->rows) + double(out.size() * size_t(y.pixels()));
  e->cycles = double(tiles_of(tile, y, lanes)) * (double(e->steps.size()) * step_cycles(tile, lanes) + double(e->first.size()) * 25) + moved / lanes * 6;
  return e;
}

}  // namespace

std::vector<std::unique_ptr<Exec>> planar_candidates(const Plan& plan, const Node& n) {
  const Kernels& k = plan.kernels();
  const Shape& y = plan.shape(n.out);
  std::vector<std::unique_ptr<Exec>> list;
  if (n.op != Op::conv2d || n.support < 0 || n.groups != 1 || n.win.sh * n.win.sw != 1 || y.w % k.lanes) return list;
  const Support& s = plan.model().graph.supports[size_t(n.support)];
  int64_t per_class = n.out_channels / s.p_out;
  if (s.kind != Support::class_table || s.align != 1 || per_class > k.lanes) return list;
  std::vector<std::pair<double, const PlanarInfo*>> fitting;  // cycles of all channels, were there one step each
  for (size_t i = 0; i < k.n_planar; i++) {
    const PlanarInfo& t = k.planar[i];
    if (forced_kernel() && !std::strstr(t.name, forced_kernel())) continue;
    if (t.co <= per_class && t.vh <= y.h && y.w % (t.vw * k.lanes) == 0)
      fitting.emplace_back(double(tiles_of(t, y, k.lanes)) * step_cycles(t, k.lanes) / t.co, &t);
  }
  std::sort(fitting.begin(), fitting.end());  // of equal ones the first of the table
  for (size_t i = 0; i < fitting.size() && i < (plan.model().autotune ? 2 : 1); i++)
    if (auto e = make_planar(plan, n, *fitting[i].second)) list.push_back(std::move(e));
  return list;
}

}  // namespace precut
