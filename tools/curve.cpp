#include "tools/curve.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace kvt {

namespace {

constexpr double width = 720, height = 420, left = 60, right = 20, top = 40, bottom = 50;

std::string number(const char* format, double x) {
  char text[40];
  std::snprintf(text, sizeof text, format, x);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  return out;
}

// 1, 2 or 5 times a power of ten: about five marks over a range.
double mark_step(double range) {
  const double power = std::pow(10, std::floor(std::log10(range / 5)));
  for (double s : {1.0, 2.0, 5.0})
    if (range / (s * power) <= 6) return s * power;
  return 10 * power;
}

std::string label(double x, double y, const char* anchor, const std::string& text) {
  return "<text x=\"" + number("%.1f", x) + "\" y=\"" + number("%.1f", y) + "\" text-anchor=\"" + anchor + "\">" + escaped(text) + "</text>\n";
}

std::string line(double x1, double y1, double x2, double y2, const char* colour) {
  return "<path d=\"M" + number("%.1f", x1) + " " + number("%.1f", y1) + "L" + number("%.1f", x2) + " " + number("%.1f", y2) + "\" stroke=\"" + colour + "\"/>\n";
}

}  // namespace

std::string curve_svg(const std::string& title, const std::string& x_name, const std::vector<CurveLine>& lines) {
  double x_most = 1, low = 0, high = 0;
  bool any = false;
  for (const CurveLine& l : lines)
    for (const auto& [x, y] : l.points) {
      x_most = std::max(x_most, x);
      low = any ? std::min(low, y) : y;
      high = any ? std::max(high, y) : y;
      any = true;
    }
  if (high <= low) high = low + 1;
  const double y_step = mark_step(high - low), x_step = mark_step(x_most);
  low = std::floor(low / y_step) * y_step;
  high = std::ceil(high / y_step) * y_step;
  const auto px = [&](double x) { return left + (width - left - right) * x / x_most; };
  const auto py = [&](double y) { return top + (height - top - bottom) * (high - y) / (high - low); };

  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 420\" font-family=\"sans-serif\" font-size=\"12\" fill=\"none\">\n"
                    "<rect width=\"720\" height=\"420\" fill=\"white\"/>\n<g fill=\"#333\">\n";
  svg += label(width / 2, 22, "middle", title) + label(width / 2, height - 12, "middle", x_name);
  std::string grid;
  for (double y = low; y <= high + y_step / 2; y += y_step) {
    svg += label(left - 8, py(y) + 4, "end", number("%.4g", y));
    grid += line(left, py(y), width - right, py(y), "#ddd");
  }
  for (double x = 0; x <= x_most * 1.0001; x += x_step) {
    svg += label(px(x), height - bottom + 18, "middle", number("%.6g", x));
    grid += line(px(x), top, px(x), height - bottom, "#ddd");
  }
  double legend = top + 16;
  for (const CurveLine& l : lines) {
    svg += label(width - right - 40, legend + 4, "end", l.name);
    grid += line(width - right - 34, legend, width - right - 6, legend, l.colour.c_str());
    legend += 18;
  }
  svg += "</g>\n" + grid;
  for (const CurveLine& l : lines) {
    if (l.points.empty()) continue;
    svg += "<polyline stroke=\"" + l.colour + "\" stroke-width=\"1.5\" points=\"";
    for (const auto& [x, y] : l.points) svg += number("%.1f,", px(x)) + number("%.1f ", py(y));
    svg += "\"/>\n";
  }
  return svg + "</svg>\n";
}

}  // namespace kvt
