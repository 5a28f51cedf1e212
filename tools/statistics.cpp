#include "tools/statistics.h"

#include <cmath>
#include <cstdio>
#include <iterator>
#include <limits>

#include "tensor/error.h"

namespace kvt {

// The 97.5 % point of Student's t with 1 … 30 degrees of freedom; beyond, that of the normal distribution with Fisher's first correction
// (z + (z³ + z)/4ν), which is exact to three digits there.
static double student(int64_t freedom) {
  static constexpr double table[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
                                     2.120,  2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
  if (freedom <= int64_t(std::size(table))) return table[freedom - 1];
  const double z = 1.959964;
  return z + (z * z * z + z) / (4 * double(freedom));
}

Estimate estimate(const std::vector<double>& values) {
  require(!values.empty(), "estimate: no values");
  Estimate e;
  e.n = int64_t(values.size());
  for (const double x : values) e.mean += x / double(e.n);
  if (e.n == 1) {
    e.half = std::numeric_limits<double>::quiet_NaN();
    return e;
  }
  double squares = 0;
  for (const double x : values) squares += (x - e.mean) * (x - e.mean);
  e.half = student(e.n - 1) * std::sqrt(squares / double(e.n - 1) / double(e.n));
  return e;
}

std::string shown(const Estimate& e, int digits, bool sign) {
  char text[80];
  if (std::isnan(e.half)) std::snprintf(text, sizeof text, sign ? "%+.*f" : "%.*f", digits, e.mean);
  else std::snprintf(text, sizeof text, sign ? "%+.*f ± %.*f" : "%.*f ± %.*f", digits, e.mean, digits, e.half);
  return text;
}

}  // namespace kvt
