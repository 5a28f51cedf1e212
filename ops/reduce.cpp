// Sums and means, of all numbers or along one axis: x [outer, n, inner] → y [outer, inner]
//
//   sum    y = Σ x            dx = dy, repeated
//   mean   y = Σ x / n        dx = dy / n, repeated
#include "ops/loops.h"
#include "ops/ops.h"

namespace kvt {

// s Σ x, in double over chunks of a fixed size
static Tensor sum_all(const Tensor& x, float s) {
  constexpr int64_t chunk = piece_numbers;
  std::vector<double> partial(size_t((x.size() + chunk - 1) / chunk), 0.0);
  parallel_for(int64_t(partial.size()), 4, [&, from = x.data()](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      for (int64_t i = c * chunk; i < std::min((c + 1) * chunk, x.size()); ++i) partial[size_t(c)] += double(from[i]);
  });
  double total = 0;
  for (double p : partial) total += p;
  const Tensor y = Tensor::filled({1}, float(double(s) * total));

  return on_backward(y, {x}, [=, x = x.gradient(), y = y.gradient()] {
    for_numbers(x.size(), [dx = x.grad(), d = s * y.grad()[0]](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) dx[i] += d;
    });
  });
}

static Tensor sum_axis(const char* op, const Tensor& x, int axis, bool average) {
  const int at = axis < 0 ? axis + x.rank() : axis;
  require(at >= 0 && at < x.rank(), op, ": no axis ", axis, " in ", x.shape());
  Shape shape;
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < x.rank(); ++i) {
    if (i != at) shape.push_back(x.dim(i));
    (i < at ? outer : inner) *= i == at ? 1 : x.dim(i);
  }
  const int64_t n = x.dim(at);
  const float s = average && n > 0 ? 1 / float(n) : 1;

  Tensor y = Tensor::zeros(shape);
  for_rows(outer, n * inner, [=, to = y.data(), from = x.data()](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t j = 0; j < n; ++j)
        for (int64_t i = 0; i < inner; ++i) to[o * inner + i] += from[(o * n + j) * inner + i];
      for (int64_t i = 0; i < inner; ++i) to[o * inner + i] *= s;
    }
  });

  return on_backward(y, {x}, [=, x = x.gradient(), y = y.gradient()] {
    for_rows(outer, n * inner, [=, dx = x.grad(), dy = y.grad()](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o)
        for (int64_t j = 0; j < n; ++j)
          for (int64_t i = 0; i < inner; ++i) dx[(o * n + j) * inner + i] += s * dy[o * inner + i];
    });
  });
}

Tensor sum(const Tensor& x) { return sum_all(x, 1); }
Tensor mean(const Tensor& x) {
  require(x.size() > 0, "mean: of no numbers, ", x.shape());
  return sum_all(x, 1 / float(x.size()));
}
Tensor sum(const Tensor& x, int axis) { return sum_axis("sum", x, axis, false); }
Tensor mean(const Tensor& x, int axis) { return sum_axis("mean", x, axis, true); }

}  // namespace kvt
