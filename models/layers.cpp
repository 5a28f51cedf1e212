#include "models/layers.h"

namespace kvt {

Linear::Linear(int64_t in, int64_t out, bool has_bias) : weight(Shape{out, in}) {
  if (has_bias) bias = Parameter(Shape{out});
}

Tensor Linear::operator()(const Tensor& x) const {
  Tensor y = linear(x, weight, bias);
  for (const auto& adapter : adapters) y = (*adapter)(x, y);
  return y;
}

}  // namespace kvt
