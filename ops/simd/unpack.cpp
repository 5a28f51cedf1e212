// Quantized blocks to floats, and activations to 8 bits (AVX2).
#include <cfloat>

#include "ops/simd/blocks.h"

namespace kvt {
namespace {

inline void store_scaled(float* y, __m128i bytes, bool is_signed_code, __m256 scale, __m256 offset) {
  for (int half = 0; half < 2; ++half, bytes = _mm_srli_si128(bytes, 8)) {
    const __m256i q = is_signed_code ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    _mm256_storeu_ps(y + 8 * half, _mm256_fmadd_ps(_mm256_cvtepi32_ps(q), scale, offset));
  }
}

template <class B>
void unpack(float* y, const void* x, int64_t n) {
  const B* b = static_cast<const B*>(x);
  for (; n > 0; n -= B::numbers, ++b) {
    const Scales<B> scales(*b);
    for (int j = 0; j < pieces<B>; ++j, y += 32) {
      const __m256i c = codes(*b, j);
      for (int h = 0; h < 2; ++h) {
        const int g = halves<B> ? 2 * j + h : j;
        const float scale = scales.pairs[2 * g], offset = float(offset_factor<B>()) * scales.pairs[2 * g + 1];
        store_scaled(y + 16 * h, h ? _mm256_extracti128_si256(c, 1) : _mm256_castsi256_si128(c), is_signed<B>, _mm256_set1_ps(scale), _mm256_set1_ps(offset));
      }
    }
  }
}

void quantize_q8(Q8Block* y, const float* x, int64_t n) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  for (; n > 0; n -= 32, x += 32, ++y) {
    const __m256 x0 = _mm256_loadu_ps(x), x1 = _mm256_loadu_ps(x + 8), x2 = _mm256_loadu_ps(x + 16), x3 = _mm256_loadu_ps(x + 24);
    const __m256 m01 = _mm256_max_ps(_mm256_and_ps(x0, magnitude), _mm256_and_ps(x1, magnitude));
    const __m256 m23 = _mm256_max_ps(_mm256_and_ps(x2, magnitude), _mm256_and_ps(x3, magnitude));
    const __m256 m = _mm256_max_ps(m01, m23);
    __m128 top = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    top = _mm_max_ps(top, _mm_movehl_ps(top, top));
    const float most = _mm_cvtss_f32(_mm_max_ss(top, _mm_movehdup_ps(top)));
    y->d = most / 127;
    const __m256 inverse = _mm256_set1_ps(y->d < FLT_MIN ? 0 : 1 / y->d);      // 1/d of a subnormal overflows
    const __m256i q0 = _mm256_cvtps_epi32(_mm256_mul_ps(x0, inverse)), q1 = _mm256_cvtps_epi32(_mm256_mul_ps(x1, inverse));
    const __m256i q2 = _mm256_cvtps_epi32(_mm256_mul_ps(x2, inverse)), q3 = _mm256_cvtps_epi32(_mm256_mul_ps(x3, inverse));
    // packing works within 128-bit lanes; the permutation undoes that
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q0, q1), _mm256_packs_epi32(q2, q3));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y->q), _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    const auto total = [](__m256i v) {
      const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
      const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
      return int16_t(_mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1))));
    };
    y->sum[0] = total(_mm256_add_epi32(q0, q1));
    y->sum[1] = total(_mm256_add_epi32(q2, q3));
    y->d_sum = y->d * float(y->sum[0] + y->sum[1]);
  }
}

}  // namespace

void ISA::add_blocks() {
  kernel::quantize_q8.add(this_isa, quantize_q8);
  kernel::unpack_q4_0.add(this_isa, unpack<BlockQ4_0>);
  kernel::unpack_q4_1.add(this_isa, unpack<BlockQ4_1>);
  kernel::unpack_q5_0.add(this_isa, unpack<BlockQ5_0>);
  kernel::unpack_q5_1.add(this_isa, unpack<BlockQ5_1>);
  kernel::unpack_q8_0.add(this_isa, unpack<BlockQ8_0>);
  kernel::unpack_q2_k.add(this_isa, unpack<BlockQ2_K>);
  kernel::unpack_q3_k.add(this_isa, unpack<BlockQ3_K>);
  kernel::unpack_q4_k.add(this_isa, unpack<BlockQ4_K>);
  kernel::unpack_q5_k.add(this_isa, unpack<BlockQ5_K>);
  kernel::unpack_q6_k.add(this_isa, unpack<BlockQ6_K>);
  kernel::unpack_iq4_nl.add(this_isa, unpack<BlockIQ4_NL>);
}

}  // namespace kvt
