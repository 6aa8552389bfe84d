// The vectors of the instruction set that this translation unit is compiled for, in a namespace of its own so that no
// code of one instruction set is ever linked into another's. Kernels are written once on top of this.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(PRECUT_AVX512) || defined(PRECUT_AVX2)
#include <immintrin.h>
#elif defined(PRECUT_NEON)
#include <arm_neon.h>
#endif

#include "kernels.h"

#if defined(PRECUT_AVX512)
#define PRECUT_NS avx512
#define PRECUT_ISA "avx512"
#elif defined(PRECUT_AVX2)
#define PRECUT_NS avx2
#define PRECUT_ISA "avx2"
#elif defined(PRECUT_NEON)
#define PRECUT_NS neon
#define PRECUT_ISA "neon"
#else
#define PRECUT_NS portable
#define PRECUT_ISA "portable"
#endif

#define PRECUT_INLINE static inline __attribute__((always_inline))
#define PRECUT_UNROLL _Pragma("GCC unroll 32")

namespace precut {
namespace PRECUT_NS {

#if defined(PRECUT_AVX512)

constexpr int L = 16;
using vf = __m512;
PRECUT_INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }
PRECUT_INLINE void store(float* p, vf v) { _mm512_storeu_ps(p, v); }
PRECUT_INLINE vf set1(float s) { return _mm512_set1_ps(s); }
PRECUT_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
// The second operand where either is NaN, so that NaN passes a clamp as it does in PyTorch.
PRECUT_INLINE vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
PRECUT_INLINE vf max(vf a, vf b) { return _mm512_max_ps(a, b); }

#elif defined(PRECUT_AVX2)

constexpr int L = 8;
using vf = __m256;
PRECUT_INLINE vf load(const float* p) { return _mm256_loadu_ps(p); }
PRECUT_INLINE void store(float* p, vf v) { _mm256_storeu_ps(p, v); }
PRECUT_INLINE vf set1(float s) { return _mm256_set1_ps(s); }
PRECUT_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
PRECUT_INLINE vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
PRECUT_INLINE vf max(vf a, vf b) { return _mm256_max_ps(a, b); }

#else

constexpr int L = 4;
typedef float vf __attribute__((vector_size(16)));
PRECUT_INLINE vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
PRECUT_INLINE void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
PRECUT_INLINE vf set1(float s) { return vf{s, s, s, s}; }
#if defined(PRECUT_NEON)
PRECUT_INLINE vf fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
#else
PRECUT_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
#endif
PRECUT_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
PRECUT_INLINE vf max(vf a, vf b) { return a > b ? a : b; }

#endif

PRECUT_INLINE vf zero() { return set1(0.0f); }
PRECUT_INLINE vf clamp(vf v, vf lo, vf hi) { return min(hi, max(lo, v)); }

// G values from p, repeated over the vector.
template <int G>
PRECUT_INLINE vf repeat(const float* p) {
  if constexpr (G == 1) return set1(*p);
#if defined(PRECUT_AVX512)
  if constexpr (G == 2) {
    double d;
    std::memcpy(&d, p, 8);
    return _mm512_castpd_ps(_mm512_set1_pd(d));
  }
  if constexpr (G == 4) return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
#elif defined(PRECUT_AVX2)
  if constexpr (G == 2) {
    double d;
    std::memcpy(&d, p, 8);
    return _mm256_castpd_ps(_mm256_set1_pd(d));
  }
#endif
}

// Sums each group of G neighbouring lanes: L / G results, as a smaller vector.
template <int G>
struct Part;
#if defined(PRECUT_AVX512)
template <>
struct Part<2> {
  using v = __m256;
  static constexpr bool several = true;
  // The sums of G positions at once, one after the other.
  PRECUT_INLINE vf sums(const vf* a) {
    vf t = _mm512_add_ps(_mm512_shuffle_ps(a[0], a[1], 0x88), _mm512_shuffle_ps(a[0], a[1], 0xdd));
    return _mm512_castpd_ps(_mm512_permutexvar_pd(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_castps_pd(t)));
  }
  PRECUT_INLINE vf spread(const float* p) { return _mm512_broadcast_f32x8(_mm256_loadu_ps(p)); }
  PRECUT_INLINE vf gather(const float* p) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p)), _mm256_loadu_ps(p + L), 1);
  }
  PRECUT_INLINE void scatter(float* p, vf a) {
    _mm256_storeu_ps(p, _mm512_castps512_ps256(a));
    _mm256_storeu_ps(p + L, _mm512_extractf32x8_ps(a, 1));
  }
  PRECUT_INLINE v sum(vf a) {
    vf t = _mm512_add_ps(a, _mm512_movehdup_ps(a));
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps256(_mm512_permutexvar_ps(even, t));
  }
  PRECUT_INLINE v load(const float* p) { return _mm256_loadu_ps(p); }
  PRECUT_INLINE void store(float* p, v a) { _mm256_storeu_ps(p, a); }
  PRECUT_INLINE v add(v a, v b) { return _mm256_add_ps(a, b); }
  PRECUT_INLINE v clamp(v a, float lo, float hi) {
    return _mm256_min_ps(_mm256_set1_ps(hi), _mm256_max_ps(_mm256_set1_ps(lo), a));
  }
};
template <>
struct Part<4> {
  using v = __m128;
  static constexpr bool several = true;
  PRECUT_INLINE vf sums(const vf* a) {
    vf t = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
    vf u = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
    __m512d lo = _mm512_unpacklo_pd(_mm512_castps_pd(t), _mm512_castps_pd(u));
    __m512d hi = _mm512_unpackhi_pd(_mm512_castps_pd(t), _mm512_castps_pd(u));
    const __m512i turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_ps(turn, _mm512_add_ps(_mm512_castpd_ps(lo), _mm512_castpd_ps(hi)));
  }
  PRECUT_INLINE vf spread(const float* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
  PRECUT_INLINE vf gather(const float* p) {
    vf a = _mm512_castps128_ps512(_mm_loadu_ps(p));
    a = _mm512_insertf32x4(a, _mm_loadu_ps(p + L), 1);
    a = _mm512_insertf32x4(a, _mm_loadu_ps(p + 2 * L), 2);
    return _mm512_insertf32x4(a, _mm_loadu_ps(p + 3 * L), 3);
  }
  PRECUT_INLINE void scatter(float* p, vf a) {
    _mm_storeu_ps(p, _mm512_castps512_ps128(a));
    _mm_storeu_ps(p + L, _mm512_extractf32x4_ps(a, 1));
    _mm_storeu_ps(p + 2 * L, _mm512_extractf32x4_ps(a, 2));
    _mm_storeu_ps(p + 3 * L, _mm512_extractf32x4_ps(a, 3));
  }
  PRECUT_INLINE v sum(vf a) {
    vf t = _mm512_add_ps(a, _mm512_movehdup_ps(a));
    t = _mm512_add_ps(t, _mm512_permute_ps(t, 0x4e));
    const __m512i fourth = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(fourth, t));
  }
  PRECUT_INLINE v load(const float* p) { return _mm_loadu_ps(p); }
  PRECUT_INLINE void store(float* p, v a) { _mm_storeu_ps(p, a); }
  PRECUT_INLINE v add(v a, v b) { return _mm_add_ps(a, b); }
  PRECUT_INLINE v clamp(v a, float lo, float hi) { return _mm_min_ps(_mm_set1_ps(hi), _mm_max_ps(_mm_set1_ps(lo), a)); }
};
#elif defined(PRECUT_AVX2)
template <>
struct Part<2> {
  using v = __m128;
  static constexpr bool several = false;
  PRECUT_INLINE v sum(vf a) {
    vf t = _mm256_add_ps(a, _mm256_movehdup_ps(a));
    const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0);
    return _mm256_castps256_ps128(_mm256_permutevar8x32_ps(t, even));
  }
  PRECUT_INLINE v load(const float* p) { return _mm_loadu_ps(p); }
  PRECUT_INLINE void store(float* p, v a) { _mm_storeu_ps(p, a); }
  PRECUT_INLINE v add(v a, v b) { return _mm_add_ps(a, b); }
  PRECUT_INLINE v clamp(v a, float lo, float hi) { return _mm_min_ps(_mm_set1_ps(hi), _mm_max_ps(_mm_set1_ps(lo), a)); }
};
#endif

}  // namespace PRECUT_NS
}  // namespace precut
