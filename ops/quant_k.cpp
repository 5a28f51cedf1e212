// The K formats: 256 numbers in groups of 16 or 32, whose scales (and minima) are small integers times d (and m).
//
// Packing minimises Σ w (x − x̂)² with w = |x| + rms of the block, in four steps:
//   1. each group alone: try several scales, round to codes, solve for the best scale (and minimum) of these codes;
//   2. round scales and minima to their few bits;
//   3. round every number with the scales as stored;
//   4. solve for the block's d (and m) given all codes, and repeat 3; the better result stays.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/quant_blocks.h"

namespace kvt {

namespace kernel {
decltype(dot_q2_k) dot_q2_k{"dot_q2_k", dot_ref<BlockQ2_K>};
decltype(dot_q3_k) dot_q3_k{"dot_q3_k", dot_ref<BlockQ3_K>};
decltype(dot_q4_k) dot_q4_k{"dot_q4_k", dot_ref<BlockQ4_K>};
decltype(dot_q5_k) dot_q5_k{"dot_q5_k", dot_ref<BlockQ5_K>};
decltype(dot_q6_k) dot_q6_k{"dot_q6_k", dot_ref<BlockQ6_K>};

decltype(unpack_q2_k) unpack_q2_k{"unpack_q2_k", unpack_ref<BlockQ2_K>};
decltype(unpack_q3_k) unpack_q3_k{"unpack_q3_k", unpack_ref<BlockQ3_K>};
decltype(unpack_q4_k) unpack_q4_k{"unpack_q4_k", unpack_ref<BlockQ4_K>};
decltype(unpack_q5_k) unpack_q5_k{"unpack_q5_k", unpack_ref<BlockQ5_K>};
decltype(unpack_q6_k) unpack_q6_k{"unpack_q6_k", unpack_ref<BlockQ6_K>};
}  // namespace kernel

namespace {

int round_within(float x, int low, int high) { return !(x > float(low)) ? low : x < float(high) ? int(std::lrint(x)) : high; }

float inverse_of(float d) { return std::fabs(d) < 1e-30f ? 0 : 1 / d; }

// Weighted least squares for x ≈ a u − b v with b ≥ 0; with v = 0 throughout, x ≈ a u.
struct LeastSquares {
  double xx = 0, xu = 0, xv = 0, uu = 0, uv = 0, vv = 0;
  double a = 0, b = 0;

