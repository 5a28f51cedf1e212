#include "tensor/order.h"

#include <algorithm>
#include <numeric>

namespace kvt {

void stable_order(std::span<int64_t> numbers, const Before& before) {
  std::stable_sort(numbers.begin(), numbers.end(), [&](int64_t a, int64_t b) { return before(a, b); });
}

std::vector<int64_t> stable_order(int64_t n, const Before& before) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  stable_order(order, before);
  return order;
}

}  // namespace kvt
