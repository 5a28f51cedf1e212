// What low-rank adapters add to a linear layer's result, in place and for inference alone.
#pragma once
#include "tensor/tensor.h"

namespace kvt {

struct LowRank {
  const Tensor &a, &f;                    // A [r, K], F [q, N], F32: the rows of F are as long as can be
  const float* cores = nullptr;           // C_t [q, r] at cores + (t / rows_each) core_step; none: q = r
  int64_t core_step = 0, rows_each = 1;
};

// y_t += Fᵀ (C_t (A x_t)), t over leading axes:  x [.., K], y [.., N].
void add_low_rank(const Tensor& y, const Tensor& x, const LowRank& m);

}  // namespace kvt
