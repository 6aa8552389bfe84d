// One sparse convolution for training: sums over shifted planes (forward, and the gradient of the input, which is the same
// with the lists turned round) and products of planes with shifted planes (the gradient of the weights). Lanes over
// positions; blocks of rows whose lists are the same share every load.
#pragma once

#include "sparse.h"  // transposes
#include "vec.h"

namespace precut {
namespace PRECUT_NS {

// `blocks` blocks of CO rows by V vectors of positions. U independent chains where there are few accumulators.
template <int CO, int V, int U = 1>
void shift_sum(const ShiftArgs& a) {
  for (int64_t b = 0; b < a.blocks; b++) {
    float* y = a.y + b * CO * a.y_row;
    vf acc[U][CO][V];
    PRECUT_UNROLL for (int c = 0; c < CO; c++) {
      PRECUT_UNROLL for (int v = 0; v < V; v++) {
        acc[0][c][v] = a.add ? load(y + c * a.y_row + v * L) : zero();
        PRECUT_UNROLL for (int u = 1; u < U; u++) acc[u][c][v] = zero();
      }
    }
    auto tap = [&](int32_t t, vf(&s)[CO][V]) __attribute__((always_inline)) {
      const float *x = a.x + a.offs[t], *w = a.w + int64_t(t) * CO;
      if constexpr (CO == 1) {
        const vf ww = set1(*w);
        PRECUT_UNROLL for (int v = 0; v < V; v++) s[0][v] = fma(load(x + v * L), ww, s[0][v]);
      } else if constexpr (CO < V) {
        vf ww[CO];
        PRECUT_UNROLL for (int c = 0; c < CO; c++) ww[c] = set1(w[c]);
        PRECUT_UNROLL for (int v = 0; v < V; v++) {
          const vf xx = load(x + v * L);
          PRECUT_UNROLL for (int c = 0; c < CO; c++) s[c][v] = fma(xx, ww[c], s[c][v]);
        }
      } else {
        vf xx[V];
        PRECUT_UNROLL for (int v = 0; v < V; v++) xx[v] = load(x + v * L);
        PRECUT_UNROLL for (int c = 0; c < CO; c++) {
          const vf ww = set1(w[c]);
          PRECUT_UNROLL for (int v = 0; v < V; v++) s[c][v] = fma(xx[v], ww, s[c][v]);
        }
      }
    };
    int32_t t = a.first[b], end = a.first[b + 1];
    for (; t + U <= end; t += U) {
      PRECUT_UNROLL for (int u = 0; u < U; u++) tap(t + u, acc[u]);
    }
    for (; t < end; t++) tap(t, acc[0]);
    PRECUT_UNROLL for (int c = 0; c < CO; c++) {
      PRECUT_UNROLL for (int v = 0; v < V; v++) {
        vf s = acc[0][c][v];
        PRECUT_UNROLL for (int u = 1; u < U; u++) s = s + acc[u][c][v];
        store(y + c * a.y_row + v * L, s);
      }
    }
  }
}

PRECUT_INLINE float lanes_sum(vf a) {
#if defined(PRECUT_AVX512)
  return _mm512_reduce_add_ps(a);
#elif defined(PRECUT_AVX2)
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
#elif defined(PRECUT_NEON)
  return vaddvq_f32(a);
#else
  return (a[0] + a[1]) + (a[2] + a[3]);
#endif
}

// Adds the sums of CO vectors to CO neighbouring numbers.
template <int CO>
PRECUT_INLINE void add_sums(const vf* a, float* out) {
#if defined(PRECUT_AVX2)
  if constexpr (CO == 4) {
    __m256 h = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1))));
    return;
  }
#endif
  PRECUT_UNROLL for (int c = 0; c < CO; c++) out[c] += lanes_sum(a[c]);
}

// One block of CO rows: the products of each row with T shifted planes at a time.
template <int CO, int T>
PRECUT_INLINE void shift_dot_taps(const ShiftDotArgs& a, int32_t t) {
  vf acc[T][CO];
  PRECUT_UNROLL for (int k = 0; k < T; k++) {
    PRECUT_UNROLL for (int c = 0; c < CO; c++) acc[k][c] = zero();
  }
  const float* x[T];
  PRECUT_UNROLL for (int k = 0; k < T; k++) x[k] = a.x + a.offs[t + k];
  const float* y = a.y;
  for (int64_t image = 0; image < a.images; image++, y += a.y_image) {
    for (int64_t p = 0; p < a.positions; p += L) {
      vf yy[CO];
      PRECUT_UNROLL for (int c = 0; c < CO; c++) yy[c] = load(y + c * a.y_row + p);
      PRECUT_UNROLL for (int k = 0; k < T; k++) {
        const vf xx = load(x[k] + p);
        PRECUT_UNROLL for (int c = 0; c < CO; c++) acc[k][c] = fma(xx, yy[c], acc[k][c]);
      }
    }
    PRECUT_UNROLL for (int k = 0; k < T; k++) x[k] += a.x_image;
  }
  PRECUT_UNROLL for (int k = 0; k < T; k++) add_sums<CO>(acc[k], a.dw + int64_t(t + k) * CO);
}

