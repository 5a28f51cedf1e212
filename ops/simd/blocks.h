// Quantized blocks in vector form (AVX2): the codes of 32 numbers as bytes, and what scales them.
//
// A block is read in pieces of 32 numbers, each against one Q8Block. With codes c_i ≥ 0 (q_i = c_i − zero), x_i ≈ d_x qx_i:
//
//   Σ w_i x_i  =  d_x scale Σ c_i qx_i  +  d_x offset Σ qx_i            group by group, of 32 or 16 numbers
//
// where `zero` is part of the offset. Types with signed codes have no offset. Bit layouts: ops/quant_blocks.h, of which this
// file uses the data members and constants alone.
#pragma once
#include <immintrin.h>

#include "ops/quant_blocks.h"
#include "ops/simd/vec.h"

namespace kvt {
namespace {

inline uint32_t load_u32(const void* p) { uint32_t v; __builtin_memcpy(&v, p, sizeof v); return v; }
inline uint64_t load_u64(const void* p) { uint64_t v; __builtin_memcpy(&v, p, sizeof v); return v; }
inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

template <class B> constexpr bool is_signed = std::is_same_v<B, BlockQ8_0> || std::is_same_v<B, BlockIQ4_NL>;
template <class B> constexpr bool halves = B::group == 16;
template <class B> constexpr bool super = B::numbers == 256;
template <class B> constexpr int pieces = B::numbers / 32;

// --- codes: 32 bytes, number by number ---

// Plane<4, 16, 32>: low nibbles, then high ones
inline __m256i nibbles(const uint8_t* p) {
  const __m256i both = _mm256_broadcastsi128_si256(load16(p));
  return _mm256_and_si256(_mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)), _mm256_set1_epi8(15));
}

// 32 bits to 32 bytes of 0 or 16
inline __m256i fifth_bits(const uint8_t* p) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return _mm256_maskz_set1_epi8(load_u32(p), 16);
#else
  const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(int64_t(0x8040201008040201));
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(int(load_u32(p))), spread);
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit), _mm256_set1_epi8(16));
#endif
}

// Piece j of a plane whose stride is 32 or 64: one bit field of 32 consecutive bytes.
template <int bits, int stride>
inline __m256i field(const Plane<bits, stride, 256>& plane, int j) {
  constexpr int per_chunk = 8 / bits * stride / 32, per_stride = stride / 32;
  const int byte = j / per_chunk * stride + j % per_stride * 32, shift = j / per_stride % (8 / bits) * bits;
  return _mm256_and_si256(_mm256_srl_epi16(load32(plane.bytes + byte), _mm_cvtsi32_si128(shift)), _mm256_set1_epi8((1 << bits) - 1));
}

inline __m256i codes(const BlockQ4_0& b, int) { return nibbles(b.low.bytes); }
inline __m256i codes(const BlockQ4_1& b, int) { return nibbles(b.low.bytes); }
inline __m256i codes(const BlockQ5_0& b, int) { return _mm256_or_si256(nibbles(b.low.bytes), fifth_bits(b.high.bytes)); }
inline __m256i codes(const BlockQ5_1& b, int) { return _mm256_or_si256(nibbles(b.low.bytes), fifth_bits(b.high.bytes)); }
inline __m256i codes(const BlockQ8_0& b, int) { return load32(b.q); }
inline __m256i codes(const BlockIQ4_NL& b, int) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(iq4_nl_levels)), nibbles(b.low.bytes));
}
inline __m256i codes(const BlockQ2_K& b, int j) { return field(b.low, j); }
inline __m256i codes(const BlockQ3_K& b, int j) { return _mm256_or_si256(field(b.low, j), _mm256_slli_epi16(field(b.high, j), 2)); }
inline __m256i codes(const BlockQ4_K& b, int j) { return field(b.low, j); }
inline __m256i codes(const BlockQ5_K& b, int j) { return _mm256_or_si256(field(b.low, j), _mm256_slli_epi16(field(b.high, j), 4)); }
inline __m256i codes(const BlockQ6_K& b, int j) { return _mm256_or_si256(field(b.low, j), _mm256_slli_epi16(field(b.high, j), 4)); }

