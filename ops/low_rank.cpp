// add_low_rank    y_t += F ᵀ (C_t (A x_t))        A [r, K], F [q, N];  C_t [q, r], or none with q = r
//
// A row of x goes through both products while it is in the L1 cache, and rows are split among threads. From some rank on, and of many rows,
// products of matrices are faster.
#include "ops/low_rank.h"

#include "ops/loops.h"

namespace kvt {

static constexpr int64_t most_rank = 16, few_rows = 4;

static const float* core_of(const LowRank& m, int64_t t) { return m.cores + t / m.rows_each * m.core_step; }

// to [q] = C h
static void times_core(float* to, const float* core, const float* h, int64_t q, int64_t r) {
  for (int64_t i = 0; i < q; ++i) {
    to[i] = 0;
    for (int64_t j = 0; j < r; ++j) to[i] += core[i * r + j] * h[j];
  }
}

void add_low_rank(const Tensor& to, const Tensor& from, const LowRank& m) {
  const int64_t r = m.a.dim(0), K = m.a.dim(1), q = m.f.dim(0), N = m.f.dim(1), T = from.shape().leading().numel();
  require(m.a.dtype() == DType::F32 && m.f.dtype() == DType::F32 && (m.cores || q == r) && from.dim(-1) == K && to.dim(-1) == N && to.shape().leading() == from.shape().leading(),
          "add_low_rank: factors ", m.a.shape(), " and ", m.f.shape(), " do not take ", from.shape(), " to ", to.shape());
  float* const y = to.data();
  const float* const x = from.data();
  const float *A = m.a.data(), *F = m.f.data();
  if (T <= few_rows || (r <= most_rank && q <= most_rank)) {
    parallel_for(T, std::max<int64_t>(1, piece_products / std::max<int64_t>(1, r * K + q * N)), [&](int64_t begin, int64_t end) {
      thread_local Scratch scratch;
      float *const h = scratch.floats(r + q), *const g = m.cores ? h + r : h;
      for (int64_t t = begin; t < end; ++t) {
        kernel::dot_f32(h, A, K, x + t * K, r, K);
        if (m.cores) times_core(g, core_of(m, t), h, q, r);
        for (int64_t i = 0; i < q; ++i) kernel::axpy(y + t * N, g[i], F + i * N, N);
      }
    });
    return;
  }
  thread_local Scratch scratch;
  float *const h = scratch.floats(T * (r + q)), *const g = m.cores ? h + T * r : h;
  multiply(h, r, {x, K, 1}, {A, 1, K}, T, r, K, Precision::f32, false);
  if (m.cores)
    for (int64_t t = 0; t < T; ++t) times_core(g + t * q, core_of(m, t), h + t * r, q, r);
  multiply(y, N, {g, q, 1}, {F, N, 1}, T, N, q, Precision::f32);
}

}  // namespace kvt
