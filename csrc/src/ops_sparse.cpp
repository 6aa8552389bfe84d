// Unstructured supports (family C). Some rows of the output at a time: the input is copied into planes in which every
// kernel position is one contiguous run of positions, each output channel sums over the list of its weights, and the sums
// are brought back to blocks of channels.
#include <algorithm>
#include <cmath>

#include "model.h"

namespace precut {
namespace {

// What a plane holds of a channel.
enum class Copies {
  positions,  // a copy of what each kernel position sees: any stride
  columns,    // one for each kernel column; a kernel row is then a shift by rows, which stays aligned
  one,        // padded rows as they are: a kernel position is a shift. Smallest, but loads cross cache lines
};

struct SparseConv : Exec {
  Array<uint16_t> offs;
  Floats weights;
  std::vector<int32_t> first;  // (chunk of terms, lane of the output)
  std::vector<int64_t> base;   // of each chunk: what its offsets count from
  Floats bias, slopes;
  int lanes = 16, vectors = 4;
  int64_t in_blocks = 0, out_blocks = 0, rows = 1, copy_rows = 1, copy = 0, plane = 0, sums = 0, width = 0;
  int64_t pitch = 0;     // from one row of a copy, or of sums, to the next
  int64_t together = 1;  // images whose positions lie side by side: small maps, whole
  Copies copies = Copies::positions;
  bool wide = false;
  float lo = 0, hi = 0;
  bool late_act = false;

  int64_t planes_size() const { return in_blocks * lanes * plane; }
  size_t scratch() const override { return size_t(planes_size() + out_blocks * lanes * sums); }

  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    Place x = plan.place(node->in[0], r, wide), y = plan.place(node->out, r, wide), res;
    if (node->has_residual) res = plan.place(node->in[1], r, wide);
    int64_t bands = (y.h + rows - 1) / rows, total = (y.images + together - 1) / together * bands;
    // Few bands: the threads share the output channels, each with its own copy of the input.
    bool by_channel = total < parts;
    int64_t from = by_channel ? 0 : total * part / parts, to = by_channel ? total : total * (part + 1) / parts;
    int64_t b0 = by_channel ? out_blocks * part / parts : 0, b1 = by_channel ? out_blocks * (part + 1) / parts : out_blocks;
    float* sum = r.scratch + planes_size();
    for (int64_t at = from; at < to; at++) {
      int64_t i0 = at / bands * together, images = std::min(together, y.images - i0);
      int64_t row0 = at % bands * rows, n = std::min(rows, y.h - row0);
      expand(plan, x, i0, images, row0, n, r.scratch);
      multiply(plan, r.scratch, sum, b0, b1, (images * n - 1) * pitch + width);
      for (int64_t b = b0; b < b1; b++)
        for (int64_t k = 0; k < images * n; k++) {
          int64_t i = i0 + k / n, row = row0 + k % n;
          float* out = y.p + i * y.img + b * y.blk + row * y.row;
          const float* rr = node->has_residual ? res.p + i * res.img + b * res.blk + row * res.row : nullptr;
          plan.kernels().block({sum + b * lanes * sums + k * pitch, sums, width, bias.data() + b * lanes, out, rr, lo, hi});
          if (late_act) activate(plan, node->act, slopes.size() ? slopes.data() + b * lanes : nullptr, out, width);
        }
    }
  }

  // Planes of each channel: copies x images x rows x pitch.
  void expand(const Plan& plan, const Place& x, int64_t image, int64_t images, int64_t row0, int64_t n, float* planes) const {
    const Window& win = node->win;
    const std::vector<int32_t>& offs = n == rows ? offs_full : offs_last;
    for (int64_t b = 0; b < in_blocks; b++)
      for (int64_t kh = 0; kh < (copies == Copies::positions ? win.kh : 1); kh++)
        for (int64_t kw = 0; kw < (copies == Copies::one ? 1 : win.kw); kw++)
          for (int64_t i = 0; i < images; i++)  // in this order: whole vectors are written, the next image begins within
            plan.kernels().lift({x.p + (image + i) * x.img + b * x.blk + (row0 * win.sh + kh * win.dh - win.pt) * x.row +
                                     (kw * win.dw - win.pl) * x.col,
                                 offs.data(), int64_t(offs.size()),
                                 planes + b * lanes * plane + (kh * win.kw + kw) * copy + i * n * pitch, plane});
  }

