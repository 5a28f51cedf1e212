// Linear layers that share their input, computed as one where no adapter changes that (ops/linears.h).
#pragma once
#include <initializer_list>

#include "models/layers.h"
#include "ops/linears.h"

namespace kvt {

inline ArenaVector<Tensor> together(const Tensor& x, std::initializer_list<const Linear*> layers) {
  ArenaVector<WeightsAndBias> weights;
  ArenaVector<Tensor> y;
  weights.reserve(layers.size());
  bool one_input = !Tape::current();
  for (const Linear* layer : layers) {
    one_input = one_input && layer->input(x).same(x);
    weights.push_back({layer->weight.tensor, layer->bias.tensor});
  }
  if (!one_input) {
    y.reserve(layers.size());
    for (const Linear* layer : layers) y.push_back((*layer)(x));
    return y;
  }
  y = linears(x, weights);
  for (size_t i = 0; i < y.size(); ++i) y[i] = layers.begin()[i]->adapted(x, y[i]);
  return y;
}

}  // namespace kvt
