// Vectors of floats for the kernels in this folder. Each file is compiled once per instruction set (-DISA=avx2 …), so everything
// here has internal linkage: an inline function compiled for AVX must never serve the rest of the program.
//
//   sweep(n, [&](auto at) { at.store(y, at.load(x) * s); });        // whole vectors, then one partial vector
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <xsimd/xsimd.hpp>

#include "ops/kernels.h"

namespace kvt {
namespace ISA {       // declared here, defined file by file; ops/simd/kernels.cpp and arm/kernels.cpp call them
void add_attention();
void add_dots();
void add_maps();
void add_norms();
void add_products();
void add_products_bf16();
void add_products_amx();
void add_blocks();
void add_interleaved_dots();
void add_interleaved_pairs();
void add_quants();
void add_softmax();
void add_unpacks();
}  // namespace ISA

namespace {

constexpr Isa this_isa = Isa::ISA;

using V = xsimd::batch<float>;
using I = xsimd::batch<int32_t>;
constexpr int W = int(V::size);
constexpr float infinity = std::numeric_limits<float>::infinity();

inline V load(const float* p) { return V::load_unaligned(p); }
inline void store(float* p, V v) { v.store_unaligned(p); }

// A float as its bits, and back. xsimd 8 does this on NEON through a table of functions: calls in the middle of a loop.
inline I bits(V v) {
#if defined(__aarch64__)
  return vreinterpretq_s32_f32(v);
#else
  return xsimd::bitwise_cast<I>(v);
#endif
}
inline V from_bits(I v) {
#if defined(__aarch64__)
  return vreinterpretq_f32_s32(v);
#else
  return xsimd::bitwise_cast<V>(v);
#endif
}

inline V fma(V a, V b, V c) { return xsimd::fma(a, b, c); }        // a b + c

// The first n < W numbers; the rest of the vector is `fill`. Nothing behind the n-th is touched.
inline V load(const float* p, int64_t n, float fill) {
#if defined(__AVX512F__)
  return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), __mmask16((1u << n) - 1), p);
#else
  alignas(64) float buffer[W];
  for (int i = 0; i < W; ++i) buffer[i] = i < n ? p[i] : fill;
  return V::load_aligned(buffer);
#endif
}
inline void store(float* p, int64_t n, V v) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), v);
#else
  alignas(64) float buffer[W];
  v.store_aligned(buffer);
  for (int i = 0; i < n; ++i) p[i] = buffer[i];
#endif
}

struct Whole {
  int64_t i;
  V load(const float* p, float = 0) const { return kvt::load(p + i); }
  void store(float* p, V v) const { kvt::store(p + i, v); }
};
struct Part {
  int64_t i, n;
  V load(const float* p, float fill = 0) const { return kvt::load(p + i, n, fill); }
  void store(float* p, V v) const { kvt::store(p + i, n, v); }
};

template <class F>
inline void sweep(int64_t n, F f) {
  int64_t i = 0;
  for (; i + W <= n; i += W) f(Whole{i});
  if (i < n) f(Part{i, n - i});
}

inline float sum(V v) {
#if defined(__AVX512F__)
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
#else
  return xsimd::hadd(v);
#endif
}
inline float largest(V v) {
  alignas(64) float x[W];
  v.store_aligned(x);
  float m = x[0];
  for (int i = 1; i < W; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

// e^x to 1 ulp for x ≥ −86; 0 below, ∞ above 88.72.  e^x = 2^n e^r with n = round(x / ln 2): adding 1.5 · 2²³ rounds to an
// integer and leaves it in the low bits, ready to become an exponent. ln 2 in two parts keeps r exact. The polynomial is the one
// of the Cephes library (Moshier). 2^n is applied as 2^(n − 1) and 2, for n = 128 has no float.
inline V exp(V x) {
  const V magic(12582912.0f);
  const V clamped = xsimd::min(xsimd::max(x, V(-86.5f)), V(89.0f));
  const V shifted = fma(clamped, V(1.44269504f), magic);
  const V n = shifted - magic;
  const V r = xsimd::fnma(n, V(-2.12194440e-4f), xsimd::fnma(n, V(0.693359375f), clamped));
  V p = fma(V(1.9875691500e-4f), r, V(1.3981999507e-3f));
  p = fma(p, r, V(8.3334519073e-3f));
  p = fma(p, r, V(4.1665795894e-2f));
  p = fma(p, r, V(1.6666665459e-1f));
  p = fma(p, r, V(5.0000001201e-1f));
  p = fma(p, r * r, r + V(1.0f));
  const V half_power = from_bits((bits(shifted) << 23) + I(126 << 23));
  return xsimd::select(x < V(-86.5f), V(0.0f), p * half_power * V(2.0f));
}

// 2^y for y ≤ 0 to 1.6e-7; 0 below −126.5, by AVX-512 below −126. NaN stays NaN.
#if defined(__AVX512DQ__)
// y = ⌊y⌋ + f: VREDUCEPS gives f and VSCALEFPS applies 2^⌊y⌋, one operation each. The polynomial is minimax (7.5e-8) for 2^f, 0 ≤ f ≤ 1. Where
// y < −126 there would be denormal numbers, each of which costs as much as a hundred others.
inline V exp2_negative(V y) {
  const V f = _mm512_reduce_ps(y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  V p = fma(V(0.00187757495f), f, V(0.00898934435f));
  p = fma(p, f, V(0.0558263138f));
  p = fma(p, f, V(0.240153611f));
  p = fma(p, f, V(0.693153083f));
  p = fma(p, f, V(0.99999994f));
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(y, V(-126.0f), _CMP_NLT_UQ), p, y);
}
#else
// As in exp() y = n + f, but the number added carries the exponent's bias too, so that its low bits, moved up, are the float 2^n, and 0 for
// n = −127. The polynomial is minimax for 2^f, |f| ≤ 1/2.
inline V exp2_negative(V y) {
  const V magic(12582912.0f + 127);
  y = xsimd::max(V(-127.0f), y);
  const V shifted = y + magic;
  const V f = y - (shifted - magic);
  V p = fma(V(0.00132764717f), f, V(0.00967554133f));
  p = fma(p, f, V(0.0555071327f));
  p = fma(p, f, V(0.240221197f));
  p = fma(p, f, V(0.693146967f));
  p = fma(p, f, V(1.00000007f));
  return p * from_bits(bits(shifted) << 23);
}
#endif

inline V sigmoid(V x) { return V(1.0f) / (V(1.0f) + exp(-x)); }

}  // namespace
}  // namespace kvt
