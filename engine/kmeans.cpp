#include "engine/kmeans.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/ops.h"
#include "tensor/order.h"

namespace kvt {

namespace {

// Makes a row unit long; false if it has no direction.
bool normalise(float* row, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += double(row[i]) * row[i];
  if (!(squares > 0)) return false;
  const auto by = float(1 / std::sqrt(squares));
  for (int64_t i = 0; i < n; ++i) row[i] *= by;
  return true;
}

class KMeans {
 public:
  KMeans(Tensor unit, std::vector<int64_t> origin, uint64_t seed) : x_(std::move(unit)), origin_(std::move(origin)), rng_(seed) {}

  Clusters run(int64_t k, int64_t iterations, int64_t points) {
    choose_centres(k);
    Clusters c;
    std::vector<int32_t> own(size_t(n()), -1);
    for (c.iterations = 0; c.iterations < iterations; ++c.iterations) {
      const bool changed = assign(own, c.cosine);
      if (!changed) break;
      update(own);
    }
    return finish(std::move(c), own, points);
  }

 private:
  int64_t n() const { return x_.dim(0); }
  int64_t width() const { return x_.dim(1); }
  int64_t k() const { return centres_.dim(0); }

  void choose_centres(int64_t k) {
    std::vector<float> chosen;
    std::vector<double> distance(size_t(n()), 2.0);          // 1 − cosine to the nearest centre, at most 2
    for (int64_t j = 0; j < k; ++j) {
      const double total = std::accumulate(distance.begin(), distance.end(), 0.0);
      if (total < 1e-6 * double(n())) break;                 // all points lie on centres
      double left = double(rng_.uniform()) * total;
      int64_t pick = 0;
      while (pick + 1 < n() && (left -= distance[size_t(pick)]) >= 0) ++pick;
      const float* centre = x_.data() + pick * width();
      chosen.insert(chosen.end(), centre, centre + width());
      for (int64_t i = 0; i < n(); ++i) {
        const double cosine = std::inner_product(centre, centre + width(), x_.data() + i * width(), 0.0);
        distance[size_t(i)] = std::min(distance[size_t(i)], std::max(0.0, 1 - cosine));
      }
    }
    centres_ = Tensor::from({int64_t(chosen.size()) / width(), width()}, chosen);
  }

  bool assign(std::vector<int32_t>& own, double& cosine) const {
    const Tensor products = matmul(x_, centres_, false, true);      // [N, k]
    bool changed = false;
    cosine = 0;
    for (int64_t i = 0; i < n(); ++i) {
      const float* row = products.data() + i * k();
      const auto best = int32_t(std::max_element(row, row + k()) - row);
      changed |= own[size_t(i)] != best;
      own[size_t(i)] = best;
      cosine += double(row[best]) / double(n());
    }
    return changed;
  }

  // A cluster that lost all its points keeps its centre.
  void update(const std::vector<int32_t>& own) {
    Tensor sums = Tensor::zeros(centres_.shape());
    for (int64_t i = 0; i < n(); ++i)
      for (int64_t c = 0; c < width(); ++c) sums.data()[own[size_t(i)] * width() + c] += x_.data()[i * width() + c];
    for (int64_t j = 0; j < k(); ++j)
      if (normalise(sums.data() + j * width(), width())) std::copy_n(sums.data() + j * width(), width(), centres_.data() + j * width());
  }

  Clusters finish(Clusters c, const std::vector<int32_t>& own, int64_t points) const {
    std::vector<int64_t> sizes(static_cast<size_t>(k()));
    for (const int32_t j : own) ++sizes[size_t(j)];
    std::vector<int64_t> order = stable_order(k(), [&](int64_t a, int64_t b) { return sizes[size_t(a)] > sizes[size_t(b)]; });
    std::vector<int32_t> place(sizes.size());
    while (sizes[size_t(order.back())] == 0) order.pop_back();
    c.centres = Tensor({int64_t(order.size()), width()});
    for (size_t j = 0; j < order.size(); ++j) {
      place[size_t(order[j])] = int32_t(j);
      c.sizes.push_back(sizes[size_t(order[j])]);
      std::copy_n(centres_.data() + order[j] * width(), width(), c.centres.data() + int64_t(j) * width());
    }
    c.assignment.assign(size_t(points), -1);
    for (size_t i = 0; i < own.size(); ++i) c.assignment[size_t(origin_[i])] = place[size_t(own[i])];
    return c;
  }

  Tensor x_, centres_;                 // unit rows
  std::vector<int64_t> origin_;        // of each row: the point it was
  Rng rng_;
};

}  // namespace

Clusters spherical_kmeans(const Tensor& points, int64_t k, uint64_t seed, int64_t iterations) {
  require(points.rank() == 2 && k >= 1, "k-means: ", k, " clusters of points ", points.shape());
  const Tape::Pause pause;
  std::vector<float> unit;
  std::vector<int64_t> origin;
  std::vector<float> row(size_t(points.dim(1)));
  for (int64_t i = 0; i < points.dim(0); ++i) {
    std::copy_n(points.data() + i * points.dim(1), row.size(), row.begin());
    if (!normalise(row.data(), points.dim(1))) continue;
    unit.insert(unit.end(), row.begin(), row.end());
    origin.push_back(i);
  }
  require(!origin.empty(), "k-means: none of ", points.dim(0), " points has a direction");
  const Shape shape{int64_t(origin.size()), points.dim(1)};
  return KMeans(Tensor::from(shape, unit), std::move(origin), seed).run(k, iterations, points.dim(0));
}

}  // namespace kvt
