// Means and their uncertainty.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace kvt {

struct Estimate {
  double mean = 0, half = 0;        // 95 % confidence interval mean ± half, by Student's t; NaN for a single value
  int64_t n = 0;
};
Estimate estimate(const std::vector<double>& values);      // throws an Error for none

// "3.199 ± 0.012", "3.199" where there is no interval
std::string shown(const Estimate& e, int digits, bool sign = false);

}  // namespace kvt
