// Products of quantized weights with activations rounded to 8 bits, by the matrix instruction of FEAT_I8MM (SMMLA): two rows of eight
// weights times two rows of eight activations, four sums of eight products in one vector.
//
//     [w0] [x0 x1] = [w0·x0  w0·x1]
//     [w1]           [w1·x0  w1·x1]
//
// So a vector holds the sums of a pair of rows of weights with a pair of rows of activations, and a block costs one conversion and one
// scaling for four sums, where SDOT takes one for each. Registers at 4 rows x 4: 4 sums, 8 of codes, 4 of activations, 4 of scales, of 32.
#pragma once
#include "arm/blocks.h"

namespace kvt {
namespace {

// Eight bytes of each of two rows, four times: 32 numbers of both.
struct Pair { int8x16_t q[4]; };
inline int8x16_t low_halves(int8x16_t a, int8x16_t b) { return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b))); }
inline int8x16_t high_halves(int8x16_t a, int8x16_t b) { return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b))); }
inline Pair pair(Codes a, Codes b) {
  return {{low_halves(a.q[0], b.q[0]), high_halves(a.q[0], b.q[0]), low_halves(a.q[1], b.q[1]), high_halves(a.q[1], b.q[1])}};
}
inline Codes codes(const Q8Block& x) { return {{vld1q_s8(x.q), vld1q_s8(x.q + 16)}}; }

// Factors of the four sums: of weights a a b b, from (a, b, anything, anything) in memory; of activations a b a b.
inline float32x4_t by_weights(const float* p) { return vzip1q_f32(vld1q_f32(p), vld1q_f32(p)); }
inline float32x4_t by_activations(float a, float b) { return vreinterpretq_f32_f64(vdupq_n_f64(__builtin_bit_cast(double, float32x2_t{a, b}))); }

// y[t, r] of 2·R rows of weights and 2·T of activations
template <class B, int R, int T>
inline void dot_pairs(float* y, int64_t ldy, const B* w, const Q8Block* x, int64_t n) {
  const int64_t row = n / B::numbers, row_x = n / 32;
  float32x4_t sums[R][T];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) sums[r][t] = vdupq_n_f32(0);
  for (int64_t k = 0; k < row; ++k) {
    const B* b[2 * R];
    float scale[R][2 * Scales<B>::groups + 2], offset[R][2 * Scales<B>::groups + 2];      // a pair of rows side by side
    for (int r = 0; r < 2 * R; ++r) {
      b[r] = w + r * row + k;
      const Scales<B> s(*b[r]);
      for (int g = 0; g < Scales<B>::groups; ++g) scale[r / 2][2 * g + r % 2] = s.scale[g], offset[r / 2][2 * g + r % 2] = s.offset[g];
    }
    for (int j = 0; j < pieces<B>; ++j) {
      Pair c[R];
      for (int r = 0; r < R; ++r) c[r] = pair(codes(*b[2 * r], j), codes(*b[2 * r + 1], j));
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) {
        const Q8Block &x0 = x[2 * t * row_x + k * pieces<B> + j], &x1 = x[(2 * t + 1) * row_x + k * pieces<B> + j];
        const Pair a = pair(codes(x0), codes(x1));
        const float32x4_t d = by_activations(x0.d, x1.d);
        constexpr int groups = halves<B> ? 2 : 1;
        for (int g = 0; g < groups; ++g) {
          const auto sum = [&](const Q8Block& v) { return v.d * float(halves<B> ? v.sum[g] : v.sum[0] + v.sum[1]); };
          [[maybe_unused]] float32x4_t e{};
          if constexpr (has_min<B>) e = by_activations(sum(x0), sum(x1));
#pragma GCC unroll 2
          for (int r = 0; r < R; ++r) {
            int32x4_t dots = vdupq_n_s32(0);
            for (int i = g * 2; i < (halves<B> ? g * 2 + 2 : 4); ++i) dots = vmmlaq_s32(dots, c[r].q[i], a.q[i]);
            const int at = 2 * (groups * j + g);
            sums[r][t] = vfmaq_f32(sums[r][t], vcvtq_f32_s32(dots), vmulq_f32(d, by_weights(scale[r] + at)));
            if constexpr (has_min<B>) sums[r][t] = vfmaq_f32(sums[r][t], e, by_weights(offset[r] + at));
          }
        }
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t)
      for (int i = 0; i < 4; ++i) y[(2 * t + i % 2) * ldy + 2 * r + i / 2] = sums[r][t][i];
}

}  // namespace
}  // namespace kvt
