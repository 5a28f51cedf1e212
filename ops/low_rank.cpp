// add_low_rank    y_t += s Fᵀ (C_t (A x_t))        A [r, K], F [q, N];  C_t [q, r], or none with q = r
//
// Four rows of x meet A and F once, by the kernels of attention with few queries: rows of A are keys, H = X Aᵀ [r, 4] comes key by key, and H (or C H) weighs
// the rows of F as values. From some rank on, and of many rows, products of matrices are faster.
#include "ops/low_rank.h"

#include <cmath>

#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/quant.h"

namespace kvt {

static constexpr int64_t most_rank = 16, few_rows = 4;

// x in F16, times the power of two that brings its largest number to [½, 1)
static Tensor halves(const Tensor& x, float& scale) {
  float most = 0;
  for (const float v : x.values()) most = std::max(most, std::fabs(v));
  int exponent = 0;
  if (most > 0 && std::isfinite(most)) std::frexp(most, &exponent);
  exponent = std::clamp(exponent, -120, 120);               // of subnormal numbers 2^−exponent would be ∞
  scale *= std::ldexp(1.f, exponent);
  return pack(kvt::scale(x, std::ldexp(1.f, -exponent)), DType::F16);
}

LowRankFactors low_rank_factors(const Tensor& a, const Tensor& b) {
  const Tape::Pause pause;
  LowRankFactors both;
  both.a = halves(a, both.scale);
  both.f = halves(permute(b, {1, 0}), both.scale);
  return both;
}

namespace {

struct Sizes { int64_t T, K, N, r, q; };

const float* core_of(const LowRank& m, int64_t t) { return m.cores + t / m.rows_each * m.core_step; }

// Rows t … t + rows − 1, four at most, with factors of type Number.
template <class Number, class Dots, class Values>
void add_four(float* y, const float* x, const LowRank& m, const Sizes& z, int64_t t, int64_t rows, const Dots& dots, const Values& values) {
  thread_local Scratch scratch;
  float *const h = scratch.floats(5 * (z.r + z.q)), *const one = h + 4 * (z.r + z.q), *const g = m.cores ? h + 4 * z.r : h, top[4] = {};      // the largest is no matter
  const float ones[] = {1, 1, 1, 1};
  dots(h, top, x + t * z.K, rows, reinterpret_cast<const Number*>(m.a.raw()), z.K, z.r, z.K, nullptr);
  for (int64_t row = 0; m.cores && row < rows; ++row) {
    for (int64_t j = 0; j < z.r; ++j) one[j] = h[4 * j + row];
    kernel::dot_f32(one + z.r, core_of(m, t + row), z.r, one, z.q, z.r);
    for (int64_t i = 0; i < z.q; ++i) g[4 * i + row] = one[z.r + i];
  }
  for (int64_t i = 0; i < z.q; ++i)
    for (int64_t row = 0; row < rows; ++row) g[4 * i + row] *= m.scale;
  values(y + t * z.N, z.N, ones, nullptr, g, 4, reinterpret_cast<const Number*>(m.f.raw()), z.N, rows, z.q, z.N, nullptr);
}

}  // namespace

void add_low_rank(const Tensor& to, const Tensor& from, const LowRank& m) {
  const Sizes z{from.shape().leading().numel(), m.a.dim(1), m.f.dim(1), m.a.dim(0), m.f.dim(0)};
  const DType type = m.a.dtype();
  require((type == DType::F32 || type == DType::F16) && m.f.dtype() == type && (m.cores || z.q == z.r) && from.dim(-1) == z.K && to.dim(-1) == z.N &&
          to.shape().leading() == from.shape().leading(),
          "add_low_rank: factors ", m.a.shape(), " and ", m.f.shape(), " do not take ", from.shape(), " to ", to.shape());
  float* const y = to.data();
  const float* const x = from.data();
  if (z.T <= few_rows || (z.r <= most_rank && z.q <= most_rank)) {
    parallel_for(pieces(z.T, 4), std::max<int64_t>(1, piece_products / std::max<int64_t>(1, 4 * (z.r * z.K + z.q * z.N))), [&](int64_t begin, int64_t end) {
      for (int64_t t = 4 * begin; t < std::min(4 * end, z.T); t += 4) {
        const int64_t rows = std::min<int64_t>(4, z.T - t);
        if (type == DType::F32) add_four<float>(y, x, m, z, t, rows, kernel::attention_dots_f32, kernel::attention_values_f32);
        else add_four<uint16_t>(y, x, m, z, t, rows, kernel::attention_dots_f16, kernel::attention_values_f16);
      }
    });
    return;
  }
  thread_local Scratch scratch;
  const int64_t unpacked = type == DType::F32 ? 0 : z.r * z.K + z.q * z.N;
  float *const h = scratch.floats(z.T * (z.r + z.q) + unpacked), *const g = m.cores ? h + z.T * z.r : h, *const numbers = h + z.T * (z.r + z.q);
  if (unpacked) unpack(numbers, type, m.a.raw(), z.r * z.K), unpack(numbers + z.r * z.K, type, m.f.raw(), z.q * z.N);
  const float *const A = unpacked ? numbers : m.a.data(), *const F = unpacked ? numbers + z.r * z.K : m.f.data();
  multiply(h, z.r, {x, z.K, 1}, {A, 1, z.K}, z.T, z.r, z.K, Precision::f32, false);
  for (int64_t t = 0; m.cores && t < z.T; ++t) kernel::dot_f32(g + t * z.q, core_of(m, t), z.r, h + t * z.r, z.q, z.r);
  for (int64_t i = 0; m.scale != 1 && i < z.T * z.q; ++i) g[i] *= m.scale;
  multiply(y, z.N, {g, z.q, 1}, {F, z.N, 1}, z.T, z.N, z.q, Precision::f32);
}

}  // namespace kvt
