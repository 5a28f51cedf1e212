// Quantized blocks in NEON form: 32 numbers as signed bytes, and what scales them. The 128-bit sister of ops/simd/blocks.h; here
// the products are signed, so codes become q = code − zero at once and only types with a minimum have an offset.
#pragma once
#include <arm_neon.h>

#include "ops/quant_blocks.h"
#include "ops/simd/vec.h"

namespace kvt {
namespace {

template <class B> constexpr bool halves = B::group == 16;
template <class B> constexpr int pieces = B::numbers / 32;

struct Bytes { uint8x16_t v[2]; };     // the halves of a piece of 32 numbers
struct Codes { int8x16_t q[2]; };

inline float half_to_float(uint16_t h) {
  __fp16 f;
  __builtin_memcpy(&f, &h, sizeof f);
  return float(f);
}

// Plane<4, 16, 32>: low nibbles, then high ones
inline Bytes nibbles(const uint8_t* p) {
  const uint8x16_t both = vld1q_u8(p);
  return {{vandq_u8(both, vdupq_n_u8(15)), vshrq_n_u8(both, 4)}};
}

// 32 bits to 32 bytes of 0 or 16
inline Bytes fifth_bits(const uint8_t* p) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  Bytes y;
  for (int h = 0; h < 2; ++h)
    y.v[h] = vandq_u8(vtstq_u8(vcombine_u8(vdup_n_u8(p[2 * h]), vdup_n_u8(p[2 * h + 1])), bit), vdupq_n_u8(16));
  return y;
}

// Piece j of a plane whose stride is 32 or 64: one bit field of 32 consecutive bytes, moved to bit `to`.
template <int bits, int stride>
inline Bytes field(const Plane<bits, stride, 256>& plane, int j, int to = 0) {
  constexpr int per_chunk = 8 / bits * stride / 32, per_stride = stride / 32;
  const uint8_t* p = plane.bytes + j / per_chunk * stride + j % per_stride * 32;
  const int8x16_t down = vdupq_n_s8(int8_t(-(j / per_stride % (8 / bits) * bits))), up = vdupq_n_s8(int8_t(to));
  Bytes y;
  for (int h = 0; h < 2; ++h) y.v[h] = vshlq_u8(vandq_u8(vshlq_u8(vld1q_u8(p + 16 * h), down), vdupq_n_u8((1 << bits) - 1)), up);
  return y;
}

inline Bytes operator|(Bytes a, Bytes b) { return {{vorrq_u8(a.v[0], b.v[0]), vorrq_u8(a.v[1], b.v[1])}}; }
inline Codes minus(Bytes b, int zero) {
  const int8x16_t z = vdupq_n_s8(int8_t(zero));
  return {{vsubq_s8(vreinterpretq_s8_u8(b.v[0]), z), vsubq_s8(vreinterpretq_s8_u8(b.v[1]), z)}};
}

inline Codes codes(const BlockQ4_0& b, int) { return minus(nibbles(b.low.bytes), 8); }
inline Codes codes(const BlockQ4_1& b, int) { return minus(nibbles(b.low.bytes), 0); }
inline Codes codes(const BlockQ5_0& b, int) { return minus(nibbles(b.low.bytes) | fifth_bits(b.high.bytes), 16); }
inline Codes codes(const BlockQ5_1& b, int) { return minus(nibbles(b.low.bytes) | fifth_bits(b.high.bytes), 0); }
inline Codes codes(const BlockQ8_0& b, int) { return {{vld1q_s8(b.q), vld1q_s8(b.q + 16)}}; }
inline Codes codes(const BlockIQ4_NL& b, int) {
  const int8x16_t levels = vld1q_s8(iq4_nl_levels);
  const Bytes n = nibbles(b.low.bytes);
  return {{vqtbl1q_s8(levels, n.v[0]), vqtbl1q_s8(levels, n.v[1])}};
}
inline Codes codes(const BlockQ2_K& b, int j) { return minus(field(b.low, j), 0); }
inline Codes codes(const BlockQ3_K& b, int j) { return minus(field(b.low, j) | field(b.high, j, 2), 4); }
inline Codes codes(const BlockQ4_K& b, int j) { return minus(field(b.low, j), 0); }
inline Codes codes(const BlockQ5_K& b, int j) { return minus(field(b.low, j) | field(b.high, j, 4), 0); }
inline Codes codes(const BlockQ6_K& b, int j) { return minus(field(b.low, j) | field(b.high, j, 4), 32); }

// Scale and offset of every group, decoded once a block
template <class B>
struct Scales {
  static constexpr int groups = B::numbers / B::group;
  float scale[groups], offset[groups];
  explicit Scales(const B& b) {
    const float d = half_to_float(b.d);
    for (int g = 0; g < groups; ++g) {
      if constexpr (has_sub_scales<B>) scale[g] = d * float(b.s(g));
      else scale[g] = d;
      if constexpr (has_min<B> && has_sub_scales<B>) offset[g] = -half_to_float(b.m) * float(b.n(g));
      else if constexpr (has_min<B>) offset[g] = half_to_float(b.m);
      else offset[g] = 0;
    }
  }
};

}  // namespace
}  // namespace kvt
