// Normalisation over the last axis (n numbers), with weights w and offset b
//
//   rms_norm (Zhang and Sennrich 2019)     y = x r ⊙ w,        r = 1/√(mean x² + eps)
//     g = dy ⊙ w                           dx = r (g − x r² ⟨g, x⟩/n)          dw = Σ_rows dy ⊙ x r
//   layer_norm (Ba et al. 2016)            y = z ⊙ w + b,      z = (x − mean) r,  r = 1/√(var + eps)
//     g = dy ⊙ w                           dx = r (g − mean g − z mean(g ⊙ z))    dw = Σ_rows dy ⊙ z    db = Σ_rows dy
#include <cmath>

#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/profile.h"

namespace kvt {

static void rms_norm_reference(float* y, const float* x, const float* w, int64_t rows, int64_t cols, float eps) {
  for (int64_t row = 0; row < rows; ++row, x += cols, y += cols) {
    float squares = 0;
    for (int64_t i = 0; i < cols; ++i) squares += x[i] * x[i];
    const float r = 1 / std::sqrt(squares / float(cols) + eps);
    for (int64_t i = 0; i < cols; ++i) y[i] = x[i] * r * w[i];
  }
}

static void rms_norm_grad_reference(float* dx, float* dw, const float* x, const float* w, const float* dy, int64_t rows, int64_t cols, float eps) {
  for (int64_t row = 0; row < rows; ++row, x += cols, dy += cols) {
    float squares = 0, gx = 0;
    for (int64_t i = 0; i < cols; ++i) squares += x[i] * x[i], gx += dy[i] * w[i] * x[i];
    const float r = 1 / std::sqrt(squares / float(cols) + eps), back = r * r * gx / float(cols);
    if (dw)
      for (int64_t i = 0; i < cols; ++i) dw[i] += dy[i] * x[i] * r;
    if (dx) {
      for (int64_t i = 0; i < cols; ++i) dx[i] += r * (dy[i] * w[i] - x[i] * back);
      dx += cols;
    }
  }
}

// mean and 1/√(var + eps) of one row; the variance in a second pass, since mean x² − mean² cancels
static void moments(const float* x, int64_t cols, float eps, float& mean, float& r) {
  float total = 0, squares = 0;
  for (int64_t i = 0; i < cols; ++i) total += x[i];
  mean = total / float(cols);
  for (int64_t i = 0; i < cols; ++i) squares += (x[i] - mean) * (x[i] - mean);
  r = 1 / std::sqrt(squares / float(cols) + eps);
}

static void layer_norm_reference(float* y, const float* x, const float* w, const float* b, int64_t rows, int64_t cols, float eps) {
  for (int64_t row = 0; row < rows; ++row, x += cols, y += cols) {
    float mean, r;
    moments(x, cols, eps, mean, r);
    for (int64_t i = 0; i < cols; ++i) y[i] = (x[i] - mean) * r * (w ? w[i] : 1) + (b ? b[i] : 0);
  }
}

static void layer_norm_grad_reference(float* dx, float* dw, float* db, const float* x, const float* w, const float* dy, int64_t rows, int64_t cols, float eps) {
  for (int64_t row = 0; row < rows; ++row, x += cols, dy += cols) {
    float mean, r, g_total = 0, gz_total = 0;
    moments(x, cols, eps, mean, r);
    for (int64_t i = 0; i < cols; ++i) {
      const float g = dy[i] * (w ? w[i] : 1), z = (x[i] - mean) * r;
      g_total += g, gz_total += g * z;
      if (dw) dw[i] += dy[i] * z;
      if (db) db[i] += dy[i];
    }
    if (!dx) continue;
    for (int64_t i = 0; i < cols; ++i) {
      const float g = dy[i] * (w ? w[i] : 1), z = (x[i] - mean) * r;
      dx[i] += r * (g - g_total / float(cols) - z * gz_total / float(cols));
    }
    dx += cols;
  }
}

namespace kernel {
Kernel<void(float*, const float*, const float*, int64_t, int64_t, float)> rms_norm("rms_norm", rms_norm_reference);
Kernel<void(float*, float*, const float*, const float*, const float*, int64_t, int64_t, float)> rms_norm_grad("rms_norm_grad", rms_norm_grad_reference);
Kernel<void(float*, const float*, const float*, const float*, int64_t, int64_t, float)> layer_norm("layer_norm", layer_norm_reference);
Kernel<void(float*, float*, float*, const float*, const float*, const float*, int64_t, int64_t, float)> layer_norm_grad("layer_norm_grad", layer_norm_grad_reference);
}  // namespace kernel

static bool fits(const Tensor& w, const Tensor& x) { return w.rank() == 1 && w.dim(0) == x.dim(-1); }

Tensor rms_norm(const Tensor& x, const Tensor& w, float eps) {
  const Timed timed([] { return "rms_norm"; });
  require(x.rank() >= 1 && w && fits(w, x), "rms_norm: weights ", w ? w.shape() : Shape{}, " do not fit the last axis of ", x.shape());
  const int64_t rows = x.shape().leading().numel(), cols = x.dim(-1);
  const auto apply = [=] {
    Tensor y(x.shape());
    for_rows(rows, cols, [=, to = y.data(), from = x.data(), pw = w.data()](int64_t begin, int64_t end) {
      kernel::rms_norm(to + begin * cols, from + begin * cols, pw, end - begin, cols, eps);
    });
    return y;
  };
  const Tensor y = apply();
  if (!recording({x, w})) return y;
  y.set_recipe(apply);
  return on_backward(y, {x, w}, [=, y = y.gradient()] {
    const float *px = x.data(), *pw = w.data(), *dy = y.grad();
    float* dx = x.wants_grad() ? x.grad() : nullptr;
    const auto grad = [=](float* dw, int64_t begin, int64_t end) {
      kernel::rms_norm_grad(dx ? dx + begin * cols : nullptr, dw, px + begin * cols, pw, dy + begin * cols, end - begin, cols, eps);
    };
    if (w.wants_grad()) sum_over_rows(w.grad(), rows, cols, grad);
    else for_rows(rows, cols, [&](int64_t begin, int64_t end) { grad(nullptr, begin, end); });
  });
}

Tensor layer_norm(const Tensor& x, const Tensor& w, const Tensor& b, float eps) {
  const Timed timed([] { return "layer_norm"; });
  require(x.rank() >= 1, "layer_norm: expected at least one axis, got ", x.shape());
  require(!w || fits(w, x), "layer_norm: weights ", w ? w.shape() : Shape{}, " do not fit the last axis of ", x.shape());
  require(!b || fits(b, x), "layer_norm: offset ", b ? b.shape() : Shape{}, " does not fit the last axis of ", x.shape());
  const int64_t rows = x.shape().leading().numel(), cols = x.dim(-1);
  const auto apply = [=] {
    Tensor y(x.shape());
    for_rows(rows, cols, [=, to = y.data(), from = x.data(), pw = w ? w.data() : nullptr, pb = b ? b.data() : nullptr](int64_t begin, int64_t end) {
      kernel::layer_norm(to + begin * cols, from + begin * cols, pw, pb, end - begin, cols, eps);
    });
    return y;
  };
  const Tensor y = apply();
  if (!recording({x, w, b})) return y;
  y.set_recipe(apply);
  return on_backward(y, {x, w, b}, [=, b = b.gradient(), y = y.gradient()] {
    const float *px = x.data(), *pw = w ? w.data() : nullptr, *dy = y.grad();
    float* dx = x.wants_grad() ? x.grad() : nullptr;
    const bool to_w = w && w.wants_grad(), to_b = b.wants_grad();
    const auto grad = [=](float* both, int64_t begin, int64_t end) {      // both: dw and db, one behind the other
      kernel::layer_norm_grad(dx ? dx + begin * cols : nullptr, both, both ? both + cols : nullptr, px + begin * cols, pw, dy + begin * cols,
                              end - begin, cols, eps);
    };
    if (!to_w && !to_b) return for_rows(rows, cols, [&](int64_t begin, int64_t end) { grad(nullptr, begin, end); });
    std::vector<float> both(size_t(2 * cols), 0.f);
    sum_over_rows(both.data(), rows, 2 * cols, grad);
    for (int64_t i = 0; to_w && i < cols; ++i) w.grad()[i] += both[size_t(i)];
    for (int64_t i = 0; to_b && i < cols; ++i) b.grad()[i] += both[size_t(cols + i)];
  });
}

}  // namespace kvt
