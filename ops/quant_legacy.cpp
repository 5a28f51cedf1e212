// The formats of one scale a block: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL. Packing rounds to nearest, with the scales that files
// made by llama.cpp have, so that the bytes agree: the number of largest magnitude is stored exactly where the range is
// symmetric, the smallest and the largest where a minimum is stored. IQ4_NL searches its scale.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "ops/quant_blocks.h"

namespace kvt {

static void quantize_q8_ref(Q8Block* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 32, ++y) {
    float largest = 0;
    for (int j = 0; j < 32; ++j) largest = std::max(largest, std::fabs(x[i + j]));
    const float d = largest / 127, inverse = d < FLT_MIN ? 0 : 1 / d;      // 1/d of a subnormal overflows
    *y = {d, 0, {0, 0}, {}};
    for (int j = 0; j < 32; ++j) {
      const int q = int(std::lrint(x[i + j] * inverse));
      y->q[j] = int8_t(q);
      y->sum[j / 16] = int16_t(y->sum[j / 16] + q);
    }
    y->d_sum = d * float(y->sum[0] + y->sum[1]);
  }
}

namespace kernel {
decltype(quantize_q8) quantize_q8{"quantize_q8", quantize_q8_ref};

decltype(dot_q4_0) dot_q4_0{"dot_q4_0", dot_ref<BlockQ4_0>};
decltype(dot_q4_1) dot_q4_1{"dot_q4_1", dot_ref<BlockQ4_1>};
decltype(dot_q5_0) dot_q5_0{"dot_q5_0", dot_ref<BlockQ5_0>};
decltype(dot_q5_1) dot_q5_1{"dot_q5_1", dot_ref<BlockQ5_1>};
decltype(dot_q8_0) dot_q8_0{"dot_q8_0", dot_ref<BlockQ8_0>};
decltype(dot_iq4_nl) dot_iq4_nl{"dot_iq4_nl", dot_ref<BlockIQ4_NL>};

decltype(unpack_q4_0) unpack_q4_0{"unpack_q4_0", unpack_ref<BlockQ4_0>};
decltype(unpack_q4_1) unpack_q4_1{"unpack_q4_1", unpack_ref<BlockQ4_1>};
decltype(unpack_q5_0) unpack_q5_0{"unpack_q5_0", unpack_ref<BlockQ5_0>};
decltype(unpack_q5_1) unpack_q5_1{"unpack_q5_1", unpack_ref<BlockQ5_1>};
decltype(unpack_q8_0) unpack_q8_0{"unpack_q8_0", unpack_ref<BlockQ8_0>};
decltype(unpack_iq4_nl) unpack_iq4_nl{"unpack_iq4_nl", unpack_ref<BlockIQ4_NL>};
}  // namespace kernel

// 1/d, or 0 where d is too small for a half: such a block holds zeros (or its minimum).
static float inverse_of(float d) { return std::fabs(d) <= 0x1p-25f ? 0 : 1 / d; }

// x ≥ 0, truncated after adding a half: rounds to nearest. NaN gives 0.
static int to_code(float x, int largest) { return x > 0 ? int(std::min(x + 0.5f, float(largest))) : 0; }

// q = round(x/d) with d = (the number of largest magnitude, with its sign) / q_min
template <class Block>
static void pack_symmetric(void* y, const float* x, int64_t n) {
  auto* b = static_cast<Block*>(y);
  for (; n > 0; n -= 32, x += 32, ++b) {
    const float largest = *std::max_element(x, x + 32, [](float u, float v) { return std::fabs(u) < std::fabs(v); });
    const float d = largest / float(Block::q_min), inverse = inverse_of(d);
    b->d = f32_to_f16(d);
    for (int j = 0; j < 32; ++j) set_q(*b, j, to_code(x[j] * inverse + float(Block::zero), Block::q_max + Block::zero) - Block::zero);
  }
}

// q = round((x − m)/d) with m = min x, d = (max x − min x) / q_max
template <class Block>
static void pack_from_min(void* y, const float* x, int64_t n) {
  auto* b = static_cast<Block*>(y);
  for (; n > 0; n -= 32, x += 32, ++b) {
    const auto [low, high] = std::minmax_element(x, x + 32);
    const float m = *low, d = (*high - m) / float(Block::q_max), inverse = inverse_of(d);
    b->d = f32_to_f16(d);
    b->m = f32_to_f16(m);
    for (int j = 0; j < 32; ++j) set_q(*b, j, to_code((x[j] - m) * inverse, Block::q_max));
  }
}

void pack_q4_0(void* y, const float* x, int64_t n) { pack_symmetric<BlockQ4_0>(y, x, n); }
void pack_q4_1(void* y, const float* x, int64_t n) { pack_from_min<BlockQ4_1>(y, x, n); }
void pack_q5_0(void* y, const float* x, int64_t n) { pack_symmetric<BlockQ5_0>(y, x, n); }
void pack_q5_1(void* y, const float* x, int64_t n) { pack_from_min<BlockQ5_1>(y, x, n); }

void pack_q8_0(void* y, const float* x, int64_t n) {
  auto* b = static_cast<BlockQ8_0*>(y);
  for (; n > 0; n -= 32, x += 32, ++b) {
    float largest = 0;
    for (int j = 0; j < 32; ++j) largest = std::max(largest, std::fabs(x[j]));
    const float d = largest / 127, inverse = inverse_of(d);
    b->d = f32_to_f16(d);
    for (int j = 0; j < 32; ++j) set_q(*b, j, int(std::clamp(std::round(x[j] * inverse), -127.f, 127.f)));
  }
}

// The code of the level nearest to x
static int nearest_level(float x) {
  const int8_t* above = std::lower_bound(iq4_nl_levels, iq4_nl_levels + 16, x);
  const int i = int(above - iq4_nl_levels);
  return i == 0 ? 0 : i == 16 ? 15 : i - (x - float(above[-1]) < float(above[0]) - x);
}

// Tries scales that put the number of largest magnitude near either end of the levels; each choice of codes then gets its best
// scale in least squares, d = Σ w x q / Σ w q², which leaves the error Σ w x² − d Σ w x q. Weights w = |x| + rms: large numbers count more.
void pack_iq4_nl(void* y, const float* x, int64_t n) {
  auto* b = static_cast<BlockIQ4_NL*>(y);
  for (; n > 0; n -= 32, x += 32, ++b) {
    const float largest = *std::max_element(x, x + 32, [](float u, float v) { return std::fabs(u) < std::fabs(v); });
    float square = 0;
    for (int j = 0; j < 32; ++j) square += x[j] * x[j];
    const float rms = std::sqrt(square / 32);
    float best = 0, best_d = 0;
    for (const int end : {-127, 113})
      for (int step = -8; step <= 8; ++step) {
        const float inverse = inverse_of(largest / (float(end) + 2.f * float(step)));
        float xq = 0, qq = 0;
        for (int j = 0; j < 32; ++j) {
          const float w = std::fabs(x[j]) + rms, q = iq4_nl_levels[nearest_level(x[j] * inverse)];
          xq += w * x[j] * q;
          qq += w * q * q;
        }
        if (qq > 0 && xq * xq > best * qq) best = xq * xq / qq, best_d = xq / qq;
      }
    b->d = f32_to_f16(best_d);
    const float inverse = inverse_of(f16_to_f32(b->d));
    for (int j = 0; j < 32; ++j) b->low.set(j, nearest_level(x[j] * inverse));
  }
}

}  // namespace kvt
