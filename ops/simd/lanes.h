// Four rows of quantized weights side by side: each fills 128 bits of a register, its lane. AVX-512 holds them in one register,
// AVX2 in two `parts`. What rows share (activations) is broadcast to all lanes; what is a row's own (scales) spreads over its lane.
//
//   part 0            row 0        row 1      part 1  row 2        row 3            AVX2
//                 [ 16 codes | 16 codes ]         [ 16 codes | 16 codes ]
#pragma once
#include "ops/simd/blocks.h"

namespace kvt {
namespace {

#if defined(__AVX512VNNI__)

using Lanes = __m512i;
using Sums = __m512;
constexpr int parts = 1;

// 16 bytes of each row; rows are `stride` bytes apart.
inline Lanes gather(const void* from, int64_t stride) {
  const auto* p = static_cast<const uint8_t*>(from);
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p)), load16(p + stride), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p + 2 * stride)), load16(p + 3 * stride), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
inline Lanes everywhere(__m128i v) { return _mm512_broadcast_i32x4(v); }
inline Lanes bytes_of(int v) { return _mm512_set1_epi8(char(v)); }
template <int by> inline Lanes down(Lanes a) { return _mm512_srli_epi16(a, by); }
template <int by> inline Lanes up(Lanes a) { return _mm512_slli_epi16(a, by); }
inline Lanes pick(Lanes from, Lanes at) { return _mm512_shuffle_epi8(from, at); }      // bytes of the same lane
inline Lanes sixteen_where(Lanes a, Lanes bit) { return _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(a, bit), bytes_of(16)); }

// 32-bit words of a register, the r-th or the 2r-th to all of lane r
inline Lanes spread(__m128i v, int) {
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3), _mm512_castsi128_si512(v));
}
inline Sums spread_even(__m256 v, int) {
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6), _mm512_castps256_ps512(v));
}

// Sums of products of four neighbours
inline Lanes dot(Lanes u, Lanes x) { return _mm512_dpbusd_epi32(_mm512_setzero_si512(), u, x); }
inline Lanes dot(Lanes u0, Lanes x0, Lanes u1, Lanes x1) { return _mm512_dpbusd_epi32(dot(u0, x0), u1, x1); }
// The instruction wants one unsigned factor: c x = (c + 128) x − 128 x, where c + 128 is c with its top bit turned.
inline Lanes dot_signed(Lanes c0, Lanes x0, Lanes c1, Lanes x1) {
  const Lanes top = bytes_of(128), excess = dot(top, x0, top, x1);
  return _mm512_sub_epi32(dot(c0 ^ top, x0, c1 ^ top, x1), excess);
}

inline Sums zeros() { return _mm512_setzero_ps(); }
inline Sums add_scaled(Sums to, Lanes dots, Sums scale) { return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, to); }
inline __m128 lane(Sums v, int r) {
  alignas(64) float x[16];
  _mm512_store_ps(x, v);
  return _mm_load_ps(x + 4 * r);
}

#else

using Lanes = __m256i;
using Sums = __m256;
constexpr int parts = 2;

inline Lanes gather(const void* from, int64_t stride) {
  const auto* p = static_cast<const uint8_t*>(from);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p)), load16(p + stride), 1);
}
inline Lanes everywhere(__m128i v) { return _mm256_broadcastsi128_si256(v); }
inline Lanes bytes_of(int v) { return _mm256_set1_epi8(char(v)); }
template <int by> inline Lanes down(Lanes a) { return _mm256_srli_epi16(a, by); }
template <int by> inline Lanes up(Lanes a) { return _mm256_slli_epi16(a, by); }
inline Lanes pick(Lanes from, Lanes at) { return _mm256_shuffle_epi8(from, at); }
inline Lanes sixteen_where(Lanes a, Lanes bit) { return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(a, bit), bit), bytes_of(16)); }

inline Lanes spread(__m128i v, int part) {
  const __m128i two = part ? _mm_unpackhi_epi64(v, v) : v;
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_shuffle_epi32(two, 0x00)), _mm_shuffle_epi32(two, 0x55), 1);
}
inline Sums spread_even(__m256 v, int part) {
  return _mm256_permutevar8x32_ps(v, part ? _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6) : _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2));
}

// Codes are below 64: no 16-bit sum of four products saturates.
inline Lanes pairs_to_sums(Lanes v) { return _mm256_madd_epi16(v, _mm256_set1_epi16(1)); }
inline Lanes dot(Lanes u, Lanes x) { return pairs_to_sums(_mm256_maddubs_epi16(u, x)); }
inline Lanes dot(Lanes u0, Lanes x0, Lanes u1, Lanes x1) {
  return pairs_to_sums(_mm256_add_epi16(_mm256_maddubs_epi16(u0, x0), _mm256_maddubs_epi16(u1, x1)));
}
inline Lanes dot_signed(Lanes c0, Lanes x0, Lanes c1, Lanes x1) {
  return _mm256_add_epi32(dot(_mm256_abs_epi8(c0), _mm256_sign_epi8(x0, c0)), dot(_mm256_abs_epi8(c1), _mm256_sign_epi8(x1, c1)));
}

