// The bytes of each block type, and what reads any of them: two reference kernels written once for all types.
//
// A block is a few groups of numbers that share a scale:  x_i = scale_g q_i + offset_g,  with small integers q_i.
//
//   type    numbers  group   q                 scale_g            offset_g
//   Q4_0       32      32    code − 8          d                  0
//   Q4_1       32      32    code              d                  m
//   Q5_0       32      32    code − 16         d                  0
//   Q5_1       32      32    code              d                  m
//   Q8_0       32      32    code (signed)     d                  0
//   IQ4_NL     32      32    levels[code]      d                  0
//   Q2_K      256      16    code              d s_g  (4 bits)    −m n_g  (4 bits)
//   Q3_K      256      16    code − 4          d s_g  (6, signed) 0
//   Q4_K      256      32    code              d s_g  (6 bits)    −m n_g  (6 bits)
//   Q5_K      256      32    code              d s_g  (6 bits)    −m n_g  (6 bits)
//   Q6_K      256      16    code − 32         d s_g  (8, signed) 0
//
// Codes lie in planes: bytes whose bit fields belong to numbers `stride` apart, so that a vector instruction unpacks them.
#pragma once
#include <bit>
#include <cstring>

#include "ops/quant.h"

namespace kvt {

// A plane of `bits`-wide fields for `numbers` numbers. Byte i mod stride of a chunk holds the numbers i, i + stride, …
// from its lowest bits up; chunks of 8/bits · stride numbers follow each other.
template <int bits, int stride, int numbers>
struct Plane {
  static constexpr int width = bits, per_byte = 8 / bits, mask = (1 << bits) - 1;
  uint8_t bytes[numbers / per_byte];

  static constexpr int byte(int i) { return i / (stride * per_byte) * stride + i % stride; }
  static constexpr int shift(int i) { return i / stride % per_byte * bits; }
  int get(int i) const { return bytes[byte(i)] >> shift(i) & mask; }
  void set(int i, int code) { bytes[byte(i)] = uint8_t((bytes[byte(i)] & ~(mask << shift(i))) | code << shift(i)); }
};

// What a block type tells of itself: how many `numbers` it holds, how many share a scale (`group`), the bounds of q, the code of
// q = 0 (`zero`), planes low and perhaps high; for the K types how s_g and n_g are stored. The functions below do the rest.

struct BlockQ4_0 {
  static constexpr int numbers = 32, group = 32, zero = 8, q_min = -8, q_max = 7;
  uint16_t d;
  Plane<4, 16, 32> low;
};

struct BlockQ4_1 {
  static constexpr int numbers = 32, group = 32, zero = 0, q_min = 0, q_max = 15;
  uint16_t d, m;
  Plane<4, 16, 32> low;
};

struct BlockQ5_0 {
  static constexpr int numbers = 32, group = 32, zero = 16, q_min = -16, q_max = 15;
  uint16_t d;
  Plane<1, 1, 32> high;
  Plane<4, 16, 32> low;
};

struct BlockQ5_1 {
  static constexpr int numbers = 32, group = 32, zero = 0, q_min = 0, q_max = 31;
  uint16_t d, m;
  Plane<1, 1, 32> high;
  Plane<4, 16, 32> low;
};

struct BlockQ8_0 {
  static constexpr int numbers = 32, group = 32, q_min = -127, q_max = 127;
  uint16_t d;
  int8_t q[32];
};

inline constexpr int8_t iq4_nl_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct BlockIQ4_NL {
  static constexpr int numbers = 32, group = 32;
  uint16_t d;
  Plane<4, 16, 32> low;
};

struct BlockQ2_K {
  static constexpr int numbers = 256, group = 16, zero = 0, q_min = 0, q_max = 3, s_min = 0, s_max = 15;
  uint8_t scales[16];               // s_g low, n_g high
  Plane<2, 32, 256> low;
  uint16_t d, m;

  int s(int g) const { return scales[g] & 15; }
  int n(int g) const { return scales[g] >> 4; }
  void set_scale(int g, int s, int n) { scales[g] = uint8_t(s | n << 4); }
};

struct BlockQ3_K {
  static constexpr int numbers = 256, group = 16, zero = 4, q_min = -4, q_max = 3, s_min = -32, s_max = 31;
  Plane<1, 32, 256> high;
  Plane<2, 32, 256> low;
  Plane<4, 8, 16> scales_low;       // s_g + 32 in six bits
  Plane<2, 4, 16> scales_high;
  uint16_t d;

  int s(int g) const { return (scales_low.get(g) | scales_high.get(g) << 4) - 32; }
  void set_scale(int g, int s, int) { scales_low.set(g, (s + 32) & 15), scales_high.set(g, (s + 32) >> 4); }
};

// Eight pairs (s, n) of six bits each in twelve bytes, as Q4_K and Q5_K store them:
//   bytes 0…3   s_j (6 bits), above it bits 4-5 of s_(j+4)        j = 0…3
//   bytes 4…7   n_j (6 bits), above it bits 4-5 of n_(j+4)
//   bytes 8…11  bits 0-3 of s_(j+4), above them bits 0-3 of n_(j+4)
struct SixBitPairs {
  uint8_t bytes[12];

