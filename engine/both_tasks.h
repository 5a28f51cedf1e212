// Two tasks as one.
#pragma once
#include <utility>
#include <vector>

#include "engine/train.h"

namespace kvt {

// The examples of two tasks, one after another; batches may hold some of each.
class BothTasks : public Task {
 public:
  BothTasks(const Task& first, const Task& second) : first_(first), second_(second) {}
  int64_t size() const override { return first_.size() + second_.size(); }
  Extent extent(std::span<const int64_t> indices) const override {
    const auto [a, b] = apart(indices);
    const Extent x = first_.extent(a), y = second_.extent(b);
    return {x.labels + y.labels, x.tokens + y.tokens};
  }
  Tensor loss(std::span<const int64_t> indices, const Pass& pass) const override {
    const auto [a, b] = apart(indices);
    const auto of_a = float(a.empty() ? 0 : first_.extent(a).labels), of_b = float(b.empty() ? 0 : second_.extent(b).labels);
    if (of_b == 0) return first_.loss(a, pass);
    if (of_a == 0) return second_.loss(b, pass);
    return scale(first_.loss(a, pass), of_a / (of_a + of_b)) + scale(second_.loss(b, pass), of_b / (of_a + of_b));
  }

 private:
  std::pair<std::vector<int64_t>, std::vector<int64_t>> apart(std::span<const int64_t> indices) const {
    std::pair<std::vector<int64_t>, std::vector<int64_t>> parts;
    for (const int64_t i : indices) i < first_.size() ? parts.first.push_back(i) : parts.second.push_back(i - first_.size());
    return parts;
  }
  const Task &first_, &second_;
};

}  // namespace kvt
