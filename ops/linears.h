// Linear layers that share their input.
#pragma once
#include <span>

#include "ops/low_rank.h"

namespace kvt {

// y_i = x W_iᵀ + b_i, as linear() gives them (ops/ops.h), and what low-rank adapters add to that: these are for inference alone. There, with quantized weights, x is
// rounded or packed once, and the threads meet once; each adds to its part of y while it has it.
struct WeightsAndBias {
  const Tensor &w, &b;
  std::span<const LowRank> more = {};
};
ArenaVector<Tensor> linears(const Tensor& x, std::span<const WeightsAndBias> layers);

}  // namespace kvt
