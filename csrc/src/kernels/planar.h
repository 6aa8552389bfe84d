// Family B: the input is read as vectors of columns and the weights are broadcast, so that classes of a few channels
// need no more loads than large ones.
#pragma once

#include "vec.h"

namespace precut {
namespace PRECUT_NS {

template <int CO, int VH, int VW>
void planar_tile(const PlanarArgs& a) {
  vf acc[CO][VH * VW];
  PRECUT_UNROLL for (int o = 0; o < CO; o++) {
    PRECUT_UNROLL for (int v = 0; v < VH * VW; v++) acc[o][v] = zero();
  }
  const float* w = a.w;
  const int64_t row = a.x_row;
  for (int64_t s = 0; s < a.n_steps; s++, w += CO) {
    const float* x = a.x + a.steps[s];
    vf xv[VH * VW];
    PRECUT_UNROLL for (int v = 0; v < VH * VW; v++) xv[v] = load(x + v / VW * row + v % VW * L);
    PRECUT_UNROLL for (int o = 0; o < CO; o++) {
      const vf b = set1(w[o]);
      PRECUT_UNROLL for (int v = 0; v < VH * VW; v++) acc[o][v] = fma(xv[v], b, acc[o][v]);
    }
  }
  PRECUT_UNROLL for (int o = 0; o < CO; o++) {
    PRECUT_UNROLL for (int v = 0; v < VH * VW; v++) store(a.y + o * a.y_out + v / VW * a.y_row + v % VW * L, acc[o][v]);
  }
}

}  // namespace PRECUT_NS
}  // namespace precut