inline Sums zeros() { return _mm256_setzero_ps(); }
inline Sums add_scaled(Sums to, Lanes dots, Sums scale) { return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, to); }
inline __m128 lane(Sums v, int r) { return r ? _mm256_extractf128_ps(v, 1) : _mm256_castps256_ps128(v); }

#endif

constexpr int rows_per_part = 4 / parts;

// --- codes of a piece of 32 numbers: its first and its second sixteen; `stride` is what a row takes ---

struct Codes { Lanes first, second; };

// Plane<4, 16, 32>: low nibbles, then high ones
inline Codes nibbles(const uint8_t* p, int64_t stride) {
  const Lanes both = gather(p, stride), low = bytes_of(15);
  return {both & low, down<4>(both) & low};
}

// 32 bits of each row to 32 bytes of 0 or 16; `v` holds those of all four rows
inline Codes fifth_bits(__m128i v, int part) {
  const Lanes bit = everywhere(_mm_set1_epi64x(int64_t(0x8040201008040201))), bits = spread(v, part);
  const auto bytes = [&](long long to_low, long long to_high) { return pick(bits, everywhere(_mm_set_epi64x(to_high, to_low))); };
  return {sixteen_where(bytes(0, 0x0101010101010101), bit), sixteen_where(bytes(0x0202020202020202, 0x0303030303030303), bit)};
}

// Piece j of a plane whose stride is 32 or 64: one bit field of 32 consecutive bytes, moved to bit `to`.
template <int j, int to, int bits, int plane_stride>
inline Codes field_of(const Plane<bits, plane_stride, 256>& plane, int64_t stride) {
  constexpr int per_chunk = 8 / bits * plane_stride / 32, per_stride = plane_stride / 32;
  constexpr int byte = j / per_chunk * plane_stride + j % per_stride * 32, shift = j / per_stride % (8 / bits) * bits;
  const Lanes mask = bytes_of(((1 << bits) - 1) << to);
  const auto moved = [&](const uint8_t* p) {
    if constexpr (shift >= to) return down<shift - to>(gather(p, stride)) & mask;
    else return up<to - shift>(gather(p, stride)) & mask;
  };
  return {moved(plane.bytes + byte), moved(plane.bytes + byte + 16)};
}

inline Codes operator|(Codes a, Codes b) { return {a.first | b.first, a.second | b.second}; }

// 32 bits of each of four rows
inline __m128i gather_words(const void* from, int64_t stride) {
  const auto* p = static_cast<const uint8_t*>(from);
  return _mm_setr_epi32(int(load_u32(p)), int(load_u32(p + stride)), int(load_u32(p + 2 * stride)), int(load_u32(p + 3 * stride)));
}

// Piece j of the rows of one part; b is the block in the first of the four rows.
template <int j, class B>
inline Codes codes_of(const B& b, int64_t stride, int part) {
  const B& at = *reinterpret_cast<const B*>(reinterpret_cast<const uint8_t*>(&b) + part * rows_per_part * stride);
  if constexpr (std::is_same_v<B, BlockQ8_0>) {
    return {gather(at.q, stride), gather(at.q + 16, stride)};
  } else if constexpr (super<B>) {
    if constexpr (requires { b.high; }) return field_of<j, 0>(at.low, stride) | field_of<j, decltype(B::low)::width>(at.high, stride);
    else return field_of<j, 0>(at.low, stride);
  } else {
    const Codes low = nibbles(at.low.bytes, stride);
    [[maybe_unused]] const Lanes levels = everywhere(load16(iq4_nl_levels));
    if constexpr (std::is_same_v<B, BlockIQ4_NL>) return {pick(levels, low.first), pick(levels, low.second)};
    else if constexpr (requires { b.high; }) return low | fifth_bits(gather_words(b.high.bytes, stride), part);
    else return low;
  }
}

// --- scales ---

// [scale_0, offset_0, … scale_3, offset_3] of four rows, group by group
template <class B>
struct FourScales {
  __m256 pairs;
  FourScales(const B& b, int64_t stride) {
    const __m256 stored = _mm256_cvtph_ps(gather_words(&b.d, stride));
    pairs = has_min<B> || is_signed<B> ? stored : _mm256_moveldup_ps(stored);       // a signed type has no offset: anything will do
  }
  __m256 operator[](int) const { return pairs; }
};

template <class B>
  requires super<B>
struct FourScales<B> {
  Scales<B> row[4];
  FourScales(const B& b, int64_t stride) : row{Scales<B>(at(b, 0)), Scales<B>(at(b, stride)), Scales<B>(at(b, 2 * stride)), Scales<B>(at(b, 3 * stride))} {}
  __m256 operator[](int g) const {
    const auto two = [g](const Scales<B>& a, const Scales<B>& b) {
      const __m128 low = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a.pairs + 2 * g)));
      return _mm_loadh_pi(low, reinterpret_cast<const __m64*>(b.pairs + 2 * g));
    };
    return _mm256_insertf128_ps(_mm256_castps128_ps256(two(row[0], row[1])), two(row[2], row[3]), 1);
  }

 private:
  static const B& at(const B& b, int64_t bytes) { return *reinterpret_cast<const B*>(reinterpret_cast<const uint8_t*>(&b) + bytes); }
};

}  // namespace
}  // namespace kvt
