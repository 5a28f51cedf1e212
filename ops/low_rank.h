// What low-rank adapters add to a linear layer's result, in place and for inference alone.
#pragma once
#include <span>

#include "tensor/tensor.h"

namespace kvt {

// A [r, K] and F [q, N] as decoding reads them fastest: in F16, which is half as much memory to wait for. Each was multiplied by a power of two so that its
// largest number lies in [½, 1); `scale` makes up for both. A number is off by at most 2⁻¹¹ of itself, or 2⁻²⁵ of the largest.
struct LowRankFactors {
  Tensor a, f, w;                         // w: of LowRankCores, or none
  float scale = 1.f;
  explicit operator bool() const { return bool(a); }
};
LowRankFactors low_rank_factors(const Tensor& a, const Tensor& b);      // of A and B [N, q] in F32, with F = Bᵀ: rows of B have too few numbers for vectors
void add_core_weights(LowRankFactors& m, const Tensor& w);              // in F32
// Brings the factors of a model's layers into one block of memory, in this order: there are few of its large pages, where a page for each layer would have to be looked up.
void bring_together(std::span<LowRankFactors* const> layers);

// Cores that are made where they are used, in a core's room for four rows:  C_t = Σ_u φ_i,u W_u [q, r],  i = (t − from) / rows_each.
constexpr int64_t core_lanes = 8;
struct LowRankCores {
  const Tensor* w = nullptr;              // W_uᵀ [units, r, q rounded up to a multiple of core_lanes]; none: C = 1, q = r
  const float* phi = nullptr;             // φ_i,u at phi[(i / 4 · units + u) 4 + i mod 4]
  int64_t rows_each = 1;
};

struct LowRank {
  const Tensor &a, &f;                    // A [r, K], F [q, N], with W all F32 or all F16
  LowRankCores cores = {};
  float scale = 1.f;                      // s
  int64_t from = 0;                       // the first row it is added to

  int64_t inner() const { return a.dim(0); }
  int64_t outer() const { return f.dim(0); }
};

// y_t += s Fᵀ (C_t (A x_t)), t ≥ from over leading axes:  x [.., K], y [.., N].
void add_low_rank(const Tensor& y, const Tensor& x, const LowRank& m);

// Its two halves for who computes y by pieces, `low_rank_rows` rows at most at a time, whose numbers lie together:  G [q, 4] = s C_t (A x_t) of rows t … t + rows − 1 of x,
// and y[rows, count] += Gᵀ F of F's columns `first` … first + count − 1; y lies ldy apart.
constexpr int64_t low_rank_rows = 4;
void low_rank_inner(float* g, const LowRank& m, const float* x, int64_t t, int64_t rows);
void low_rank_outer(float* y, int64_t ldy, const LowRank& m, const float* g, int64_t rows, int64_t first, int64_t count);
// G [q, rows], s C_t h of rows t … t + rows − 1, of H [r, rows], h = A x_t; numbers of one row lie `step` apart; zeros for rows before m.from.
void low_rank_core(float* g, const LowRank& m, const float* h, int64_t step, int64_t t, int64_t rows);
// Asks for the memory that low_rank_outer will read; and, where factors were brought together, for what low_rank_inner will read in the next layers.
void prefetch_outer(const LowRank& m, int64_t first, int64_t count);
void prefetch_next_inner(const LowRank& m);
// Throws an Error unless factors and core fit rows of K numbers and results of N.
void check_low_rank(const LowRank& m, int64_t K, int64_t N);

}  // namespace kvt