// --- scales ---

// [d, m] or [d, d]
template <class B>
inline __m128 stored_pair(const B& b) {
  if constexpr (has_min<B>) return _mm_cvtph_ps(_mm_cvtsi32_si128(int(load_u32(&b.d))));
  else return _mm_cvtph_ps(_mm_cvtsi32_si128(int(uint32_t(b.d) * 0x10001)));
}

// The offset is this times the second number of a pair of scales.
template <class B>
constexpr int offset_factor() {
  if constexpr (is_signed<B>) return 0;
  else if constexpr (has_min<B>) return super<B> ? -1 : 1;
  else return -B::zero;
}

// Small integers [s_g, n_g] of the K types, group after group, as bytes; where no n_g is stored, [s_g, s_g].
struct BytePairs { __m128i v[2]; };
inline BytePairs interleave(__m128i s, __m128i n) { return {{_mm_unpacklo_epi8(s, n), _mm_unpackhi_epi8(s, n)}}; }

inline BytePairs byte_pairs(const SixBitPairs& p) {
  const uint32_t s = load_u32(p.bytes), n = load_u32(p.bytes + 4), mixed = load_u32(p.bytes + 8);
  const uint32_t s_high = (mixed & 0x0f0f0f0f) | (s >> 2 & 0x30303030), n_high = (mixed >> 4 & 0x0f0f0f0f) | (n >> 2 & 0x30303030);
  return interleave(_mm_set_epi32(0, 0, int(s_high), int(s & 0x3f3f3f3f)), _mm_set_epi32(0, 0, int(n_high), int(n & 0x3f3f3f3f)));
}
inline BytePairs byte_pairs(const BlockQ4_K& b) { return byte_pairs(b.scales); }
inline BytePairs byte_pairs(const BlockQ5_K& b) { return byte_pairs(b.scales); }
inline BytePairs byte_pairs(const BlockQ2_K& b) {
  const __m128i both = load16(b.scales), low = _mm_set1_epi8(15);
  return interleave(_mm_and_si128(both, low), _mm_and_si128(_mm_srli_epi16(both, 4), low));
}
inline BytePairs byte_pairs(const BlockQ3_K& b) {
  const uint64_t low = load_u64(b.scales_low.bytes);
  const uint32_t high = load_u32(b.scales_high.bytes);
  const __m128i four = _mm_set_epi64x(int64_t(low >> 4 & 0x0f0f0f0f0f0f0f0f), int64_t(low & 0x0f0f0f0f0f0f0f0f));
  const __m128i two = _mm_and_si128(_mm_set_epi32(int(high >> 6), int(high >> 4), int(high >> 2), int(high)), _mm_set1_epi8(3));
  const __m128i s = _mm_sub_epi8(_mm_or_si128(four, _mm_slli_epi16(two, 4)), _mm_set1_epi8(32));
  return interleave(s, s);
}
inline BytePairs byte_pairs(const BlockQ6_K& b) { return interleave(load16(b.scales), load16(b.scales)); }

// [scale, offset / offset_factor] of every group
template <class B>
struct Scales {
  static constexpr int numbers = 2 * B::numbers / B::group;
  alignas(32) float pairs[numbers < 4 ? 4 : numbers];

  explicit Scales(const B& b) {
    if constexpr (super<B>) {
      const __m256 dm = _mm256_castpd_ps(_mm256_broadcastsd_pd(_mm_castps_pd(stored_pair(b))));
      const BytePairs sn = byte_pairs(b);
#pragma GCC unroll 4
      for (int i = 0; i < numbers; i += 8) {
        const __m128i eight = i % 16 ? _mm_srli_si128(sn.v[i / 16], 8) : sn.v[i / 16];
        _mm256_store_ps(pairs + i, _mm256_mul_ps(dm, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight))));
      }
    } else {
      _mm_store_ps(pairs, stored_pair(b));
    }
  }
};

}  // namespace
}  // namespace kvt
