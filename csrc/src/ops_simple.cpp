// Depthwise convolution, pooling, elementwise operations, padding and softmax over blocked activations.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops_base.h"

namespace precut {

bool act_is_clamp(const Activation& a) {
  return a.kind == Act::none || a.kind == Act::relu || a.kind == Act::relu6 || a.kind == Act::clip;
}

void act_bounds(const Activation& a, float& lo, float& hi) {
  lo = -std::numeric_limits<float>::infinity();
  hi = -lo;
  if (a.kind == Act::relu || a.kind == Act::relu6) lo = 0;
  if (a.kind == Act::relu6) hi = 6;
  if (a.kind == Act::clip) {
    lo = a.alpha;
    hi = a.beta;
  }
}

Floats act_slopes(const Plan& plan, const Node& n) {
  if (n.act.kind != Act::prelu) return Floats();
  const Tensor& t = plan.model().graph.tensors[size_t(n.act.slope)];
  const Order& order = plan.order(n.out);
  Floats f(order.size());
  for (size_t j = 0; j < order.size(); j++)
    if (order[j] >= 0) f.data()[j] = t.floats()[t.count == 1 ? 0 : order[j]];
  return f;
}

void activate(const Plan& plan, const Activation& act, const float* slopes, float* y, int64_t positions) {
  plan.kernels().act({y, positions, uint32_t(act.kind), act.alpha, act.beta, slopes});
}

namespace {

struct Depthwise : Base {
  Floats w, bias;
  std::vector<int32_t> offs;

  Depthwise(const Plan& plan, const Node& n) {
    prepare(plan, n, "depthwise", true);
    DenseRows d = expand_weights(plan.model().graph, n);
    const Order& order = plan.order(n.out);
    int lanes = plan.lanes();
    size_t area = size_t(d.area), blocks = order.size() / size_t(lanes);
    w = Floats(blocks * area * size_t(lanes));
    bias = Floats(order.size());
    const float* b = n.bias < 0 ? nullptr : plan.model().graph.tensors[size_t(n.bias)].floats();
    for (size_t j = 0; j < order.size(); j++) {
      if (order[j] < 0) continue;
      for (size_t k = 0; k < area; k++)
        w.data()[(j / size_t(lanes) * area + k) * size_t(lanes) + j % size_t(lanes)] = d.row(order[j])[k];
      if (b) bias.data()[j] = b[order[j]];
    }
    const Buffer& x = plan.buffer(n.in[0]);
    for (int k = 0; k < int(area); k++)
      offs.push_back(int32_t(k / n.win.kw * n.win.dh * x.row + k % n.win.kw * n.win.dw * x.col));
    int64_t pixels = plan.shape(n.out).pixels();
    macs = kept_weights(plan.model().graph, n) * pixels;
    vector_macs = int64_t(blocks * area) * pixels;
    weight_bytes = (w.size() + bias.size()) * 4;
  }

  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    const Window& win = node->win;
    Place x = plan.place(node->in[0], r, false), y = plan.place(node->out, r, false), res;
    if (node->has_residual) res = plan.place(node->in[1], r, false);
    int lanes = plan.lanes();
    each_block(y, part, parts, [&](int64_t i, int64_t b) {
      const float* xb = x.p + i * x.img + b * x.blk - win.pt * x.row - win.pl * x.col;
      for (int64_t row = 0; row < y.h; row++) {
        float* out = y.p + i * y.img + b * y.blk + row * y.row;
        const float* rr = node->has_residual ? res.p + i * res.img + b * res.blk + row * res.row : nullptr;
        plan.kernels().depthwise({xb + row * win.sh * x.row, x.col * win.sw, offs.data(), int(offs.size()),
                                  w.data() + size_t(b) * offs.size() * size_t(lanes), bias.data() + b * lanes, out, y.w, rr,
                                  lo, hi});
        finish(plan, b, out, y.w);
      }
    });
  }
};

struct Pool2d : Base {
  std::vector<int64_t> h0, h1, w0, w1;
  std::vector<float> rows, cols;  // divisors are products but for a fixed one
  std::vector<std::vector<float>> divisor;
  int64_t dh = 1, dw = 1;

