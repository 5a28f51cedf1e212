// Linear layers that share their input, computed as one where no adapter changes that (ops/linears.h).
#pragma once
#include <initializer_list>

#include "models/layers.h"
#include "ops/linears.h"

namespace kvt {

inline ArenaVector<Tensor> together(const Tensor& x, std::initializer_list<const Linear*> layers) {
  ArenaVector<WeightsAndBias> weights;
  ArenaVector<ArenaVector<LowRank>> more;
  ArenaVector<Tensor> y;
  weights.reserve(layers.size()), more.reserve(layers.size());
  const int64_t rows = x.shape().leading().numel();
  bool one_input = !Tape::current(), low_rank = one_input;      // low_rank: all that adapters do is added by factors
  for (const Linear* layer : layers) {
    low_rank = low_rank && layer->factors(rows, more.emplace_back());
    one_input = one_input && (low_rank || layer->input(x).same(x));
    weights.push_back({layer->weight.tensor, layer->bias.tensor, low_rank ? std::span<const LowRank>(more.back()) : std::span<const LowRank>()});
  }
  if (!one_input) {
    y.reserve(layers.size());
    for (const Linear* layer : layers) y.push_back((*layer)(x));
    return y;
  }
  y = linears(x, weights);
  for (size_t i = 0; i < y.size(); ++i)
    if (weights[i].more.empty()) y[i] = layers.begin()[i]->adapted(x, y[i]);
  return y;
}

}  // namespace kvt
