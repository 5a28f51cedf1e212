// Ways of linear() (ops/linear.cpp) for inference, over one matrix or several that share x.
#pragma once
#include <span>

#include "ops/low_rank.h"

namespace kvt {

// y[T, N] = x[T, K] wᵀ, and what is added to that;  w [N, K]
struct Product {
  float* y;
  const Tensor& w;
  std::span<const LowRank> more = {};
};

bool has_weight_tiles();      // whether the chosen tile of BF16 is so much faster than F32 that it pays to unpack weights for it (AMX)

// Whether that is done on the way by tile_products: to products in BF16, of low rank.
bool tiles_take(const Product& p);

// On all threads; every w of a type but F32, K a multiple of 32. Precision: see linear_tiles.cpp.
void tile_products(std::span<const Product> products, const float* x, int64_t T, int64_t K);

}  // namespace kvt
