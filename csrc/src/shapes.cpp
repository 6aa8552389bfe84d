// Shapes of all values, and the weights of a layer in dense form.
#include <cstring>

#include "graph.h"

namespace precut {

const char* op_name(Op op) {
  static const char* names[] = {"?",    "conv2d", "linear", "max_pool", "avg_pool",   "adaptive_avg_pool", "add",
                                "mul",  "cat",    "gather", "flatten",  "activation", "affine",            "softmax",
                                "pad",  "adaptive_max_pool"};
  return names[uint32_t(op)];
}

const char* act_name(Act act) {
  static const char* names[] = {"none",    "relu", "relu6",     "leaky_relu", "prelu", "silu", "hardswish", "hardsigmoid",
                                "sigmoid", "gelu", "gelu_tanh", "tanh",       "clip",  "elu"};
  return names[uint32_t(act)];
}

std::string Shape::text() const {
  std::string s = "(" + std::to_string(n) + ", " + std::to_string(c);
  if (rank == 4) s += ", " + std::to_string(h) + ", " + std::to_string(w);
  return s + ")";
}

namespace {

constexpr int64_t kMaxElements = int64_t(1) << 33;

[[noreturn]] void bad(const Node& n, const std::string& what) {
  throw Error(PRECUT_ERR_SHAPE, n.name + " (" + op_name(n.op) + "): " + what);
}

int64_t windowed(const Node& n, int64_t in, int k, int s, int before, int after, int d, bool ceil_mode) {
  int64_t span = int64_t(k - 1) * d + 1, room = in + before + after - span;
  if (room < 0)
    bad(n, "a window of " + std::to_string(span) + " does not fit an input of " + std::to_string(in) + " with padding " +
               std::to_string(before) + " and " + std::to_string(after));
  int64_t out = (room + (ceil_mode ? s - 1 : 0)) / s + 1;
  // As PyTorch: a window that would begin in the padding behind the input is dropped.
  if (ceil_mode && (out - 1) * s >= in + before) out--;
  return out;
}

Shape infer(const Graph& g, const Node& n, const std::vector<Shape>& v) {
  const Shape a = v[size_t(n.in[0])];
  Shape y = a;
  auto spatial = [&](const Window& w, bool ceil_mode) {
    if (a.rank != 4) bad(n, "needs an input of rank 4, got " + a.text());
    y.h = windowed(n, a.h, w.kh, w.sh, w.pt, w.pb, w.dh, ceil_mode);
    y.w = windowed(n, a.w, w.kw, w.sw, w.pl, w.pr, w.dw, ceil_mode);
  };
  switch (n.op) {
    case Op::conv2d:
    case Op::linear:
      if (a.c != n.in_channels)
        bad(n, "needs " + std::to_string(n.in_channels) + " input channels, got " + a.text());
      if (n.op == Op::linear && a.pixels() != 1) bad(n, "needs a flat input, got " + a.text());
      if (n.op == Op::conv2d) spatial(n.win, false);
      y.c = n.out_channels;
      if (n.has_residual && !(v[size_t(n.in[1])] == y))
        bad(n, "the residual has shape " + v[size_t(n.in[1])].text() + ", expected " + y.text());
      break;
    case Op::max_pool:
    case Op::avg_pool:
      if (n.win.pt >= n.win.kh || n.win.pl >= n.win.kw || n.win.pb >= n.win.kh || n.win.pr >= n.win.kw)
        bad(n, "the padding is as large as the window");
      spatial(n.win, n.ceil_mode);
      break;
    case Op::adaptive_avg_pool:
    case Op::adaptive_max_pool:
      if (a.rank != 4) bad(n, "needs an input of rank 4, got " + a.text());
      y.h = n.out_h;
      y.w = n.out_w;
      break;
    case Op::add:
    case Op::mul: {
      const Shape b = v[size_t(n.in[1])];
      bool spread = b.n == a.n && b.c == a.c && b.pixels() == 1;
      if (!(b == a) && !spread) bad(n, "cannot combine " + a.text() + " with " + b.text());
      break;
    }
    case Op::cat:
      y.c = 0;
      for (int i : n.in) {
        const Shape b = v[size_t(i)];
        if (b.n != a.n || b.h != a.h || b.w != a.w || b.rank != a.rank)
          bad(n, "cannot concatenate " + a.text() + " with " + b.text());
        y.c += b.c;
      }
      break;
    case Op::gather:
      for (int32_t i : n.index)
        if (i >= a.c) bad(n, "takes channel " + std::to_string(i) + " of " + a.text());
      y.c = int64_t(n.index.size());
      break;
    case Op::flatten:
      y = Shape{a.n, a.c * a.pixels(), 1, 1, 2};
      break;
    case Op::affine:
      for (int t : {n.scale, n.shift})
        if (int64_t(g.tensors[size_t(t)].count) != a.c) bad(n, "needs one scale and shift for each channel of " + a.text());
      break;
    case Op::pad:
      if (a.rank != 4) bad(n, "needs an input of rank 4, got " + a.text());
      y.h += n.win.pt + n.win.pb;
      y.w += n.win.pl + n.win.pr;
      break;
    case Op::softmax:
    case Op::activation:
    case Op::count_:
      break;
  }
  if (n.act.kind == Act::prelu) {
    uint64_t k = g.tensors[size_t(n.act.slope)].count;
    if (k != 1 && int64_t(k) != y.c) bad(n, "prelu needs 1 or " + std::to_string(y.c) + " slopes");
  }
  return y;
}

void check_size(const std::string& name, const Shape& s) {
  // Each factor is small enough (checked when read) that the first two products fit.
  if (s.c > (int64_t(1) << 31) || s.h > (1 << 20) || s.w > (1 << 20) || s.n > (1 << 24) ||
      s.c * s.h > kMaxElements / s.w || s.c * s.h * s.w > kMaxElements / s.n)
    throw Error(PRECUT_ERR_SHAPE, name + ": an activation of shape " + s.text() + " is too large");
}

}  // namespace

std::vector<Shape> infer_shapes(const Graph& g, const std::vector<Shape>& inputs) {
  if (inputs.size() != g.inputs.size())
    throw Error(PRECUT_ERR_ARGUMENT, "the network has " + std::to_string(g.inputs.size()) + " inputs, got " +
                                         std::to_string(inputs.size()));
  std::vector<Shape> v(size_t(g.n_values));
  for (size_t i = 0; i < inputs.size(); i++) {
    const Shape &s = inputs[i], &made = g.inputs[i].shape;
    if (s.rank != made.rank || s.c != made.c || s.n < 1 || s.h < 1 || s.w < 1 || s.n != inputs[0].n ||
        (s.rank == 2 && s.pixels() != 1))
      throw Error(PRECUT_ERR_SHAPE, "input " + g.inputs[i].name + " has shape " + s.text() +
                                        "; it was compiled for " + made.text() +
                                        " (batch, height and width may differ; batches of all inputs must agree)");
    check_size("input " + g.inputs[i].name, s);
    v[size_t(g.inputs[i].value)] = s;
  }
  for (const Node& n : g.nodes) {
    Shape y = infer(g, n, v);
    check_size(n.name, y);
    if (!g.channels.empty() && y.c != g.channels[size_t(n.out)])
      bad(n, "makes " + std::to_string(y.c) + " channels of " + v[size_t(n.in[0])].text() + "; the network was compiled for " +
                 std::to_string(g.channels[size_t(n.out)]) + " here, and runs only at sizes that keep that number");
    v[size_t(n.out)] = y;
  }
  return v;
}

namespace {

// Calls f(first weight of the kernel (o, i) in dense order, its positions) for rows in order, for a class table.
template <class F>
void each_kernel(const Support& s, const Node& n, F&& f) {
  int64_t per = n.in_channels / n.groups, area = int64_t(n.win.kh) * n.win.kw;
  for (int64_t o = 0; o < n.out_channels; o++)
    for (int64_t i = 0; i < per; i++)
      f((o * per + i) * area, s.positions[size_t(o / s.align % s.p_out * s.p_in + i % s.p_in)]);
}

}  // namespace

int64_t kept_weights(const Graph& g, const Node& n) {
  int64_t per = n.in_channels / n.groups, area = int64_t(n.win.kh) * n.win.kw, dense = n.out_channels * per * area;
  if (n.support < 0) return dense;
  const Support& s = g.supports[size_t(n.support)];
  if (s.kind == Support::mask) {
    const Tensor& m = g.tensors[size_t(s.mask_tensor)];
    int64_t bits = 0;
    for (int64_t i = 0; i < dense; i++) bits += (m.data[i / 8] >> (i % 8)) & 1;
    return bits;
  }
  // Channels of each residue are counted instead of walked: a hostile table costs no more than its own length.
  std::vector<int64_t> outs(size_t(s.p_out), 0), ins(size_t(s.p_in), 0);
  for (int64_t o = 0; o < n.out_channels; o++) outs[size_t(o / s.align % s.p_out)]++;
  for (int64_t i = 0; i < per; i++) ins[size_t(i % s.p_in)]++;
  int64_t total = 0;
  for (int a = 0; a < s.p_out; a++)
    for (int b = 0; b < s.p_in; b++)
      total += outs[size_t(a)] * ins[size_t(b)] * int64_t(s.positions[size_t(a * s.p_in + b)].size());
  return total;
}

DenseRows expand_weights(const Graph& g, const Node& n) {
  DenseRows d;
  d.in_per_group = n.in_channels / n.groups;
  d.area = int64_t(n.win.kh) * n.win.kw;
  d.o1 = n.out_channels;
  size_t dense = size_t(n.out_channels * d.in_per_group * d.area);
  const float* w = g.tensors[size_t(n.weight)].floats();
  d.w = Array<float>(dense);
  d.keep = Array<uint8_t>(dense);
  if (n.support < 0) {
    std::memcpy(d.w.data(), w, dense * sizeof(float));
    std::memset(d.keep.data(), 1, dense);
    return d;
  }
  const Support& s = g.supports[size_t(n.support)];
  if (s.kind == Support::mask) {
    const uint8_t* bits = g.tensors[size_t(s.mask_tensor)].data;
    for (size_t i = 0; i < dense; i++)
      if ((bits[i / 8] >> (i % 8)) & 1) {
        d.w[i] = *w++;
        d.keep[i] = 1;
      }
    return d;
  }
  each_kernel(s, n, [&](int64_t first, const std::vector<uint16_t>& positions) {
    for (uint16_t k : positions) {
      d.w[size_t(first + k)] = *w++;
      d.keep[size_t(first + k)] = 1;
    }
  });
  return d;
}

}  // namespace precut
