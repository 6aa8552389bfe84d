// The convolution tile (family A). Accumulators of CH x CW positions by NV vectors stay in registers over the whole
// reduction; the input is broadcast, the weights come as one sequential stream in walk order.
//
// G > 1 serves residue classes with fewer channels than a vector: a vector then holds L / G output channels by G input
// channels, the input is a repeated group of G, and the G partial sums are added once at the end.
#pragma once

#include "vec.h"

namespace precut {
namespace PRECUT_NS {

template <int CH, int CW, int NV, int XS, int G>
void conv_tile(const TileArgs& a) {
  static_assert(G == 1 || NV == 1, "grouped lanes come one vector at a time");
  vf acc[CH * CW][NV];
  PRECUT_UNROLL for (int v = 0; v < NV; v++) {
    vf b = G == 1 ? load(a.bias + v * L) : zero();
    PRECUT_UNROLL for (int m = 0; m < CH * CW; m++) acc[m][v] = b;
  }
  const float* w = a.w;
  const int64_t row = a.x_row, col = XS ? XS : a.x_col;
  const Step* end = a.steps + a.n_steps;
  const float *fetch = a.fetch, *fetch_end = fetch;
  for (const Step* s = a.steps; s != end; s++) {
    const float* x = a.x + s->off;
    // Classes so small that they need groups of four leave runs of one group: no inner loop then.
    if (fetch) {  // a burst for as much as this step will use up, or a share of it
      fetch_end += (int64_t(s->n) * NV * L) >> a.share;
      for (; fetch < fetch_end; fetch += 16) __builtin_prefetch(fetch, 0, 2);
    }
    const float* stop = x + (G == 4 ? G : int64_t(s->n) * G);
    do {
      vf wv[NV];
      PRECUT_UNROLL for (int v = 0; v < NV; v++) wv[v] = load(w + v * L);
      w += NV * L;
      PRECUT_UNROLL for (int r = 0; r < CH; r++) {
        PRECUT_UNROLL for (int c = 0; c < CW; c++) {
          vf xv = repeat<G>(x + r * row + c * col);
          PRECUT_UNROLL for (int v = 0; v < NV; v++) acc[r * CW + c][v] = fma(xv, wv[v], acc[r * CW + c][v]);
        }
      }
      x += G;
    } while (x != stop);
  }
  if constexpr (G == 1) {
    const vf lo = set1(a.lo), hi = set1(a.hi);
    PRECUT_UNROLL for (int r = 0; r < CH; r++) {
      PRECUT_UNROLL for (int c = 0; c < CW; c++) {
        PRECUT_UNROLL for (int v = 0; v < NV; v++) {
          vf t = acc[r * CW + c][v];
          if (a.res) t = t + load(a.res + r * a.res_row + v * a.res_blk + c * L);
          store(a.y + r * a.y_row + v * a.y_blk + c * L, clamp(t, lo, hi));
        }
      }
    }
  } else {
    using P = Part<G>;
    if constexpr (P::several && CW % G == 0) {
      const vf lo = set1(a.lo), hi = set1(a.hi), some = P::spread(a.bias);
      PRECUT_UNROLL for (int r = 0; r < CH; r++) {
        PRECUT_UNROLL for (int c = 0; c < CW; c += G) {
          vf part[G];
          PRECUT_UNROLL for (int g = 0; g < G; g++) part[g] = acc[r * CW + c + g][0];
          vf t = P::sums(part) + some;
          if (a.res) t = t + P::gather(a.res + r * a.res_row + c * L);
          P::scatter(a.y + r * a.y_row + c * L, clamp(t, lo, hi));
        }
      }
      return;
    }
    const typename P::v bias = P::load(a.bias);
    PRECUT_UNROLL for (int r = 0; r < CH; r++) {
      PRECUT_UNROLL for (int c = 0; c < CW; c++) {
        typename P::v t = P::add(P::sum(acc[r * CW + c][0]), bias);
        if (a.res) t = P::add(t, P::load(a.res + r * a.res_row + c * L));
        P::store(a.y + r * a.y_row + c * L, P::clamp(t, a.lo, a.hi));
      }
    }
  }
}

}  // namespace PRECUT_NS
}  // namespace precut
