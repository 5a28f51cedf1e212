// What low-rank adapters add to a linear layer's result, in place and for inference alone.
#pragma once
#include "tensor/tensor.h"

namespace kvt {

// A [r, K] and F [q, N] as decoding reads them fastest: in F16, which is half as much memory to wait for. Each was multiplied by a power of two so that its
// largest number lies in [½, 1); `scale` makes up for both. A number is off by at most 2⁻¹¹ of itself, or 2⁻²⁵ of the largest.
struct LowRankFactors {
  Tensor a, f;
  float scale = 1.f;
  explicit operator bool() const { return bool(a); }
};
LowRankFactors low_rank_factors(const Tensor& a, const Tensor& b);      // of A and B [N, q] in F32, with F = Bᵀ: rows of B have too few numbers for vectors

struct LowRank {
  const Tensor &a, &f;                    // A [r, K], F [q, N], both F32 or both F16
  const float* cores = nullptr;           // C_t [q, r] at cores + (t / rows_each) core_step; none: q = r
  int64_t core_step = 0, rows_each = 1;
  float scale = 1.f;                      // s
};

// y_t += s Fᵀ (C_t (A x_t)), t over leading axes:  x [.., K], y [.., N].
void add_low_rank(const Tensor& y, const Tensor& x, const LowRank& m);

}  // namespace kvt
