// Unstructured supports (family C): lanes over positions, one output channel at a time, over the list of its weights;
// and the transposes between blocked activations and the planar copies that it works on.
#pragma once

#include "vec.h"

namespace precut {
namespace PRECUT_NS {

// U independent chains where there are few vectors, so that the additions do not wait for each other.
template <int V, int U>
void sparse_sum(const SparseArgs& a) {
  float* y = a.y;
  for (int64_t o = 0; o < a.outs; o++, y += a.y_out) {
    vf acc[U][V];
    PRECUT_UNROLL for (int v = 0; v < V; v++) {
      acc[0][v] = a.add ? load(y + v * L) : zero();
      PRECUT_UNROLL for (int u = 1; u < U; u++) acc[u][v] = zero();
    }
    auto term = [&](int64_t t, vf* sums) {
      const float* x = a.x + a.offs[t];
      const vf w = set1(a.weights[t]);
      PRECUT_UNROLL for (int v = 0; v < V; v++) sums[v] = fma(load(x + v * L), w, sums[v]);
    };
    int64_t t = a.first[o], end = a.first[o + 1];
    for (; t + U <= end; t += U) {
      PRECUT_UNROLL for (int u = 0; u < U; u++) term(t + u, acc[u]);
    }
    if constexpr (U > 1) {
      for (; t < end; t++) term(t, acc[0]);
    }
    PRECUT_UNROLL for (int v = 0; v < V; v++) {
      vf s = acc[0][v];
      PRECUT_UNROLL for (int u = 1; u < U; u++) s = s + acc[u][v];
      store(y + v * L, s);
    }
  }
}

// By number of vectors.
#define PRECUT_SPARSE                                                                                           \
  {nullptr,           sparse_sum<1, 4>, sparse_sum<2, 4>, sparse_sum<3, 2>, sparse_sum<4, 2>, sparse_sum<5, 1>, \
   sparse_sum<6, 1>, sparse_sum<7, 1>, sparse_sum<8, 1>}

typedef int32_t vi __attribute__((vector_size(4 * L)));

template <int S>
PRECUT_INLINE void swap_blocks(vf& a, vf& b) {
  vi first, second;
  for (int j = 0; j < L; j++) {
    first[j] = (j & S) ? L + j - S : j;
    second[j] = (j & S) ? L + j : j + S;
  }
  vf t = __builtin_shuffle(a, b, first);
  b = __builtin_shuffle(a, b, second);
  a = t;
}
template <int S>
PRECUT_INLINE void transpose_from(vf* r) {
  PRECUT_UNROLL for (int i = 0; i < L; i++) {
    if (!(i & S)) swap_blocks<S>(r[i], r[i + S]);
  }
  if constexpr (S > 1) transpose_from<S / 2>(r);
}

void lift(const LiftArgs& a) {
  for (int64_t p = 0; p < a.positions; p += L) {
    vf r[L];
    PRECUT_UNROLL for (int i = 0; i < L; i++) r[i] = load(a.x + a.offs[p + i]);
    transpose_from<L / 2>(r);
    PRECUT_UNROLL for (int i = 0; i < L; i++) store(a.out + i * a.plane + p, r[i]);
  }
}

void block(const BlockArgs& a) {
  const vf lo = set1(a.lo), hi = set1(a.hi), bias = load(a.bias);
  auto finish = [&](int64_t p, vf s) {
    s = s + bias;
    if (a.res) s = s + load(a.res + p * L);
    store(a.y + p * L, clamp(s, lo, hi));
  };
  int64_t p = 0;
  for (; p + L <= a.pixels; p += L) {
    vf r[L];
    PRECUT_UNROLL for (int i = 0; i < L; i++) r[i] = load(a.x + i * a.x_channel + p);
    transpose_from<L / 2>(r);
    PRECUT_UNROLL for (int i = 0; i < L; i++) finish(p + i, r[i]);
  }
  for (; p < a.pixels; p++) {
    float lanes[L];
    for (int i = 0; i < L; i++) lanes[i] = a.x[i * a.x_channel + p];
    finish(p, load(lanes));
  }
}

}  // namespace PRECUT_NS
}  // namespace precut
