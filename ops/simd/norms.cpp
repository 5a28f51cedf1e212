// RMSNorm and LayerNorm over rows, and their gradients.
#include <cmath>

#include "ops/simd/vec.h"

namespace kvt {
namespace {

float mean_square(const float* x, int64_t n) {
  V a(0.0f), b(0.0f);
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    const V x0 = load(x + i), x1 = load(x + i + W);
    a = fma(x0, x0, a), b = fma(x1, x1, b);
  }
  sweep(n - i, [&](auto at) {
    const V v = at.load(x + i);
    a = fma(v, v, a);
  });
  return sum(a + b) / float(n);
}

void rms_norm(float* y, const float* x, const float* w, int64_t rows, int64_t cols, float eps) {
  for (int64_t r = 0; r < rows; ++r, x += cols, y += cols) {
    const V scale(1 / std::sqrt(mean_square(x, cols) + eps));
    sweep(cols, [&](auto at) { at.store(y, at.load(x) * scale * at.load(w)); });
  }
}

void rms_norm_grad(float* dx, float* dw, const float* x, const float* w, const float* dy, int64_t rows, int64_t cols, float eps) {
  for (int64_t row = 0; row < rows; ++row, x += cols, dy += cols) {
    const float r = 1 / std::sqrt(mean_square(x, cols) + eps);
    if (dw) sweep(cols, [&](auto at) { at.store(dw, fma(at.load(dy) * at.load(x), V(r), at.load(dw))); });
    if (!dx) continue;
    V products(0.0f);
    sweep(cols, [&](auto at) { products = fma(at.load(dy) * at.load(w), at.load(x), products); });
    const V along(r * r * sum(products) / float(cols));
    sweep(cols, [&](auto at) {
      const V g = at.load(dy) * at.load(w);
      at.store(dx, fma(V(r), xsimd::fnma(along, at.load(x), g), at.load(dx)));
    });
    dx += cols;
  }
}

struct Moments { float mean, r; };      // r = 1 / √(var + eps)

Moments moments(const float* x, int64_t n, float eps) {
  V total(0.0f);
  sweep(n, [&](auto at) { total += at.load(x); });
  const float mean = sum(total) / float(n);
  V squares(0.0f);
  sweep(n, [&](auto at) {
    const V d = at.load(x, mean) - V(mean);
    squares = fma(d, d, squares);
  });
  return {mean, 1 / std::sqrt(sum(squares) / float(n) + eps)};
}

void layer_norm(float* y, const float* x, const float* w, const float* b, int64_t rows, int64_t cols, float eps) {
  for (int64_t row = 0; row < rows; ++row, x += cols, y += cols) {
    const auto [mean, r] = moments(x, cols, eps);
    const V shift(mean), scale(r);
    sweep(cols, [&](auto at) {
      V v = (at.load(x) - shift) * scale;
      if (w) v *= at.load(w);
      if (b) v += at.load(b);
      at.store(y, v);
    });
  }
}

// With x̂ = (x − mean) r and g = dy ⊙ w:   dx += r (g − mean g − x̂ mean(g ⊙ x̂)),   dw += dy ⊙ x̂,   db += dy
void layer_norm_grad(float* dx, float* dw, float* db, const float* x, const float* w, const float* dy, int64_t rows, int64_t cols, float eps) {
  for (int64_t row = 0; row < rows; ++row, x += cols, dy += cols) {
    const auto [mean, r] = moments(x, cols, eps);
    const V shift(mean), scale(r);
    if (dw) sweep(cols, [&](auto at) { at.store(dw, fma(at.load(dy), (at.load(x) - shift) * scale, at.load(dw))); });
    if (db) sweep(cols, [&](auto at) { at.store(db, at.load(db) + at.load(dy)); });
    if (!dx) continue;
    V sum_g(0.0f), sum_gx(0.0f);
    sweep(cols, [&](auto at) {
      V g = at.load(dy);
      if (w) g *= at.load(w);
      sum_g += g;
      sum_gx = fma(g, (at.load(x) - shift) * scale, sum_gx);
    });
    const V mean_g(sum(sum_g) / float(cols)), mean_gx(sum(sum_gx) / float(cols));
    sweep(cols, [&](auto at) {
      V g = at.load(dy);
      if (w) g *= at.load(w);
      at.store(dx, fma(scale, xsimd::fnma((at.load(x) - shift) * scale, mean_gx, g - mean_g), at.load(dx)));
    });
    dx += cols;
  }
}

}  // namespace

void ISA::add_norms() {
  kernel::rms_norm.add(this_isa, rms_norm);
  kernel::rms_norm_grad.add(this_isa, rms_norm_grad);
  kernel::layer_norm.add(this_isa, layer_norm);
  kernel::layer_norm_grad.add(this_isa, layer_norm_grad);
}

}  // namespace kvt
