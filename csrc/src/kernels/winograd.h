// Winograd F(4x4, 3x3) (Lavin and Gray, 2016): transforms of input and output tiles, lanes over channels. The 36 matrix
// products between them are ordinary 1x1 convolution tiles.
#pragma once

#include "vec.h"

namespace precut {
namespace PRECUT_NS {

PRECUT_INLINE void wino_b(const vf* d, vf* o) {
  const vf two = set1(2), four = set1(4), five = set1(5);
  vf a = d[4] - four * d[2], b = d[3] - four * d[1], c = d[4] - d[2], e = two * (d[3] - d[1]);
  o[0] = four * d[0] - five * d[2] + d[4];
  o[1] = a + b;
  o[2] = a - b;
  o[3] = c + e;
  o[4] = c - e;
  o[5] = four * d[1] - five * d[3] + d[5];
}

PRECUT_INLINE void wino_a(const vf* m, vf* o) {
  const vf two = set1(2), four = set1(4), eight = set1(8);
  vf a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
  o[0] = m[0] + a + c;
  o[1] = b + two * e;
  o[2] = a + four * c;
  o[3] = b + eight * e + m[5];
}

void wino_in(const WinoInArgs& a) {
  for (int64_t t = 0; t < a.tiles; t++) {
    const float* x = a.x + t * 4 * L;
    vf tmp[6][6];
    PRECUT_UNROLL for (int c = 0; c < 6; c++) {
      vf d[6], o[6];
      PRECUT_UNROLL for (int r = 0; r < 6; r++) d[r] = load(x + r * a.x_row + c * L);
      wino_b(d, o);
      PRECUT_UNROLL for (int r = 0; r < 6; r++) tmp[r][c] = o[r];
    }
    float* v = a.v + t * L;
    PRECUT_UNROLL for (int r = 0; r < 6; r++) {
      vf o[6];
      wino_b(tmp[r], o);
      PRECUT_UNROLL for (int c = 0; c < 6; c++) store(v + (r * 6 + c) * a.v_point, o[c]);
    }
  }
}

void wino_out(const WinoOutArgs& a) {
  const vf lo = set1(a.lo), hi = set1(a.hi), bias = load(a.bias);
  for (int64_t t = 0; t < a.tiles; t++) {
    const float* m = a.m + t * L;
    vf tmp[4][6];
    PRECUT_UNROLL for (int c = 0; c < 6; c++) {
      vf d[6], o[4];
      PRECUT_UNROLL for (int r = 0; r < 6; r++) d[r] = load(m + (r * 6 + c) * a.m_point);
      wino_a(d, o);
      PRECUT_UNROLL for (int r = 0; r < 4; r++) tmp[r][c] = o[r];
    }
    const int cols = t + 1 < a.tiles ? 4 : a.cols_last;
    for (int r = 0; r < a.rows; r++) {
      vf o[4];
      wino_a(tmp[r], o);
      for (int c = 0; c < cols; c++) {
        vf s = o[c] + bias;
        if (a.res) s = s + load(a.res + r * a.res_row + (t * 4 + c) * L);
        store(a.y + r * a.y_row + (t * 4 + c) * L, clamp(s, lo, hi));
      }
    }
  }
}

}  // namespace PRECUT_NS
}  // namespace precut
