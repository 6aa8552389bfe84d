// Depthwise convolution, pooling, activations and elementwise operations over blocked activations.
#pragma once

#include "vec.h"

namespace precut {
namespace PRECUT_NS {

template <int CW>
PRECUT_INLINE void depthwise_tile(const DepthwiseArgs& a, int64_t at) {
  vf acc[CW];
  const vf bias = load(a.bias);
  PRECUT_UNROLL for (int c = 0; c < CW; c++) acc[c] = bias;
  const float* x = a.x + at * a.x_col;
  for (int k = 0; k < a.taps; k++) {
    const vf w = load(a.w + k * L);
    const float* p = x + a.offs[k];
    PRECUT_UNROLL for (int c = 0; c < CW; c++) acc[c] = fma(load(p + c * a.x_col), w, acc[c]);
  }
  const vf lo = set1(a.lo), hi = set1(a.hi);
  PRECUT_UNROLL for (int c = 0; c < CW; c++) {
    vf t = acc[c];
    if (a.res) t = t + load(a.res + (at + c) * L);
    store(a.y + (at + c) * L, clamp(t, lo, hi));
  }
}

void depthwise(const DepthwiseArgs& a) {
  int64_t at = 0;
  for (; at + 8 <= a.cols; at += 8) depthwise_tile<8>(a, at);
  for (; at + 4 <= a.cols; at += 4) depthwise_tile<4>(a, at);
  for (; at < a.cols; at++) depthwise_tile<1>(a, at);
}

void pool(const PoolArgs& a) {
  for (int64_t c = 0; c < a.cols; c++) {
    vf best = set1(-__builtin_inff()), sum = zero();
    for (int64_t h = a.h0; h < a.h1; h += a.dh) {
      const float* row = a.x + h * a.x_row;
      for (int64_t w = a.w0[c]; w < a.w1[c]; w += a.dw) {
        vf v = load(row + w * L);
        best = ((v > best) | (v != v)) ? v : best;  // NaN stays, as in PyTorch
        sum = sum + v;
      }
    }
    store(a.y + c * L, a.max ? best : sum / set1(a.divisor[c]));
  }
}

// e^x to about 1e-7 relative, written so that the compiler vectorises loops over it.
PRECUT_INLINE float exp_approx(float x) {
  x = x < -87.3f ? -87.3f : x;
  x = x > 88.7f ? 88.7f : x;
  const float magic = 12582912.0f;
  float n = x * 1.44269504f + magic;
  n = n - magic;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors, since n may be 128.
  int32_t half = int32_t(n) >> 1, rest = int32_t(n) - half;
  return p * __builtin_bit_cast(float, (half + 127) << 23) * __builtin_bit_cast(float, (rest + 127) << 23);
}
PRECUT_INLINE float sigmoid_of(float x) { return 1.0f / (1.0f + exp_approx(-x)); }
PRECUT_INLINE float tanh_of(float x) { return 1.0f - 2.0f / (exp_approx(2.0f * x) + 1.0f); }
// Abramowitz and Stegun 7.1.26, absolute error below 2e-7.
PRECUT_INLINE float erf_of(float x) {
  float s = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.3275911f * s);
  float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  float e = 1.0f - p * exp_approx(-s * s);
  return x < 0 ? -e : e;
}
PRECUT_INLINE float six(float x) { return x < 0 ? 0 : x > 6 ? 6 : x; }

template <class F>
PRECUT_INLINE void map(const ActArgs& a, F f) {
  float* __restrict y = a.y;
  for (int64_t i = 0; i < a.positions * L; i++) y[i] = f(y[i]);
}

// The numbers are those of Act in graph.h, which this file does not include: see act_kinds in plan_ops.cpp.
void act(const ActArgs& a) {
  const float alpha = a.alpha, beta = a.beta;
  switch (a.kind) {
    case 1:
      return map(a, [](float x) { return x < 0 ? 0 : x; });
    case 2:
      return map(a, [](float x) { return six(x); });
    case 3:
      return map(a, [=](float x) { return x < 0 ? alpha * x : x; });
    case 4:
      for (int64_t p = 0; p < a.positions; p++)
        for (int l = 0; l < L; l++) {
          float x = a.y[p * L + l];
          a.y[p * L + l] = x < 0 ? a.slopes[l] * x : x;
        }
      return;
    case 5:
      return map(a, [](float x) { return x * sigmoid_of(x); });
    case 6:
      return map(a, [](float x) { return x * six(x + 3.0f) / 6.0f; });
    case 7:
      return map(a, [](float x) { return six(x + 3.0f) / 6.0f; });
    case 8:
      return map(a, [](float x) { return x != x ? x : sigmoid_of(x); });
    case 9:
      return map(a, [](float x) { return 0.5f * x * (1.0f + erf_of(x * 0.70710678f)); });
    case 10:
      return map(a, [](float x) { return 0.5f * x * (1.0f + tanh_of(0.79788456f * (x + 0.044715f * x * x * x))); });
    case 11:
      return map(a, [](float x) { return x != x ? x : tanh_of(x); });
    case 12:
      return map(a, [=](float x) { return x < alpha ? alpha : x > beta ? beta : x; });
    case 13:
      return map(a, [=](float x) { return x < 0 ? alpha * (exp_approx(x) - 1.0f) : x; });
    default:
      return;
  }
}

// Multiply-adds on registers alone, 12 chains of them: what the CPU can do at most. Returns how many, in single numbers.
int64_t burn(int64_t rounds, float* sink) {
  vf acc[12];
  PRECUT_UNROLL for (int i = 0; i < 12; i++) acc[i] = set1(float(i));
  const vf a = set1(*sink), b = set1(0.5f);
  for (int64_t r = 0; r < rounds; r++) {
    PRECUT_UNROLL for (int i = 0; i < 12; i++) {
      acc[i] = fma(acc[i], a, b);
#if defined(__GNUC__) && (defined(PRECUT_AVX512) || defined(PRECUT_AVX2))
      __asm__ volatile("" : "+v"(acc[i]));  // the chains stay chains
#endif
    }
  }
  vf sum = acc[0];
  PRECUT_UNROLL for (int i = 1; i < 12; i++) sum = sum + acc[i];
  float lanes[L];
  store(lanes, sum);
  *sink = lanes[0];
  return rounds * 12 * L;
}

template <class F>
PRECUT_INLINE void each(const EltArgs& a, F f) {
  const vf lo = set1(a.lo), hi = set1(a.hi);
  for (int64_t p = 0; p < a.positions; p++) store(a.y + p * L, clamp(f(p * L), lo, hi));
}

void elt(const EltArgs& a) {
  switch (a.kind) {
    case Elt::add:
      return each(a, [&](int64_t i) { return load(a.a + i) + load(a.b + i); });
    case Elt::mul:
      return each(a, [&](int64_t i) { return load(a.a + i) * load(a.b + i); });
    case Elt::add_spread: {
      const vf b = load(a.b);
      return each(a, [&](int64_t i) { return load(a.a + i) + b; });
    }
    case Elt::mul_spread: {
      const vf b = load(a.b);
      return each(a, [&](int64_t i) { return load(a.a + i) * b; });
    }
    case Elt::affine: {
      const vf b = load(a.b), c = load(a.c);
      return each(a, [&](int64_t i) { return fma(load(a.a + i), b, c); });
    }
  }
}

}  // namespace PRECUT_NS
}  // namespace precut
