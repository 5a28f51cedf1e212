// Linear layers that share their input, computed as one where no adapter stands between (ops/linears.h).
#pragma once
#include <initializer_list>
#include <vector>

#include "models/layers.h"
#include "ops/linears.h"

namespace kvt {

inline std::vector<Tensor> together(const Tensor& x, std::initializer_list<const Linear*> layers) {
  std::vector<WeightsAndBias> weights;
  std::vector<Tensor> y;
  bool plain = !Tape::current();
  for (const Linear* layer : layers) {
    plain = plain && layer->adapters.empty();
    weights.push_back({layer->weight.tensor, layer->bias.tensor});
  }
  if (plain) return linears(x, weights);
  for (const Linear* layer : layers) y.push_back((*layer)(x));
  return y;
}

}  // namespace kvt
