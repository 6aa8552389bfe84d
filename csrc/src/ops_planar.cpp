// Class tables with classes smaller than a vector (family B). Bands of rows are copied to planes, output channels of one
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
  int64_t in_blocks = 0, out_blocks = 0, rows = 1, pitch = 0, plane = 0, sums = 0;
  float lo = 0, hi = 0;
  bool late_act = false;

  int64_t planes_size() const { return in_blocks * lanes * plane + 4 * lanes; }
  size_t scratch() const override { return size_t(planes_size() + out_blocks * lanes * sums); }

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
        for (int64_t c = 0; c < y.w; c += tile->vw * lanes) multiply(r.scratch + from * pitch + c, sum + from * y.w + c, y.w);
      }
      for (int64_t b = 0; b < out_blocks; b++)
        for (int64_t row = 0; row < n; row++) {
          float* out = y.p + i * y.img + b * y.blk + (row0 + row) * y.row;
          const float* rr = node->has_residual ? res.p + i * res.img + b * res.blk + (row0 + row) * res.row : nullptr;
          k.block({sum + b * lanes * sums + row * y.w, sums, y.w, bias.data() + b * lanes, out, rr, lo, hi});
          if (late_act) activate(plan, node->act, slopes.size() ? slopes.data() + b * lanes : nullptr, out, y.w);
        }
    }
  }

  void lift(const Kernels& k, const Place& x, int64_t image, int64_t b, int64_t row0, int64_t n, float* planes) const {
    const Window& win = node->win;
    int64_t need = n + (win.kh - 1) * win.dh;
    for (int64_t row = 0; row < need; row++)
      k.lift({x.p + image * x.img + b * x.blk + (row0 + row - win.pt) * x.row - win.pl * x.col, offs.data(),
              int64_t(offs.size()), planes + b * lanes * plane + row * pitch, plane});
  }

  void multiply(const float* x, float* y, int64_t width) const {
    PlanarArgs a{x, pitch, nullptr, 0, nullptr, nullptr, sums, width};
    for (size_t u = 0; u + 1 < first.size(); u++) {
      a.steps = steps.data() + first[u];
      a.n_steps = first[u + 1] - first[u];
      a.w = w.data() + first[u] * tile->co;
      a.y = y + int64_t(u) * tile->co * sums;
      tile->fn(a);
    }
  }
};

}  // namespace

std::unique_ptr<Exec> make_planar(const Plan& plan, const Node& n) {
  const Kernels& k = plan.kernels();
  const Shape& y = plan.shape(n.out);
  const Window& win = n.win;
  const Order &in = plan.order(n.in[0]), &out = plan.order(n.out);
  int lanes = k.lanes;
  if (n.op != Op::conv2d || n.support < 0 || n.groups != 1 || win.sh * win.sw != 1 || y.w % lanes) return nullptr;
  const Support& s = plan.model().graph.supports[size_t(n.support)];
  int64_t per_class = n.out_channels / s.p_out;
  if (s.kind != Support::class_table || s.align != 1 || per_class >= lanes) return nullptr;
  // The largest tile (or the forced one) whose channels fit a class and whose rows and columns fit the map.
  const PlanarInfo* tile = nullptr;
  auto size = [](const PlanarInfo& t) { return t.co * t.vh * t.vw * 100 + t.co * 10 + t.vw; };
  for (size_t i = 0; i < k.n_planar; i++) {
    const PlanarInfo& t = k.planar[i];
    if (forced_kernel() && !std::strstr(t.name, forced_kernel())) continue;
    if (t.co <= per_class && t.vh <= y.h && y.w % (t.vw * lanes) == 0 && (!tile || size(t) > size(*tile))) tile = &t;
  }
  if (!tile) return nullptr;
  auto e = std::make_unique<PlanarConv>();
  e->node = &n;
  e->tile = tile;
  e->lanes = lanes;
  e->in_blocks = int64_t(in.size()) / lanes;
  e->out_blocks = int64_t(out.size()) / lanes;
  // A row of a plane holds its halo; one more vector is written where the row ends within one.
  int64_t seen = y.w + (win.kw - 1) * win.dw;
  e->pitch = (seen + lanes - 1) / lanes * lanes;
  int64_t rows = std::min<int64_t>(y.h, 8);
  e->rows = (y.h + (y.h + rows - 1) / rows - 1) / ((y.h + rows - 1) / rows);
  if (e->rows < tile->vh || (y.h % e->rows && y.h % e->rows < tile->vh)) e->rows = y.h;
  e->plane = (e->rows + (win.kh - 1) * win.dh) * e->pitch + lanes;
  e->sums = e->rows * y.w + lanes;
  const Buffer& b = plan.buffer(n.in[0]);
  for (int64_t c = 0; c < e->pitch; c++) e->offs.push_back(int32_t(std::min(c, seen - 1) * b.col));
  if (int64_t(in.size()) * e->plane > INT32_MAX) return nullptr;

  DenseRows d = expand_weights(plan.model().graph, n);
  int64_t kept = 0;
  std::vector<float> weights;
  e->first.push_back(0);
  for (size_t o = 0; o < out.size(); o += size_t(tile->co)) {
    for (size_t c = 0; c < in.size(); c++)
      for (int64_t p = 0; in[c] >= 0 && p < d.area; p++) {
        int64_t at = in[c] * d.area + p;
        bool any = false;
        for (size_t j = o; j < o + size_t(tile->co); j++) any |= out[j] >= 0 && d.keep_row(out[j])[at];
        if (!any) continue;
        e->steps.push_back(int32_t(int64_t(c) * e->plane + p / win.kw * win.dh * e->pitch + p % win.kw * win.dw));
        for (size_t j = o; j < o + size_t(tile->co); j++) {
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
  e->kernel = tile->name;
  e->macs = kept * y.pixels();
  e->vector_macs = int64_t(e->steps.size()) * tile->co * y.pixels() / lanes;
  e->weight_bytes = (e->w.size() + e->steps.size() + out.size()) * 4;
  double tiles = std::ceil(double(y.h) / tile->vh) * double(y.w / (tile->vw * lanes));
  double vectors = double(tile->vh * tile->vw), fmas = vectors * tile->co;
  double step = std::max({fmas / 2, (vectors * 1.7 + tile->co) / 2, 4.0}) + 0.5;
  double moved = double(in.size()) * double(e->pitch * y.h) * double(e->rows + 2) / double(e->rows) + double(out.size() * size_t(y.pixels()));
  e->cycles = tiles * (double(e->steps.size()) * step + double(e->first.size()) * 25) + moved / lanes * 6;
  return e;
}

}  // namespace precut