  int s(int g) const { return g < 4 ? bytes[g] & 63 : (bytes[g + 4] & 15) | bytes[g - 4] >> 6 << 4; }
  int n(int g) const { return g < 4 ? bytes[g + 4] & 63 : bytes[g + 4] >> 4 | bytes[g] >> 6 << 4; }
  void set_scale(int g, int s, int n) {
    if (g < 4) {
      bytes[g] = uint8_t((bytes[g] & 0xc0) | s);
      bytes[g + 4] = uint8_t((bytes[g + 4] & 0xc0) | n);
    } else {
      bytes[g + 4] = uint8_t((s & 15) | (n & 15) << 4);
      bytes[g - 4] = uint8_t((bytes[g - 4] & 63) | s >> 4 << 6);
      bytes[g] = uint8_t((bytes[g] & 63) | n >> 4 << 6);
    }
  }
};

struct BlockQ4_K {
  static constexpr int numbers = 256, group = 32, zero = 0, q_min = 0, q_max = 15, s_min = 0, s_max = 63;
  uint16_t d, m;
  SixBitPairs scales;
  Plane<4, 32, 256> low;

  int s(int g) const { return scales.s(g); }
  int n(int g) const { return scales.n(g); }
  void set_scale(int g, int s, int n) { scales.set_scale(g, s, n); }
};

struct BlockQ5_K {
  static constexpr int numbers = 256, group = 32, zero = 0, q_min = 0, q_max = 31, s_min = 0, s_max = 63;
  uint16_t d, m;
  SixBitPairs scales;
  Plane<1, 32, 256> high;
  Plane<4, 32, 256> low;

  int s(int g) const { return scales.s(g); }
  int n(int g) const { return scales.n(g); }
  void set_scale(int g, int s, int n) { scales.set_scale(g, s, n); }
};

struct BlockQ6_K {
  static constexpr int numbers = 256, group = 16, zero = 32, q_min = -32, q_max = 31, s_min = -128, s_max = 127;
  Plane<4, 64, 256> low;
  Plane<2, 32, 256> high;
  int8_t scales[16];
  uint16_t d;

  int s(int g) const { return scales[g]; }
  void set_scale(int g, int s, int) { scales[g] = int8_t(s); }
};

template <class Block> constexpr bool has_min = requires(Block b) { b.m; };        // an offset is stored
template <class Block> constexpr bool has_sub_scales = requires(Block b) { b.s(0); };   // the K types

// q_i of a block
template <class Block>
int q_at(const Block& b, int i) {
  if constexpr (requires { b.high; }) return (b.low.get(i) | b.high.get(i) << b.low.width) - b.zero;
  else return b.low.get(i) - b.zero;
}
inline int q_at(const BlockQ8_0& b, int i) { return b.q[i]; }
inline int q_at(const BlockIQ4_NL& b, int i) { return iq4_nl_levels[b.low.get(i)]; }

template <class Block>
void set_q(Block& b, int i, int q) {
  b.low.set(i, (q + b.zero) & b.low.mask);
  if constexpr (requires { b.high; }) b.high.set(i, (q + b.zero) >> b.low.width);
}
inline void set_q(BlockQ8_0& b, int i, int q) { b.q[i] = int8_t(q); }

template <class Block>
float scale_of(const Block& b, [[maybe_unused]] int g) {
  if constexpr (has_sub_scales<Block>) return f16_to_f32(b.d) * float(b.s(g));
  else return f16_to_f32(b.d);
}
template <class Block>
float offset_of([[maybe_unused]] const Block& b, [[maybe_unused]] int g) {
  if constexpr (has_min<Block> && has_sub_scales<Block>) return -f16_to_f32(b.m) * float(b.n(g));
  else if constexpr (has_min<Block>) return f16_to_f32(b.m);
  else return 0;
}

// The bytes are those of the files: no padding, no alignment beyond that of d.
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockIQ4_NL) == 18 && sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110);
static_assert(sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);
static_assert(std::endian::native == std::endian::little, "block formats are little-endian");

// kernel::Unpack for any block type
template <class Block>
void unpack_ref(float* y, const void* x, int64_t n) {
  const auto* b = static_cast<const Block*>(x);
  for (int64_t i = 0; i < n; i += Block::numbers, ++b)
    for (int g = 0; g < Block::numbers / Block::group; ++g)
      for (int j = g * Block::group; j < (g + 1) * Block::group; ++j) y[i + j] = scale_of(*b, g) * float(q_at(*b, j)) + offset_of(*b, g);
}

// kernel::DotQ8 for any block type:  y = Σ_groups d_x (scale_g Σ_i q_i qx_i + offset_g Σ_i qx_i),  the inner sums in integers
template <class Block>
void dot_ref(float* y, int64_t ldy, const void* w, const Q8Block* x, int64_t rows, int64_t T, int64_t n) {
  const auto* b = static_cast<const Block*>(w);
  const int64_t row_blocks = n / 32;                       // of activations
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t t = 0; t < T; ++t) y[t * ldy + r] = 0;
    for (int64_t i = 0; i < n; i += Block::numbers, ++b)
      for (int g = 0; g < Block::numbers / Block::group; ++g) {
        const int first = g * Block::group;
        int8_t q[Block::group];
        for (int j = 0; j < Block::group; ++j) q[j] = int8_t(q_at(*b, first + j));
        const float scale = scale_of(*b, g), offset = offset_of(*b, g);
        for (int64_t t = 0; t < T; ++t) {
          const Q8Block& a = x[t * row_blocks + (i + first) / 32];
          const int8_t* qx = a.q + first % 32;
          int dot = 0;
          for (int j = 0; j < Block::group; ++j) dot += q[j] * qx[j];
          const int sum = Block::group == 32 ? a.sum[0] + a.sum[1] : a.sum[first % 32 / 16];
          y[t * ldy + r] += a.d * (scale * float(dot) + offset * float(sum));
        }
      }
  }
}

}  // namespace kvt
