#include "engine/tune.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace kvt {

namespace {

using Values = std::vector<int64_t>;
using Point = std::vector<double>;      // log₂ of values

class Search {
 public:
  Search(const TuningTask& task, const TuneOptions& options) : task_(task), options_(options) {
    for (const Tunable* t : task.tunables) standard_.push_back(t->standard());
    best_ = standard_;
    cost_[best_] = 1;
  }

  Tuned run() {
    while (coordinates()) {}
    nelder_mead();
    const double gain = best_ == standard_ ? 0 : 1 - ratio(best_, standard_);        // anew: of many candidates the luckiest looks best
    if (gain < options_.least_gain) best_ = standard_;
    set(best_);
    return {best_, best_ == standard_ ? 0 : gain, candidates_};
  }

 private:
  void set(const Values& v) const {
    for (size_t i = 0; i < v.size(); ++i)
      if (v == standard_) task_.tunables[i]->reset();
      else task_.tunables[i]->set(v[i]);
  }

  // time(a)/time(b), the least of each of several runs in turns
  double ratio(const Values& a, const Values& b) const {
    double time_a = INFINITY, time_b = INFINITY;
    for (int i = 0; i < options_.turns; ++i) {
      set(a), time_a = std::min(time_a, task_.seconds());
      set(b), time_b = std::min(time_b, task_.seconds());
    }
    return time_a / time_b;
  }

  bool over() const { return candidates_ >= options_.most || (options_.stop && options_.stop()); }

  // Time beside that of the defaults; what wins becomes the best.
  double cost(const Values& v) {
    if (const auto known = cost_.find(v); known != cost_.end()) return known->second;
    if (over()) return INFINITY;
    ++candidates_;
    const double beside = ratio(v, best_), c = cost_[v] = cost_[best_] * beside;
    const bool wins = beside < 1 - options_.least_gain;
    if (options_.progress) options_.progress(task_.name + ": " + text(v) + "  time " + std::to_string(c).substr(0, 5) + " of the defaults'" + (wins ? ", best so far" : ""));
    if (wins) best_ = v;
    return c;
  }

  std::string text(const Values& v) const {
    std::string s;
    for (size_t i = 0; i < v.size(); ++i) s += (i ? ", " : "") + std::string(task_.tunables[i]->name) + " " + std::to_string(v[i]);
    return s;
  }

  int64_t within(size_t i, double value) const {
    return std::clamp<int64_t>(std::llround(value), task_.tunables[i]->least, task_.tunables[i]->most);
  }

  bool coordinates() {
    const Values before = best_;
    for (size_t i = 0; i < best_.size() && !over(); ++i) {
      const double at = double(best_[i]);
      for (const double factor : {0.25, 0.5, 0.75, 1.5, 2., 4.}) {
        Values v = best_;
        v[i] = within(i, at * factor);
        cost(v);
      }
    }
    return best_ != before && !over();
  }

  double cost(const Point& p) {
    Values v(p.size());
    for (size_t i = 0; i < p.size(); ++i) v[i] = within(i, std::exp2(p[i]));
    return cost(v);
  }

  void nelder_mead() {
    const size_t n = best_.size();
    if (n < 2) return;
    std::vector<Point> corner(n + 1, Point(n));
    for (size_t c = 0; c <= n; ++c)
      for (size_t i = 0; i < n; ++i) corner[c][i] = std::log2(double(std::max<int64_t>(1, best_[i]))) + (c == i + 1 ? 0.4 : 0);
    const int end = candidates_ + 12 * int(n);              // a short walk: the ground is rough
    while (candidates_ < end && !over()) {
      const int before = candidates_;
      std::sort(corner.begin(), corner.end(), [this](const Point& a, const Point& b) { return cost(a) < cost(b); });
      Point middle(n, 0.);                                  // of all corners but the worst
      for (size_t c = 0; c < n; ++c)
        for (size_t i = 0; i < n; ++i) middle[i] += corner[c][i] / double(n);
      const auto from_middle = [&](double by) {
        Point p(n);
        for (size_t i = 0; i < n; ++i) p[i] = middle[i] + by * (corner[n][i] - middle[i]);
        return p;
      };
      Point p = from_middle(-1);                            // reflected
      if (cost(p) < cost(corner[0])) {
        const Point further = from_middle(-2);
        if (cost(further) < cost(p)) p = further;
      } else if (cost(p) >= cost(corner[n - 1])) {
        p = from_middle(0.5);                               // contracted
      }
      if (cost(p) < cost(corner[n])) {
        corner[n] = p;
      } else {                                              // shrunk
        for (size_t c = 1; c <= n; ++c)
          for (size_t i = 0; i < n; ++i) corner[c][i] = (corner[c][i] + corner[0][i]) / 2;
      }
      if (candidates_ == before) break;                     // nothing new at this resolution
    }
  }

  const TuningTask& task_;
  const TuneOptions& options_;
  Values standard_, best_;
  std::map<Values, double> cost_;
  int candidates_ = 0;
};

}  // namespace

Tuned tune(const TuningTask& task, const TuneOptions& options) { return Search(task, options).run(); }

}  // namespace kvt