  void add(double w, double x, double u, double v) {
    xx += w * x * x, xu += w * x * u, xv += w * x * v;
    uu += w * u * u, uv += w * u * v, vv += w * v * v;
  }
  void solve() {
    const double det = uu * vv - uv * uv;
    b = 0;
    if (det > 1e-9 * uu * vv) b = std::max(0., (xu * uv - xv * uu) / det);
    a = uu > 0 ? (xu + b * uv) / uu : 0;
    if (uu == 0 && vv > 0) b = std::max(0., -xv / vv);
  }
  double error() const { return xx - 2 * a * xu + 2 * b * xv + a * a * uu - 2 * a * b * uv + b * b * vv; }
};

struct GroupFit { float scale, min; };      // x ≈ scale q − min

// The best of several scales for one group. Where a minimum is stored the codes start from it; elsewhere the number of
// largest magnitude comes near q_min, with the scale's sign free.
template <class Block>
GroupFit fit_group(const float* x, const float* w) {
  constexpr bool with_min = has_min<Block>;
  const auto [low, high] = std::minmax_element(x, x + Block::group);
  const float min = with_min ? std::min(*low, 0.f) : 0;
  const float span = with_min ? *high - min : -*low > *high ? *low : *high;
  const float full = float(with_min ? Block::q_max : Block::q_min);
  GroupFit best{0, -min};
  double best_error = INFINITY;
  for (int step = -10; step <= 10; ++step) {
    const float inverse = inverse_of(span / (full + 0.1f * float(step)));
    LeastSquares ls;
    for (int j = 0; j < Block::group; ++j)
      ls.add(w[j], x[j], round_within((x[j] - min) * inverse, Block::q_min, Block::q_max), with_min);
    ls.solve();
    if (ls.error() < best_error) best_error = ls.error(), best = {float(ls.a), float(ls.b)};
  }
  return best;
}

// Rounds every number with the block's scales; returns the least squares of x against d and m, at the present d and m, so that
// its error() is the block's.
template <class Block>
LeastSquares round_block(Block& b, const float* x, const float* w) {
  LeastSquares ls;
  for (int g = 0; g < Block::numbers / Block::group; ++g) {
    const float scale = scale_of(b, g), offset = offset_of(b, g), inverse = inverse_of(scale);
    int n = 0;
    if constexpr (has_min<Block>) n = b.n(g);
    for (int i = g * Block::group; i < (g + 1) * Block::group; ++i) {
      const int q = scale == 0 ? std::max(0, Block::q_min) : round_within((x[i] - offset) * inverse, Block::q_min, Block::q_max);
      set_q(b, i, q);
      ls.add(w[i], x[i], b.s(g) * q, n);
    }
  }
  ls.a = f16_to_f32(b.d);
  if constexpr (has_min<Block>) ls.b = f16_to_f32(b.m);
  return ls;
}

template <class Block>
void pack_block(Block& b, const float* x) {
  constexpr int groups = Block::numbers / Block::group;
  std::memset(&b, 0, sizeof b);
  double square = 0;
  for (int i = 0; i < Block::numbers; ++i) square += double(x[i]) * x[i];
  const float rms = float(std::sqrt(square / Block::numbers));
  float w[Block::numbers];
  for (int i = 0; i < Block::numbers; ++i) w[i] = std::fabs(x[i]) + rms;

  GroupFit fits[groups];
  float scale = 0, min = 0;                 // of largest magnitude
  for (int g = 0; g < groups; ++g) {
    fits[g] = fit_group<Block>(x + g * Block::group, w + g * Block::group);
    if (std::fabs(fits[g].scale) > std::fabs(scale)) scale = fits[g].scale;
    min = std::max(min, fits[g].min);
  }
  // signed scales reach further below zero than above
  b.d = f32_to_f16(scale / float(Block::s_min < 0 ? Block::s_min : Block::s_max));
  if constexpr (has_min<Block>) b.m = f32_to_f16(min / float(Block::s_max));

  const float inverse_d = inverse_of(f16_to_f32(b.d));
  float inverse_m = 0;
  if constexpr (has_min<Block>) inverse_m = inverse_of(f16_to_f32(b.m));
  for (int g = 0; g < groups; ++g)
    b.set_scale(g, round_within(fits[g].scale * inverse_d, Block::s_min, Block::s_max),
                round_within(fits[g].min * inverse_m, 0, Block::s_max));

  LeastSquares ls = round_block(b, x, w);
  Block refined = b;
  const double error = ls.error();
  ls.solve();
  refined.d = f32_to_f16(float(ls.a));
  if constexpr (has_min<Block>) refined.m = f32_to_f16(float(ls.b));
  if (round_block(refined, x, w).error() < error) b = refined;
}

template <class Block>
void pack_blocks(void* y, const float* x, int64_t n) {
  auto* b = static_cast<Block*>(y);
  for (; n > 0; n -= Block::numbers, x += Block::numbers) pack_block(*b++, x);
}

}  // namespace

void pack_q2_k(void* y, const float* x, int64_t n) { pack_blocks<BlockQ2_K>(y, x, n); }
void pack_q3_k(void* y, const float* x, int64_t n) { pack_blocks<BlockQ3_K>(y, x, n); }
void pack_q4_k(void* y, const float* x, int64_t n) { pack_blocks<BlockQ4_K>(y, x, n); }
void pack_q5_k(void* y, const float* x, int64_t n) { pack_blocks<BlockQ5_K>(y, x, n); }
void pack_q6_k(void* y, const float* x, int64_t n) { pack_blocks<BlockQ6_K>(y, x, n); }

}  // namespace kvt