  // Where the positions of `n` rows of the output lie in the input; filled up to whole vectors with the last one.
  std::vector<int32_t> offsets(const Place& x, int64_t n) const {
    const Window& win = node->win;
    std::vector<int32_t> list;
    for (int64_t k = 0; k < n + (copies == Copies::positions ? 0 : (win.kh - 1) * win.dh); k++)
      for (int64_t c = 0; c < pitch; c++) list.push_back(int32_t(k * win.sh * x.row + c * (wide ? 1 : win.sw) * x.col));
    while (list.size() % size_t(lanes)) list.push_back(list.back());
    return list;
  }
  std::vector<int32_t> offs_full, offs_last;

  void multiply(const Plan& plan, const float* planes, float* sum, int64_t b0, int64_t b1, int64_t positions) const {
    const Kernels& k = plan.kernels();
    int64_t total = (positions + lanes - 1) / lanes, all = out_blocks * lanes, from = b0 * lanes;
    for (int64_t v = 0; v < total;) {
      int take = int(std::min<int64_t>(total - v, vectors));
      for (size_t c = 0; c < base.size(); c++)
        k.sparse[take]({planes + base[c] + v * lanes, offs.data(), weights.data(), first.data() + int64_t(c) * all + from,
                        (b1 - b0) * lanes, sum + from * sums + v * lanes, sums, c > 0});
      v += take;
    }
  }
};

}  // namespace

