// A learning curve as SVG: lines over steps, axes with round numbers, a legend.
#pragma once
#include <string>
#include <vector>

namespace kvt {

struct CurveLine {
  std::string name, colour;                          // "training loss", "#1f77b4"
  std::vector<std::pair<double, double>> points;     // (step, value)
};

std::string curve_svg(const std::string& title, const std::string& x_name, const std::vector<CurveLine>& lines);

}  // namespace kvt