template <int CO, int T>
void shift_dot(const ShiftDotArgs& a) {
  int32_t t = a.from;
  for (; t + T <= a.to; t += T) shift_dot_taps<CO, T>(a, t);
  for (; t < a.to; t++) shift_dot_taps<CO, 1>(a, t);
}

// L channels by L pixels at a time.
void to_planes(const PlaneRowArgs& a) {
  auto plane = [&](int64_t c) { return a.planes + (a.plane_of ? a.plane_of[c] : c) * a.plane; };
  if (a.pixel == 1) {
    for (int64_t c = 0; c < a.channels; c++) {
      const float* x = a.array + c * a.channel;
      float* y = plane(c);
      int64_t p = 0;
      for (; p + L <= a.pixels; p += L) store(y + p, load(x + p));
      for (; p < a.pixels; p++) y[p] = x[p];
    }
  } else if (a.channel == 1 && a.channels >= L) {
    for (int64_t c = 0;;) {
      for (int64_t p = 0; p < a.pixels; p += L) {
        vf r[L];
        PRECUT_UNROLL for (int i = 0; i < L; i++) r[i] = p + i < a.pixels ? load(a.array + (p + i) * a.pixel + c) : zero();
        transpose_from<L / 2>(r);
        PRECUT_UNROLL for (int i = 0; i < L; i++) store(plane(c + i) + p, r[i]);
      }
      if (c + L == a.channels) break;
      c = c + 2 * L <= a.channels ? c + L : a.channels - L;  // the last block may overlap the one before
    }
  } else {
    for (int64_t c = 0; c < a.channels; c++)
      for (int64_t p = 0; p < a.pixels; p++) plane(c)[p] = a.array[c * a.channel + p * a.pixel];
  }
}

void from_planes(const PlaneRowArgs& a) {
  auto plane = [&](int64_t c) { return a.planes + (a.plane_of ? a.plane_of[c] : c) * a.plane; };
  auto bias = [&](int64_t c) { return a.bias ? a.bias[c] : 0.0f; };
  if (a.pixel == 1) {
    for (int64_t c = 0; c < a.channels; c++) {
      const float* x = plane(c);
      float* y = a.array + c * a.channel;
      const vf b = set1(bias(c));
      int64_t p = 0;
      for (; p + L <= a.pixels; p += L) store(y + p, load(x + p) + b);
      for (; p < a.pixels; p++) y[p] = x[p] + bias(c);
    }
  } else if (a.channel == 1 && a.channels >= L) {
    for (int64_t c = 0;;) {
      const vf b = a.bias ? load(a.bias + c) : zero();
      for (int64_t p = 0; p < a.pixels; p += L) {
        vf r[L];
        PRECUT_UNROLL for (int i = 0; i < L; i++) r[i] = load(plane(c + i) + p);
        transpose_from<L / 2>(r);
        PRECUT_UNROLL for (int i = 0; i < L; i++) {
          if (p + i < a.pixels) store(a.array + (p + i) * a.pixel + c, r[i] + b);
        }
      }
      if (c + L == a.channels) break;
      c = c + 2 * L <= a.channels ? c + L : a.channels - L;
    }
  } else {
    for (int64_t c = 0; c < a.channels; c++)
      for (int64_t p = 0; p < a.pixels; p++) a.array[c * a.channel + p * a.pixel] = plane(c)[p] + bias(c);
  }
}

// For 16 vector registers, and for 32.
#define PRECUT_SHIFT_1 \
  {1, 8, {nullptr, shift_sum<1, 1, 4>, shift_sum<1, 2, 4>, shift_sum<1, 3, 2>, shift_sum<1, 4, 2>, shift_sum<1, 5>, \
          shift_sum<1, 6>, shift_sum<1, 7>, shift_sum<1, 8>}, shift_dot<1, 8>}
#define PRECUT_SHIFT \
  {{4, 3, {nullptr, shift_sum<4, 1, 2>, shift_sum<4, 2>, shift_sum<4, 3>}, shift_dot<4, 3>}, \
   {2, 6, {nullptr, shift_sum<2, 1, 4>, shift_sum<2, 2, 2>, shift_sum<2, 3>, shift_sum<2, 4>, shift_sum<2, 5>, \
           shift_sum<2, 6>}, shift_dot<2, 6>}, \
   PRECUT_SHIFT_1}
#define PRECUT_SHIFT_WIDE \
  {{4, 6, {nullptr, shift_sum<4, 1, 4>, shift_sum<4, 2, 2>, shift_sum<4, 3>, shift_sum<4, 4>, shift_sum<4, 5>, \
           shift_sum<4, 6>}, shift_dot<4, 6>}, \
   {2, 8, {nullptr, shift_sum<2, 1, 4>, shift_sum<2, 2, 4>, shift_sum<2, 3, 2>, shift_sum<2, 4, 2>, shift_sum<2, 5>, \
           shift_sum<2, 6>, shift_sum<2, 7>, shift_sum<2, 8>}, shift_dot<2, 8>}, \
   PRECUT_SHIFT_1}

}  // namespace PRECUT_NS
}  // namespace precut