std::unique_ptr<Exec> make_sparse(const Plan& plan, const Node& n, int64_t images, const SparseKind& kind) {
  const auto [name, vectors, near, shift] = kind;
  auto e = std::make_unique<SparseConv>();
  const Order &in = plan.order(n.in[0]), &out = plan.order(n.out);
  const Kernels& k = plan.kernels();
  const Window& win = n.win;
  e->node = &n;
  int lanes = e->lanes = k.lanes;
  e->in_blocks = int64_t(in.size()) / lanes;
  e->out_blocks = int64_t(out.size()) / lanes;
  e->wide = plan.buffer(n.in[0]).flat && plan.buffer(n.out).flat;
  const Shape& y = plan.shape(n.out);
  int64_t h = y.h, w = e->width = e->wide ? plan.buffer(n.out).blk / lanes : y.w;
  // Moving a row up or down keeps runs aligned only where rows are whole vectors.
  if (shift) e->copies = Copies::one;
  else if (win.sh == 1 && w % lanes == 0) e->copies = Copies::columns;
  const bool by_row = e->copies != Copies::positions;
  e->pitch = shift ? w + int64_t(win.kw - 1) * win.dw : w;
  const int64_t copies = shift ? 1 : by_row ? win.kw : win.kh * win.kw;
  // Rows at a time: planes, sums, input and output should stay in the second-level cache together.
  auto size = [&](int64_t rows) {
    e->rows = rows;
    e->copy_rows = by_row ? rows + (win.kh - 1) * win.dh : rows;
    e->copy = (e->together * e->copy_rows * e->pitch + lanes - 1) / lanes * lanes;
    // One vector more: planes should not all begin on the same cache set, and the last vector of a shift ends beyond.
    e->plane = e->copy * copies + lanes;
    return e->plane * int64_t(in.size()) * 4;
  };
  // Maps of fewer positions than are taken at a time: several images.
  if (!by_row && !e->wide) e->together = std::min(images, std::max<int64_t>(1, lanes * vectors / (h * w)));
  int64_t rows = 1;
  while (rows < h && (rows * w < lanes * vectors || size(rows + 1) < 200000)) rows++;
  int64_t even = (h + rows - 1) / rows;
  size((h + even - 1) / even);
  int64_t positions = (e->together * e->rows - 1) * e->pitch + w, groups = (positions + lanes - 1) / lanes;
  if (near && vectors > (shift ? 4 : 2) && groups <= vectors / 2 && !forced_kernel()) return nullptr;
  e->vectors = int(std::min<int64_t>(vectors, groups));
  e->sums = groups * lanes + lanes;
  // Input channels at a time: as many as the first-level cache holds of what is read of them, and 16-bit offsets reach.
  const int64_t row_step = by_row ? win.dh * e->pitch : win.kw * e->copy, column_step = shift ? win.dw : e->copy;
  int64_t seen = (shift ? e->pitch - w : 0) + e->vectors * lanes + (by_row ? (win.kh - 1) * row_step : 0);
  seen *= copies * 4;
  int64_t channels = std::min(near ? std::max<int64_t>(4, 24576 / seen) : int64_t(in.size()), kTapReach / e->plane);
  int64_t area = win.kh * win.kw, terms = int64_t(in.size()) * area;  // of an output channel: (input channel, position)
  int64_t chunk = 1;  // terms; one at a time where not even one plane is within reach
  if (channels) {
    int64_t chunks = (int64_t(in.size()) + channels - 1) / channels;
    chunk = (int64_t(in.size()) + chunks - 1) / chunks * area;
  }
  auto at_plane = [&](int64_t channel, int64_t p) {
    return channel * e->plane + p / win.kw * row_step + p % win.kw * column_step;
  };
  for (int64_t t = 0; t < terms; t += chunk) e->base.push_back(at_plane(t / area, t % area));

  {
    const Buffer& b = plan.buffer(n.in[0]);
    Place x;
    x.row = b.row;
    x.col = b.col;
    if (e->rows * win.sh * b.row > INT32_MAX) throw Error(PRECUT_ERR_SHAPE, n.name + ": an image is too large for 32-bit offsets");
    e->offs_full = e->offsets(x, e->rows);
    e->offs_last = e->offsets(x, h - (h - 1) / e->rows * e->rows);
  }
  const Graph& g = plan.model().graph;
  DenseRows d = expand_weights(g, n);
  e->bias = Floats(out.size());
  // Twice over the same lists: to count, and to fill.
  int64_t kept = 0;
  for (bool fill : {false, true}) {
    size_t at = 0;
    e->first.assign(1, 0);
    for (size_t c = 0; c < e->base.size(); c++)
      for (size_t j = 0; j < out.size(); j++) {
        const int64_t end = out[j] < 0 ? 0 : std::min(terms, (int64_t(c) + 1) * chunk);
        for (int64_t t = int64_t(c) * chunk, i = t / area, p = t % area; t < end; t++) {
          const int64_t weight = in[size_t(i)] * area + p;
          if (weight >= 0 && d.keep_row(out[j])[weight]) {
            if (fill) {
              e->offs[at] = uint16_t(at_plane(i, p) - e->base[c]);
              e->weights[at] = d.row(out[j])[weight];
            }
            at++;
          }
          if (++p == area) i++, p = 0;
        }
        if (at > INT32_MAX) throw Error(PRECUT_ERR_SHAPE, n.name + ": too many weights");
        e->first.push_back(int32_t(at));
      }
    if (fill) continue;
    kept = int64_t(at);
    e->offs = Array<uint16_t>(at);
    e->weights = Floats(at);
  }
  for (size_t j = 0; j < out.size(); j++)
    if (n.bias >= 0 && out[j] >= 0) e->bias.data()[j] = g.tensors[size_t(n.bias)].floats()[out[j]];
  act_bounds(n.act, e->lo, e->hi);
  e->late_act = !act_is_clamp(n.act);
  e->slopes = act_slopes(plan, n);
  e->kernel = std::string("f32_conv_unstructured_") + name + "_" + k.isa;
  e->macs = kept * y.pixels();
  double bands = double((h + e->rows - 1) / e->rows) / double(e->together);  // an image
  e->vector_macs = int64_t(double(kept) * double(groups) * bands);
  e->weight_bytes = e->offs.size() * 2 + e->weights.size() * 4 + e->first.size() * 4 + out.size() * 4;
  double copied = double(in.size() / size_t(lanes)) * double(e->together * e->copy_rows) * double(e->pitch) * double(copies) * 5.0;
  double per = (near ? 0.75 : 1.1) + (shift && win.kw > 1 ? 0.15 : 0.0);  // cycles of a vector, from L1 or L2
  double calls = double(e->base.size()) * std::ceil(double(groups) / e->vectors);
  e->cycles = bands * (double(kept) * (double(groups) * per + std::ceil(double(groups) / e->vectors)) + copied +
                       double(out.size()) * (calls * 14 + double(groups) * 4));
  if (e->wide) e->cycles /= double(w);
  return e;
}

}  // namespace precut
