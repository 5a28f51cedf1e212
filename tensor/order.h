// Sorting numbers of things, when speed is no matter: one copy of the code for all.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace kvt {

using Before = std::function<bool(int64_t a, int64_t b)>;

// Equals keep their places.
void stable_order(std::span<int64_t> numbers, const Before& before);
// 0 … n−1 in that order
std::vector<int64_t> stable_order(int64_t n, const Before& before);

}  // namespace kvt
