// Softmax over rows, and its gradient: max, then exponentials and their sum in one pass.
#include "ops/simd/vec.h"

namespace kvt {
namespace {

float row_max(const float* x, int64_t n) {
  V m(-infinity);
  sweep(n, [&](auto at) { m = xsimd::max(m, at.load(x, -infinity)); });
  return largest(m);
}

// y = e^(x − m);  returns Σ y
float row_exp(float* y, const float* x, float m, int64_t n) {
  V total(0.0f);
  sweep(n, [&](auto at) {
    const V e = exp(at.load(x, -infinity) - V(m));
    at.store(y, e);
    total += e;
  });
  return sum(total);
}

void row_scale(float* y, float s, int64_t n) {
  sweep(n, [&](auto at) { at.store(y, at.load(y) * V(s)); });
}

void softmax(float* y, const float* x, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r, x += cols, y += cols) {
    const float m = row_max(x, cols);
    if (m == -infinity) std::fill_n(y, cols, 0.0f);
    else row_scale(y, 1 / row_exp(y, x, m, cols), cols);
  }
}

void softmax_grad(float* dx, const float* y, const float* dy, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r, dx += cols, y += cols, dy += cols) {
    V products(0.0f);
    sweep(cols, [&](auto at) { products = fma(at.load(y), at.load(dy), products); });
    const V dot(sum(products));
    sweep(cols, [&](auto at) { at.store(dx, fma(at.load(y), at.load(dy) - dot, at.load(dx))); });
  }
}

}  // namespace

void ISA::add_softmax() {
  kernel::softmax.add(this_isa, softmax);
  kernel::softmax_grad.add(this_isa, softmax_grad);
}

}  // namespace kvt
