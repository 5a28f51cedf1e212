#include "models/layers.h"

#include <algorithm>
#include <utility>

namespace kvt {

Linear::Linear(int64_t in, int64_t out, bool has_bias) : weight(Shape{out, in}) {
  if (has_bias) bias = Parameter(Shape{out});
}

Tensor Linear::operator()(const Tensor& x) const {
  Tensor y = linear(x, weight, bias);
  const AdapterPass::Rows rows = AdapterPass::current().rows;
  for (const auto& adapter : adapters) {
    if (rows == AdapterPass::Rows::adapted || adapter->of_base) {
      y = (*adapter)(x, y);
    } else if (rows == AdapterPass::Rows::base) {
      continue;
    } else if (const Tensor changed = (*adapter)(adapted_rows(x), adapted_rows(y)); Tape::current()) {
      y = twins(base_rows(y), changed);
    } else {
      std::copy_n(changed.data(), changed.size(), y.data() + changed.size());      // y is this layer's own
    }
  }
  return y;
}

static thread_local AdapterPass current_pass;

const AdapterPass& AdapterPass::current() { return current_pass; }
AdapterPass::Scope::Scope(AdapterPass pass) : outer_(std::exchange(current_pass, std::move(pass))) {}
AdapterPass::Scope::~Scope() { current_pass = std::move(outer_); }

Tensor twins(const Tensor& base, const Tensor& adapted) {
  const Tensor parts[] = {base, adapted};
  return concat(parts, 0);
}

}  // namespace kvt
