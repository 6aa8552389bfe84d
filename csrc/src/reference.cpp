// Plain loops over (N, C, H, W) arrays, one function an operation: slow, and easy to check by eye.
#include <algorithm>
#include <cmath>
#include <limits>

#include "graph.h"

namespace precut {

float apply_activation(const Activation& a, float x, float slope) {
  switch (a.kind) {
    case Act::relu:
      return x < 0 ? 0 : x;
    case Act::relu6:
      return x < 0 ? 0 : x > 6 ? 6 : x;
    case Act::leaky_relu:
      return x < 0 ? a.alpha * x : x;
    case Act::prelu:
      return x < 0 ? slope * x : x;
    case Act::silu:
      return x / (1 + std::exp(-x));
    case Act::hardswish:
      return x * std::min(std::max(x + 3, 0.0f), 6.0f) / 6;
    case Act::hardsigmoid:
      return std::min(std::max(x + 3, 0.0f), 6.0f) / 6;
    case Act::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Act::gelu:
      return 0.5f * x * (1 + std::erf(x * 0.70710678f));
    case Act::gelu_tanh:
      return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    case Act::tanh:
      return std::tanh(x);
    case Act::clip:
      return x < a.alpha ? a.alpha : x > a.beta ? a.beta : x;
    case Act::elu:
      return x < 0 ? a.alpha * std::expm1(x) : x;
    case Act::none:
    case Act::count_:
      break;
  }
  return x;
}

namespace {

struct Work {
  const Graph& g;
  const Node& n;
  const std::vector<Shape>& shapes;
  const std::vector<const float*>& at;
  float* y;
  const Shape& in(size_t i) const { return shapes[size_t(n.in[i])]; }
  const Shape& out() const { return shapes[size_t(n.out)]; }
  const float* x(size_t i) const { return at[size_t(n.in[i])]; }
};

void conv(const Work& k) {
  const Node& n = k.n;
  const Shape &a = k.in(0), &y = k.out();
  const Window& w = n.win;
  DenseRows d = expand_weights(k.g, n);
  const float* bias = n.bias < 0 ? nullptr : k.g.tensors[size_t(n.bias)].floats();
  int64_t per_out = n.out_channels / n.groups;
  std::vector<double> sum(static_cast<size_t>(y.pixels()));
  for (int64_t b = 0; b < y.n; b++)
    for (int64_t o = 0; o < y.c; o++) {
      std::fill(sum.begin(), sum.end(), bias ? double(bias[o]) : 0.0);
      for (int64_t i = 0; i < d.in_per_group; i++) {
        const float* plane = k.x(0) + (b * a.c + o / per_out * d.in_per_group + i) * a.pixels();
        for (int kh = 0; kh < w.kh; kh++)
          for (int kw = 0; kw < w.kw; kw++) {
            size_t at = size_t(i * d.area + kh * w.kw + kw);
            if (!d.keep_row(o)[at]) continue;
            double weight = d.row(o)[at];
            for (int64_t r = 0; r < y.h; r++) {
              int64_t ih = r * w.sh - w.pt + kh * w.dh;
              if (ih < 0 || ih >= a.h) continue;
              for (int64_t c = 0; c < y.w; c++) {
                int64_t iw = c * w.sw - w.pl + kw * w.dw;
                if (iw >= 0 && iw < a.w) sum[size_t(r * y.w + c)] += weight * double(plane[ih * a.w + iw]);
              }
            }
          }
      }
      float* out = k.y + (b * y.c + o) * y.pixels();
      const float* res = n.has_residual ? k.x(1) + (b * y.c + o) * y.pixels() : nullptr;
      for (int64_t p = 0; p < y.pixels(); p++) out[p] = float(sum[size_t(p)] + (res ? double(res[p]) : 0.0));
    }
}

// Windows [h0, h1) x [w0, w1) of the input (clipped) and how many numbers an average divides by.
template <class F>
void pool(const Work& k, bool max, F&& window) {
  const Shape &a = k.in(0), &y = k.out();
  for (int64_t plane = 0; plane < y.n * y.c; plane++)
    for (int64_t r = 0; r < y.h; r++)
      for (int64_t c = 0; c < y.w; c++) {
        int64_t h0, h1, dh, w0, w1, dw;
        double divisor = 1;
        window(r, c, h0, h1, dh, w0, w1, dw, divisor);
        double sum = 0;
        float best = -std::numeric_limits<float>::infinity();
        for (int64_t ih = h0; ih < h1; ih += dh)
          for (int64_t iw = w0; iw < w1; iw += dw) {
            if (ih < 0 || ih >= a.h || iw < 0 || iw >= a.w) continue;
            float v = k.x(0)[(plane * a.h + ih) * a.w + iw];
            sum += double(v);
            if (v > best || std::isnan(v)) best = v;
          }
        k.y[(plane * y.h + r) * y.w + c] = max ? best : float(sum / divisor);
      }
}

void window_pool(const Work& k) {
  const Window& w = k.n.win;
  const Shape& a = k.in(0);
  bool max = k.n.op == Op::max_pool;
  pool(k, max, [&](int64_t r, int64_t c, int64_t& h0, int64_t& h1, int64_t& dh, int64_t& w0, int64_t& w1, int64_t& dw,
                   double& divisor) {
    h0 = r * w.sh - w.pt;
    w0 = c * w.sw - w.pl;
    dh = w.dh;
    dw = w.dw;
    h1 = h0 + int64_t(w.kh - 1) * w.dh + 1;
    w1 = w0 + int64_t(w.kw - 1) * w.dw + 1;
    if (max) return;
    // As PyTorch: the padded window counts up to the padded edge, never beyond it.
    int64_t full = (std::min(h1, a.h + w.pb) - h0) * (std::min(w1, a.w + w.pr) - w0);
    int64_t real = (std::min(h1, a.h) - std::max<int64_t>(h0, 0)) * (std::min(w1, a.w) - std::max<int64_t>(w0, 0));
    divisor = double(k.n.divisor ? k.n.divisor : k.n.count_include_pad ? full : real);
  });
}

void adaptive_pool(const Work& k) {
  const Shape &a = k.in(0), &y = k.out();
  pool(k, k.n.op == Op::adaptive_max_pool, [&](int64_t r, int64_t c, int64_t& h0, int64_t& h1, int64_t& dh, int64_t& w0,
                                               int64_t& w1, int64_t& dw, double& divisor) {
    h0 = r * a.h / y.h;
    h1 = ((r + 1) * a.h + y.h - 1) / y.h;
    w0 = c * a.w / y.w;
    w1 = ((c + 1) * a.w + y.w - 1) / y.w;
    dh = dw = 1;
    divisor = double((h1 - h0) * (w1 - w0));
  });
}

void combine(const Work& k) {
  const Shape &a = k.in(0), &b = k.in(1);
  bool add = k.n.op == Op::add, spread = b.pixels() == 1;
  for (int64_t plane = 0; plane < a.n * a.c; plane++)
    for (int64_t p = 0; p < a.pixels(); p++) {
      float u = k.x(0)[plane * a.pixels() + p], v = k.x(1)[spread ? plane : plane * a.pixels() + p];
      k.y[plane * a.pixels() + p] = add ? u + v : u * v;
    }
}

void move_channels(const Work& k) {
  const Shape& y = k.out();
  for (int64_t b = 0; b < y.n; b++) {
    float* out = k.y + b * y.c * y.pixels();
    if (k.n.op == Op::cat) {
      for (size_t i = 0; i < k.n.in.size(); i++) {
        int64_t size = k.in(i).c * y.pixels();
        out = std::copy_n(k.x(i) + b * size, size, out);
      }
      continue;
    }
    for (int32_t i : k.n.index) {
      if (i < 0) std::fill_n(out, y.pixels(), 0.0f);
      else std::copy_n(k.x(0) + (b * k.in(0).c + i) * y.pixels(), y.pixels(), out);
      out += y.pixels();
    }
  }
}

void softmax(const Work& k) {
  const Shape& y = k.out();
  for (int64_t b = 0; b < y.n; b++)
    for (int64_t p = 0; p < y.pixels(); p++) {
      const float* x = k.x(0) + b * y.c * y.pixels() + p;
      float* out = k.y + b * y.c * y.pixels() + p;
      float top = x[0];
      for (int64_t c = 1; c < y.c; c++) top = std::max(top, x[c * y.pixels()]);
      double sum = 0;
      for (int64_t c = 0; c < y.c; c++) sum += std::exp(double(x[c * y.pixels()] - top));
      for (int64_t c = 0; c < y.c; c++) out[c * y.pixels()] = float(std::exp(double(x[c * y.pixels()] - top)) / sum);
    }
}

void pad(const Work& k) {
  const Shape &a = k.in(0), &y = k.out();
  std::fill_n(k.y, y.n * y.c * y.pixels(), k.n.value);
  for (int64_t plane = 0; plane < y.n * y.c; plane++)
    for (int64_t r = 0; r < a.h; r++)
      std::copy_n(k.x(0) + (plane * a.h + r) * a.w, a.w, k.y + (plane * y.h + r + k.n.win.pt) * y.w + k.n.win.pl);
}

void activate(const Work& k) {
  if (k.n.act.kind == Act::none) return;
  const Shape& y = k.out();
  const Tensor* slopes = k.n.act.kind == Act::prelu ? &k.g.tensors[size_t(k.n.act.slope)] : nullptr;
  for (int64_t plane = 0; plane < y.n * y.c; plane++) {
    float slope = slopes ? slopes->floats()[slopes->count == 1 ? 0 : plane % y.c] : 0;
    float* p = k.y + plane * y.pixels();
    for (int64_t i = 0; i < y.pixels(); i++) p[i] = apply_activation(k.n.act, p[i], slope);
  }
}

void run_node(const Work& k) {
  const Shape& y = k.out();
  switch (k.n.op) {
    case Op::conv2d:
    case Op::linear:
      conv(k);
      break;
    case Op::max_pool:
    case Op::avg_pool:
      window_pool(k);
      break;
    case Op::adaptive_avg_pool:
    case Op::adaptive_max_pool:
      adaptive_pool(k);
      break;
    case Op::add:
    case Op::mul:
      combine(k);
      break;
    case Op::cat:
    case Op::gather:
      move_channels(k);
      break;
    case Op::affine: {
      const float *scale = k.g.tensors[size_t(k.n.scale)].floats(), *shift = k.g.tensors[size_t(k.n.shift)].floats();
      for (int64_t i = 0; i < y.n * y.c * y.pixels(); i++) {
        int64_t c = i / y.pixels() % y.c;
        k.y[i] = k.x(0)[i] * scale[c] + shift[c];
      }
      break;
    }
    case Op::softmax:
      softmax(k);
      break;
    case Op::pad:
      pad(k);
      break;
    case Op::flatten:
    case Op::activation:
    case Op::count_:
      std::copy_n(k.x(0), y.n * y.c * y.pixels(), k.y);
      break;
  }
  activate(k);
}

}  // namespace

void run_reference(const Graph& g, const std::vector<Shape>& shapes, const float* const* inputs, float* const* outputs,
                   std::vector<std::vector<float>>& values) {
  std::vector<const float*> at(size_t(g.n_values), nullptr);
  for (size_t i = 0; i < g.inputs.size(); i++) at[size_t(g.inputs[i].value)] = inputs[i];
  values.resize(size_t(g.n_values));
  for (const Node& n : g.nodes) {
    const Shape& y = shapes[size_t(n.out)];
    auto& buffer = values[size_t(n.out)];
    buffer.resize(size_t(y.n * y.c * y.pixels()));
    run_node(Work{g, n, shapes, at, buffer.data()});
    at[size_t(n.out)] = buffer.data();
  }
  for (size_t i = 0; i < g.outputs.size(); i++) {
    const Shape& y = shapes[size_t(g.outputs[i].value)];
    std::copy_n(at[size_t(g.outputs[i].value)], y.n * y.c * y.pixels(), outputs[i]);
  }
}

}  // namespace precut
