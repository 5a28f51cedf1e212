// Linear layers that share their input.
#pragma once
#include <span>

#include "tensor/tensor.h"

namespace kvt {

// y_i = x W_iᵀ + b_i, as linear() gives them (ops/ops.h). In inference with quantized weights x is rounded or packed once, and the threads meet once.
struct WeightsAndBias { const Tensor &w, &b; };
ArenaVector<Tensor> linears(const Tensor& x, std::span<const WeightsAndBias> layers);

}  // namespace kvt