  Pool2d(const Plan& plan, const Node& n) {
    prepare(plan, n, is_max(n) ? "max_pool" : "avg_pool");
    const Shape &x = plan.shape(n.in[0]), &y = plan.shape(n.out);
    const Window& w = n.win;
    bool adaptive = n.op == Op::adaptive_avg_pool || n.op == Op::adaptive_max_pool;
    dh = w.dh;
    dw = w.dw;
    std::vector<int64_t> full_h, full_w;
    auto ranges = [&](int64_t out, int64_t in, int k, int s, int before, int after, int d, std::vector<int64_t>& from,
                      std::vector<int64_t>& to, std::vector<int64_t>& full) {
      for (int64_t i = 0; i < out; i++) {
        int64_t a = adaptive ? i * in / out : i * s - before;
        int64_t b = adaptive ? ((i + 1) * in + out - 1) / out : a + int64_t(k - 1) * d + 1;
        full.push_back(std::min(b, in + after) - a);
        while (a < 0) a += d;
        from.push_back(a);
        to.push_back(std::min(b, in));
      }
    };
    ranges(y.h, x.h, w.kh, w.sh, w.pt, w.pb, w.dh, h0, h1, full_h);
    ranges(y.w, x.w, w.kw, w.sw, w.pl, w.pr, w.dw, w0, w1, full_w);
    for (size_t r = 0; r < h0.size(); r++) {
      std::vector<float> line;
      for (size_t c = 0; c < w0.size(); c++) {
        double count = double(full_h[r] * full_w[c]);
        if (!adaptive && !n.count_include_pad) count = double((h1[r] - h0[r]) * (w1[c] - w0[c]));
        if (!adaptive && n.divisor) count = n.divisor;
        line.push_back(float(count));
      }
      divisor.push_back(std::move(line));
    }
  }
  static bool is_max(const Node& n) { return n.op == Op::max_pool || n.op == Op::adaptive_max_pool; }

  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    Place x = plan.place(node->in[0], r, false), y = plan.place(node->out, r, false);
    each_block(y, part, parts, [&](int64_t i, int64_t b) {
      for (int64_t row = 0; row < y.h; row++) {
        float* out = y.p + i * y.img + b * y.blk + row * y.row;
        size_t at = size_t(row);
        plan.kernels().pool({x.p + i * x.img + b * x.blk, x.row, h0[at], h1[at], dh, out, y.w, w0.data(), w1.data(), dw,
                             divisor[at].data(), is_max(*node)});
        finish(plan, b, out, y.w);
      }
    });
  }
};

struct Elementwise : Base {
  Elt kind = Elt::add;
  bool spread = false, wide = true;
  Floats scale, shift;

  Elementwise(const Plan& plan, const Node& n) {
    prepare(plan, n, op_name(n.op), true);
    for (int v : n.in) wide &= plan.buffer(v).flat;
    wide &= plan.buffer(n.out).flat;
    if (n.op == Op::affine || n.op == Op::activation) {
      kind = Elt::affine;
      const Order& order = plan.order(n.out);
      scale = Floats(order.size());
      shift = Floats(order.size());
      const auto& t = plan.model().graph.tensors;
      for (size_t j = 0; j < order.size(); j++) {
        if (order[j] < 0) continue;
        scale.data()[j] = n.op == Op::affine ? t[size_t(n.scale)].floats()[order[j]] : 1;
        shift.data()[j] = n.op == Op::affine ? t[size_t(n.shift)].floats()[order[j]] : 0;
      }
      weight_bytes = n.op == Op::affine ? order.size() * 8 : 0;
      return;
    }
    spread = plan.shape(n.in[1]).pixels() == 1 && plan.shape(n.out).pixels() > 1;
    kind = n.op == Op::add ? (spread ? Elt::add_spread : Elt::add) : (spread ? Elt::mul_spread : Elt::mul);
  }

  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    Place a = plan.place(node->in[0], r, wide), b, y = plan.place(node->out, r, wide);
    if (kind != Elt::affine) b = plan.place(node->in[1], r, wide);
    each_block(y, part, parts, [&](int64_t i, int64_t k) {
      for (int64_t row = 0; row < y.h; row++) {
        float* out = y.p + i * y.img + k * y.blk + row * y.row;
        EltArgs e{kind, a.p + i * a.img + k * a.blk + row * a.row, nullptr, nullptr, out, y.w, lo, hi};
        if (kind == Elt::affine) {
          e.b = scale.data() + k * plan.lanes();
          e.c = shift.data() + k * plan.lanes();
        } else {
          e.b = b.p + i * b.img + k * b.blk + (spread ? 0 : row * b.row);
        }
        plan.kernels().elt(e);
        finish(plan, k, out, y.w);
      }
    });
  }
};

