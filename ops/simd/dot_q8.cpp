// Products of quantized weights with activations rounded to 8 bits (AVX2, or AVX-512 VNNI where the compiler may use it).
//
// One row of activations: four rows of weights at a time, so that the work on activations is shared and four streams of memory
// are in flight. More rows of activations: codes are unpacked once for four of them.
#include "ops/simd/blocks.h"

namespace kvt {
namespace {

// Eight sums of four products, unsigned times signed. Codes are below 64: no 16-bit sum saturates.
inline __m256i dot_bytes(__m256i u, __m256i s) {
#if defined(__AVX512VNNI__)
  return _mm256_dpbusd_epi32(_mm256_setzero_si256(), u, s);
#else
  return _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1));
#endif
}

template <class B>
inline __m256i dot_piece(__m256i c, __m256i x, const Scales<B>& scales, int j) {
  if constexpr (halves<B>) return _mm256_madd_epi16(_mm256_maddubs_epi16(c, x), scales.weights(j));
  else if constexpr (is_signed<B>) return dot_bytes(_mm256_abs_epi8(c), _mm256_sign_epi8(x, c));
  else return dot_bytes(c, x);
}

// [d_x, d_x Σ_h count_h sum_h]
inline __m128 activation_pair(const Q8Block& x, __m128i counts) {
  const __m128i head = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(&x));        // d, then the two sums
  const __m128 sums = _mm_cvtepi32_ps(_mm_madd_epi16(head, counts));
  return _mm_mul_ps(_mm_set1_ps(x.d), _mm_blend_ps(sums, _mm_set1_ps(1), 1));
}

// R rows of weights with T rows of activations
template <class B, int R, int T>
inline void dot_tile(float* y, int64_t ldy, const B* w, const Q8Block* x, int64_t n) {
  const int64_t row = n / B::numbers, row_x = n / 32;
  __m256 sums[R][T];                    // Σ d_x scale Σ c qx
  __m128 offsets[R][T];                 // lane 1: Σ d_x offset Σ qx
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) sums[r][t] = _mm256_setzero_ps(), offsets[r][t] = _mm_setzero_ps();
  for (int64_t k = 0; k < row; ++k) {
    const auto step = [&](int r, const Scales<B>& scales, int j, const __m128* shared) __attribute__((always_inline)) {
      const __m256i c = codes(w[r * row + k], j);
      const __m128 pair = scales.pair(j);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const Q8Block& a = x[t * row_x + k * pieces<B> + j];
        __m128 both;
        if constexpr (halves<B>) both = _mm_mul_ps(pair, activation_pair(a, scales.counts(j)));
        else both = _mm_mul_ps(pair, shared[t]);
        const __m256 dots = _mm256_cvtepi32_ps(dot_piece(c, load32(a.q), scales, j));
        sums[r][t] = _mm256_fmadd_ps(_mm256_broadcastss_ps(both), dots, sums[r][t]);
        if constexpr (!is_signed<B>) offsets[r][t] = _mm_add_ps(offsets[r][t], both);
      }
    };
    if constexpr (pieces<B> == 1) {
      __m128 shared[T];
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t)
        shared[t] = is_signed<B> ? _mm_set1_ps(x[t * row_x + k].d) : activation_pair(x[t * row_x + k], _mm_set1_epi16(offset_factor<B>()));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) step(r, Scales<B>(w[r * row + k]), 0, shared);
    } else {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Scales<B> scales(w[r * row + k]);
#pragma GCC unroll 8
        for (int j = 0; j < pieces<B>; ++j) {
          __m128 shared[T];
          if constexpr (!halves<B>)
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) shared[t] = activation_pair(x[t * row_x + k * pieces<B> + j], scales.counts(j));
          step(r, scales, j, shared);
        }
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) {
      const __m128 half = _mm_add_ps(_mm256_castps256_ps128(sums[r][t]), _mm256_extractf128_ps(sums[r][t], 1));
      const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
      y[t * ldy + r] = _mm_cvtss_f32(_mm_add_ss(_mm_add_ss(pair, _mm_movehdup_ps(pair)), _mm_movehdup_ps(offsets[r][t])));
    }
}

template <class B>
void dot(float* y, int64_t ldy, const void* weights, const Q8Block* x, int64_t rows, int64_t T, int64_t n) {
  constexpr int R = super<B> ? 1 : 4;
  const int64_t row = n / B::numbers, row_x = n / 32;
  for (; T >= 4; T -= 4, y += 4 * ldy, x += 4 * row_x) {
    const B* w = static_cast<const B*>(weights);
    for (int64_t r = 0; r < rows; ++r, w += row) dot_tile<B, 1, 4>(y + r, ldy, w, x, n);
  }
  for (; T > 0; --T, y += ldy, x += row_x) {
    const B* w = static_cast<const B*>(weights);
    int64_t r = 0;
    for (; r + R <= rows; r += R, w += R * row) dot_tile<B, R, 1>(y + r, ldy, w, x, n);
    for (; r < rows; ++r, w += row) dot_tile<B, 1, 1>(y + r, ldy, w, x, n);
  }
}

}  // namespace

void ISA::add_quants() {
  kernel::dot_q4_0.add(this_isa, dot<BlockQ4_0>);
  kernel::dot_q4_1.add(this_isa, dot<BlockQ4_1>);
  kernel::dot_q5_0.add(this_isa, dot<BlockQ5_0>);
  kernel::dot_q5_1.add(this_isa, dot<BlockQ5_1>);
  kernel::dot_q8_0.add(this_isa, dot<BlockQ8_0>);
  kernel::dot_q4_k.add(this_isa, dot<BlockQ4_K>);
  kernel::dot_q5_k.add(this_isa, dot<BlockQ5_K>);
  kernel::dot_iq4_nl.add(this_isa, dot<BlockIQ4_NL>);
#if !defined(__AVX512VNNI__)            // groups of 16 multiply by their scales in 16 bits, where VNNI has nothing to add
  kernel::dot_q2_k.add(this_isa, dot<BlockQ2_K>);
  kernel::dot_q3_k.add(this_isa, dot<BlockQ3_K>);
  kernel::dot_q6_k.add(this_isa, dot<BlockQ6_K>);
#endif
}

}  // namespace kvt
