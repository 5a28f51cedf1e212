// Products of quantized weights with activations rounded to 8 bits. Compiled three times: for ARMv8.0, where products widen to 16 bits
// and are added in pairs (SMULL, SMLAL, SADALP); with the dot product instruction of ARMv8.2 (SDOT), four products a lane; and with the
// matrix instruction as well (SMMLA, arm/dot_pairs.h), which takes over where there are two rows of activations and of weights.
//
// Two rows of weights share one row of activations; for four rows of activations codes are unpacked once.
// Registers at 1 x 4: 4 sums, 2 of codes, 2 of activations, up to 4 while unpacking, of 32.
#include "arm/blocks.h"
#if defined(__ARM_FEATURE_MATMUL_INT8)
#include "arm/dot_pairs.h"
#endif
#include "ops/backends.h"

namespace kvt {
namespace {

// Four partial sums of 16 or 32 products. Two products of signed bytes fit 16 bits: 2 · 128 · 127 < 2¹⁵.
#if defined(__ARM_FEATURE_DOTPROD)
inline int32x4_t dot16(int8x16_t a, int8x16_t b) { return vdotq_s32(vdupq_n_s32(0), a, b); }
inline int32x4_t dot32(Codes c, int8x16_t x0, int8x16_t x1) { return vdotq_s32(dot16(c.q[0], x0), c.q[1], x1); }
#else
inline int16x8_t products(int8x16_t a, int8x16_t b) { return vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b); }
inline int32x4_t dot16(int8x16_t a, int8x16_t b) { return vpaddlq_s16(products(a, b)); }
inline int32x4_t dot32(Codes c, int8x16_t x0, int8x16_t x1) { return vpadalq_s16(dot16(c.q[0], x0), products(c.q[1], x1)); }
#endif

template <class B, int R, int T>
inline void dot_tile(float* y, int64_t ldy, const B* w, const Q8Block* x, int64_t n) {
  const int64_t row = n / B::numbers, row_x = n / 32;
  float32x4_t sums[R][T];
  float offsets[R][T] = {};
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) sums[r][t] = vdupq_n_f32(0);
  for (int64_t k = 0; k < row; ++k)
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const B& b = w[r * row + k];
      const Scales<B> scales(b);
      for (int j = 0; j < pieces<B>; ++j) {
        const Codes c = codes(b, j);
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
          const Q8Block& a = x[t * row_x + k * pieces<B> + j];
          const int8x16_t x0 = vld1q_s8(a.q), x1 = vld1q_s8(a.q + 16);
          if constexpr (halves<B>) {
            sums[r][t] = vfmaq_n_f32(sums[r][t], vcvtq_f32_s32(dot16(c.q[0], x0)), a.d * scales.scale[2 * j]);
            sums[r][t] = vfmaq_n_f32(sums[r][t], vcvtq_f32_s32(dot16(c.q[1], x1)), a.d * scales.scale[2 * j + 1]);
            if constexpr (has_min<B>)
              offsets[r][t] += a.d * (scales.offset[2 * j] * float(a.sum[0]) + scales.offset[2 * j + 1] * float(a.sum[1]));
          } else {
            sums[r][t] = vfmaq_n_f32(sums[r][t], vcvtq_f32_s32(dot32(c, x0, x1)), a.d * scales.scale[j]);
            if constexpr (has_min<B>) offsets[r][t] += a.d * scales.offset[j] * float(a.sum[0] + a.sum[1]);
          }
        }
      }
    }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) y[t * ldy + r] = vaddvq_f32(sums[r][t]) + offsets[r][t];
}

template <class B>
[[gnu::noinline]] void dot_one(float* y, const B* w, const Q8Block* x, int64_t n) { dot_tile<B, 1, 1>(y, 1, w, x, n); }

// All rows of weights with T rows of activations, T = 2 or 4.
template <class B, int T>
void dot_rows(float* y, int64_t ldy, const B* w, const Q8Block* x, int64_t rows, int64_t n) {
  const int64_t row = n / B::numbers;
  int64_t r = 0;
#if defined(__ARM_FEATURE_MATMUL_INT8)
  for (; r + 4 <= rows; r += 4, w += 4 * row) dot_pairs<B, 2, T / 2>(y + r, ldy, w, x, n);
  for (; r < rows; ++r, w += row)                        // the last few of a matrix
    for (int t = 0; t < T; ++t) dot_one(y + t * ldy + r, w, x + t * (n / 32), n);
#else
  for (; r < rows; ++r, w += row) dot_tile<B, 1, T>(y + r, ldy, w, x, n);
#endif
}

template <class B>
void dot(float* y, int64_t ldy, const void* weights, const Q8Block* x, int64_t rows, int64_t T, int64_t n) {
  const int64_t row = n / B::numbers, row_x = n / 32;
  for (; T >= 4; T -= 4, y += 4 * ldy, x += 4 * row_x) dot_rows<B, 4>(y, ldy, static_cast<const B*>(weights), x, rows, n);
  for (; T >= 2; T -= 2, y += 2 * ldy, x += 2 * row_x) dot_rows<B, 2>(y, ldy, static_cast<const B*>(weights), x, rows, n);
  if (T > 0) {
    const B* w = static_cast<const B*>(weights);
    int64_t r = 0;
    for (; r + 2 <= rows; r += 2, w += 2 * row) dot_tile<B, 2, 1>(y + r, ldy, w, x, n);
    if (r < rows) dot_one(y + r, w, x, n);
  }
}

}  // namespace

void ISA::add_quants() {
  kernel::dot_q4_0.add(this_isa, dot<BlockQ4_0>);
  kernel::dot_q4_1.add(this_isa, dot<BlockQ4_1>);
  kernel::dot_q5_0.add(this_isa, dot<BlockQ5_0>);
  kernel::dot_q5_1.add(this_isa, dot<BlockQ5_1>);
  kernel::dot_q8_0.add(this_isa, dot<BlockQ8_0>);
  kernel::dot_q2_k.add(this_isa, dot<BlockQ2_K>);
  kernel::dot_q3_k.add(this_isa, dot<BlockQ3_K>);
  kernel::dot_q4_k.add(this_isa, dot<BlockQ4_K>);
  kernel::dot_q5_k.add(this_isa, dot<BlockQ5_K>);
  kernel::dot_q6_k.add(this_isa, dot<BlockQ6_K>);
  kernel::dot_iq4_nl.add(this_isa, dot<BlockIQ4_NL>);
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
void add_i8mm_kernels() { ISA::add_quants(); }
#elif defined(__ARM_FEATURE_DOTPROD)
void add_dotprod_kernels() { ISA::add_quants(); }
#endif

}  // namespace kvt