struct Pad : Base {
  Pad(const Plan& plan, const Node& n) { prepare(plan, n, "pad"); }
  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    Place x = plan.place(node->in[0], r, false), y = plan.place(node->out, r, false);
    const Window& w = node->win;
    each_block(y, part, parts, [&](int64_t i, int64_t b) {
      for (int64_t row = 0; row < y.h; row++) {
        float* out = y.p + i * y.img + b * y.blk + row * y.row;
        std::fill_n(out, y.w * y.col, node->value);
        if (row >= w.pt && row < w.pt + x.h)
          std::copy_n(x.p + i * x.img + b * x.blk + (row - w.pt) * x.row, x.w * x.col, out + w.pl * y.col);
        finish(plan, b, out, y.w);
      }
    });
  }
};

struct Softmax : Base {
  std::vector<std::pair<int64_t, int64_t>> lanes_;  // block, lane of the channels that exist
  Softmax(const Plan& plan, const Node& n) {
    prepare(plan, n, "softmax");
    const Order& order = plan.order(n.out);
    for (size_t j = 0; j < order.size(); j++)
      if (order[j] >= 0) lanes_.emplace_back(int64_t(j) / plan.lanes(), int64_t(j) % plan.lanes());
  }
  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    Place x = plan.place(node->in[0], r, false), y = plan.place(node->out, r, false);
    int64_t total = y.images * y.h;
    for (int64_t k = total * part / parts; k < total * (part + 1) / parts; k++)
      for (int64_t c = 0; c < y.w; c++) {
        const float* in = x.p + k / y.h * x.img + k % y.h * x.row + c * x.col;
        float* out = y.p + k / y.h * y.img + k % y.h * y.row + c * y.col;
        float top = -std::numeric_limits<float>::infinity();
        double sum = 0;
        for (auto [b, l] : lanes_) top = std::max(top, in[b * x.blk + l]);
        for (auto [b, l] : lanes_) sum += double(out[b * y.blk + l] = std::exp(in[b * x.blk + l] - top));
        for (auto [b, l] : lanes_) out[b * y.blk + l] = float(out[b * y.blk + l] / sum);
        for (int64_t b = 0; b < y.blocks; b++) finish(plan, b, out + b * y.blk, 1);
      }
  }
};

}  // namespace

std::unique_ptr<Exec> make_depthwise(const Plan& plan, const Node& n) { return std::make_unique<Depthwise>(plan, n); }

std::unique_ptr<Exec> make_simple(const Plan& plan, const Node& n) {
  switch (n.op) {
    case Op::max_pool:
    case Op::avg_pool:
    case Op::adaptive_avg_pool:
    case Op::adaptive_max_pool:
      return std::make_unique<Pool2d>(plan, n);
    case Op::pad:
      return std::make_unique<Pad>(plan, n);
    case Op::softmax:
      return std::make_unique<Softmax>(plan, n);
    case Op::cat:
    case Op::gather:
    case Op::flatten:
      return make_move(plan, n);
    default:
      return std::make_unique<Elementwise>(plan, n);
  }
}

}  // namespace precut
