// Products of quantized weights with activations rounded to 8 bits (AVX2, or AVX-512 VNNI where the compiler may use it).
//
// Four rows of weights at a time, each in its lane: what is done once for all of them is the work on activations, and no sum
// crosses a lane before the end of the rows. Up to four rows of activations share the codes.
#include <utility>

#include "ops/simd/lanes.h"

namespace kvt {
namespace {

// [d_x, d_x Σ qx, …] for the whole piece, or for half h of it
inline __m256 activation_pair(const Q8Block& x) {
  const __m128i pair = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(&x));        // d, d_sum
  return _mm256_castsi256_ps(_mm256_broadcastq_epi64(pair));
}
inline __m256 activation_pair(const Q8Block& x, int h) {
  return _mm256_castpd_ps(_mm256_broadcastsd_pd(_mm_castps_pd(_mm_setr_ps(x.d, x.d * float(x.sum[h]), 0, 0))));
}

template <class B, int T>
struct Accumulators {
  Sums sums[T][parts];                  // Σ d_x scale Σ c qx
  __m256 offsets[T];                    // odd lanes: Σ d_x offset Σ qx / offset_factor
};

// Piece j of block k of four rows of weights, `stride` bytes apart, with T rows of activations
template <int j, class B, int T>
inline __attribute__((always_inline)) void add_piece(Accumulators<B, T>& y, const B& w, int64_t stride, const FourScales<B>& scales, const Q8Block* x,
                                                     int64_t row_x) {
  Codes c[parts];
  for (int p = 0; p < parts; ++p) c[p] = codes_of<j>(w, stride, p);
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    const Q8Block& a = x[t * row_x + j];
    const Lanes x0 = everywhere(load16(a.q)), x1 = everywhere(load16(a.q + 16));
    const auto add = [&](__m256 both, auto dots) __attribute__((always_inline)) {
      for (int p = 0; p < parts; ++p) y.sums[t][p] = add_scaled(y.sums[t][p], dots(c[p]), spread_even(both, p));
      if constexpr (!is_signed<B>) y.offsets[t] = _mm256_add_ps(y.offsets[t], both);
    };
    if constexpr (halves<B>) {
      add(_mm256_mul_ps(scales[2 * j], activation_pair(a, 0)), [&](Codes q) __attribute__((always_inline)) { return dot(q.first, x0); });
      add(_mm256_mul_ps(scales[2 * j + 1], activation_pair(a, 1)), [&](Codes q) __attribute__((always_inline)) { return dot(q.second, x1); });
    } else if constexpr (is_signed<B>) {
      add(_mm256_mul_ps(scales[j], _mm256_set1_ps(a.d)), [&](Codes q) __attribute__((always_inline)) { return dot_signed(q.first, x0, q.second, x1); });
    } else {
      add(_mm256_mul_ps(scales[j], activation_pair(a)), [&](Codes q) __attribute__((always_inline)) { return dot(q.first, x0, q.second, x1); });
    }
  }
}

// `rows` ≤ 4 rows of weights with T of activations. Fewer than four are one row, four times: stride 0.
template <class B, int T>
inline void dot_tile(float* y, int64_t ldy, const B* w, int64_t stride, int rows, const Q8Block* x, int64_t n) {
  const int64_t row_x = n / 32;
  Accumulators<B, T> acc;
  for (int t = 0; t < T; ++t) {
    for (int p = 0; p < parts; ++p) acc.sums[t][p] = zeros();
    acc.offsets[t] = _mm256_setzero_ps();
  }
  const auto* ahead = reinterpret_cast<const char*>(w) + (16 << 10);                 // some rows later, to be there in time
  for (int64_t k = 0; k < n / B::numbers; ++k, ++w, x += pieces<B>, ahead += 4 * sizeof(B)) {
    for (size_t i = 0; i < 4 * sizeof(B); i += 64) _mm_prefetch(ahead + i, _MM_HINT_T1);
    const FourScales<B> scales(*w, stride);
    [&]<int... j>(std::integer_sequence<int, j...>) __attribute__((always_inline)) {
      (add_piece<j>(acc, *w, stride, scales, x, row_x), ...);
    }(std::make_integer_sequence<int, pieces<B>>());
  }
  for (int t = 0; t < T; ++t) {
    alignas(32) float offsets[8];
    _mm256_store_ps(offsets, acc.offsets[t]);
    for (int r = 0; r < rows; ++r) {
      const __m128 four = lane(acc.sums[t][r / rows_per_part], r % rows_per_part), pair = _mm_add_ps(four, _mm_movehl_ps(four, four));
      const float sum = _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
      y[t * ldy + r] = is_signed<B> ? sum : sum + float(offset_factor<B>()) * offsets[2 * r + 1];
    }
  }
}

template <class B, int T>
void dot_tiles(float* y, int64_t ldy, const B* w, const Q8Block* x, int64_t rows, int64_t n) {
  const int64_t row = n / B::numbers;
  for (; rows >= 4; rows -= 4, y += 4, w += 4 * row) dot_tile<B, T>(y, ldy, w, row * int64_t(sizeof(B)), 4, x, n);
  for (; rows > 0; --rows, ++y, w += row) dot_tile<B, T>(y, ldy, w, 0, 1, x, n);
}

template <class B>
void dot_rows(float* y, int64_t ldy, const void* weights, const Q8Block* x, int64_t rows, int64_t T, int64_t n) {
  const auto* w = static_cast<const B*>(weights);
  const int64_t row_x = n / 32;
  for (; T >= 4; T -= 4, y += 4 * ldy, x += 4 * row_x) dot_tiles<B, 4>(y, ldy, w, x, rows, n);
  for (; T >= 2; T -= 2, y += 2 * ldy, x += 2 * row_x) dot_tiles<B, 2>(y, ldy, w, x, rows, n);
  if (T > 0) dot_tiles<B, 1>(y, ldy, w, x, rows, n);
}

}  // namespace

void ISA::add_quants() {
  kernel::dot_q4_0.add(this_isa, dot_rows<BlockQ4_0>);
  kernel::dot_q4_1.add(this_isa, dot_rows<BlockQ4_1>);
  kernel::dot_q5_0.add(this_isa, dot_rows<BlockQ5_0>);
  kernel::dot_q5_1.add(this_isa, dot_rows<BlockQ5_1>);
  kernel::dot_q8_0.add(this_isa, dot_rows<BlockQ8_0>);
  kernel::dot_q4_k.add(this_isa, dot_rows<BlockQ4_K>);
  kernel::dot_q5_k.add(this_isa, dot_rows<BlockQ5_K>);
  kernel::dot_iq4_nl.add(this_isa, dot_rows<BlockIQ4_NL>);
  kernel::dot_q2_k.add(this_isa, dot_rows<BlockQ2_K>);
  kernel::dot_q3_k.add(this_isa, dot_rows<BlockQ3_K>);
  kernel::dot_q6_k.add(this_isa, dot_rows<BlockQ6_K>);
}

}  // namespace kvt
