// softmax and its logarithm over the last axis
//
//   softmax        y = e^(x − max x) / Σ e^(x − max x)         dx = y ⊙ (dy − ⟨y, dy⟩)
//   log_softmax    y = x − log Σ e^x                           dx = dy − e^y Σ dy
#include <cmath>
#include <limits>

#include "ops/loops.h"
#include "ops/ops.h"

namespace kvt {

static void softmax_reference(float* y, const float* x, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r, x += cols, y += cols) {
    float top = -std::numeric_limits<float>::infinity(), total = 0;
    for (int64_t i = 0; i < cols; ++i) top = std::max(top, x[i]);
    if (top == -std::numeric_limits<float>::infinity()) {
      std::fill_n(y, cols, 0.f);
      continue;
    }
    for (int64_t i = 0; i < cols; ++i) total += y[i] = std::exp(x[i] - top);
    for (int64_t i = 0; i < cols; ++i) y[i] /= total;
  }
}

static void softmax_grad_reference(float* dx, const float* y, const float* dy, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r, dx += cols, y += cols, dy += cols) {
    float dot = 0;
    for (int64_t i = 0; i < cols; ++i) dot += y[i] * dy[i];
    for (int64_t i = 0; i < cols; ++i) dx[i] += y[i] * (dy[i] - dot);
  }
}

namespace kernel {
Kernel<void(float*, const float*, int64_t, int64_t)> softmax("softmax", softmax_reference);
Kernel<void(float*, const float*, const float*, int64_t, int64_t)> softmax_grad("softmax_grad", softmax_grad_reference);
}  // namespace kernel

Tensor softmax(const Tensor& x) {
  require(x.rank() >= 1, "softmax: expected at least one axis, got ", x.shape());
  const int64_t rows = x.shape().leading().numel(), cols = x.dim(-1);
  Tensor y(x.shape());
  for_rows(rows, cols, [=, to = y.data(), from = x.data()](int64_t begin, int64_t end) {
    kernel::softmax(to + begin * cols, from + begin * cols, end - begin, cols);
  });

  return on_backward(y, {x}, [=, x = x.gradient()] {
    for_rows(rows, cols, [=, dx = x.grad(), py = y.data(), dy = y.grad()](int64_t begin, int64_t end) {
      kernel::softmax_grad(dx + begin * cols, py + begin * cols, dy + begin * cols, end - begin, cols);
    });
  });
}

float log_sum_exp(const float* x, int64_t n) {
  constexpr int64_t block = 256;
  float e[block];
  const float top = n > 0 ? *std::max_element(x, x + n) : -std::numeric_limits<float>::infinity();
  if (std::isinf(top)) return top;
  double total = 0;
  for (int64_t i = 0; i < n; i += block) {
    const int64_t count = std::min(block, n - i);
    for (int64_t j = 0; j < count; ++j) e[j] = x[i + j] - top;
    kernel::exp(e, e, count);
    float part = 0;
    for (int64_t j = 0; j < count; ++j) part += e[j];
    total += part;
  }
  return top + float(std::log(total));
}

Tensor log_softmax(const Tensor& x) {
  require(x.rank() >= 1, "log_softmax: expected at least one axis, got ", x.shape());
  const int64_t rows = x.shape().leading().numel(), cols = x.dim(-1);
  Tensor y(x.shape());
  for_rows(rows, cols, [=, to = y.data(), from = x.data()](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float lse = log_sum_exp(from + r * cols, cols);
      for (int64_t i = r * cols; i < (r + 1) * cols; ++i) to[i] = from[i] - lse;
    }
  });

  return on_backward(y, {x}, [=, x = x.gradient()] {
    for_rows(rows, cols, [=, dx = x.grad(), py = y.data(), dy = y.grad()](int64_t begin, int64_t end) {
      thread_local Scratch scratch;
      float* p = scratch.floats(cols);
      for (int64_t r = begin; r < end; ++r) {
        kernel::exp(p, py + r * cols, cols);
        float total = 0;
        for (int64_t i = 0; i < cols; ++i) total += dy[r * cols + i];
        for (int64_t i = 0; i < cols; ++i) dx[r * cols + i] += dy[r * cols + i] - p[i] * total;
      }
    });
  });
}

}  // namespace kvt
