// Functions of single numbers, their derivatives, and the gated layer made of them.
#include "ops/simd/vec.h"

namespace kvt {
namespace {

template <class F>
inline void map(float* y, const float* x, int64_t n, F f) {
  sweep(n, [&](auto at) { at.store(y, f(at.load(x))); });
}

// dx += f'(x) dy
template <class F>
inline void map_grad(float* dx, const float* x, const float* dy, int64_t n, F derivative) {
  sweep(n, [&](auto at) { at.store(dx, fma(derivative(at.load(x)), at.load(dy), at.load(dx))); });
}

// Φ(x) and e^(−x²/2) to 3e-7. With z = |x|/√2 and t = 1/(1 + 0.3275911 z):  erfc(z) = t (a1 + … + a5 t⁴) e^(−z²)
// (Abramowitz and Stegun 7.1.26). The tail of Φ is erfc/2 itself, without cancellation.
struct Normal { V cdf, bell; };
inline Normal normal(V x) {
  const V t = V(1.0f) / fma(V(0.3275911f * 0.70710678f), xsimd::abs(x), V(1.0f));
  V p = fma(V(1.061405429f), t, V(-1.453152027f));
  p = fma(p, t, V(1.421413741f));
  p = fma(p, t, V(-0.284496736f));
  p = fma(p, t, V(0.254829592f));
  const V bell = exp(V(-0.5f) * x * x);
  const V tail = V(0.5f) * p * t * bell;
  return {xsimd::select(x < V(0.0f), tail, V(1.0f) - tail), bell};
}

// The tanh form of GELU is x σ(2u) with u = √(2/π) (x + 0.044715 x³).
constexpr float two_root = 1.5957691216f, cubic = 0.044715f;
inline V gelu_gate(V x) { return sigmoid(V(two_root) * x * fma(V(cubic), x * x, V(1.0f))); }

// Far from zero 1 − 2/(e^2x + 1); near it the odd polynomial of the Cephes library (Moshier), which keeps relative precision.
inline V tanh_of(V x) {
  const V z = x * x;
  V p = fma(V(-5.70498872745e-3f), z, V(2.06390887954e-2f));
  p = fma(p, z, V(-5.37397155531e-2f));
  p = fma(p, z, V(1.33314422036e-1f));
  p = fma(p, z, V(-3.33332819422e-1f));
  const V near = fma(p * z, x, x);
  const V far = V(1.0f) - V(2.0f) / (exp(x + x) + V(1.0f));
  return xsimd::select(xsimd::abs(x) < V(0.625f), near, far);
}

void silu(float* y, const float* x, int64_t n) {
  map(y, x, n, [](V v) { return v * sigmoid(v); });
}
void silu_grad(float* dx, const float* x, const float* dy, int64_t n) {
  map_grad(dx, x, dy, n, [](V v) {
    const V s = sigmoid(v);
    return s * fma(v, V(1.0f) - s, V(1.0f));
  });
}

void gelu_erf(float* y, const float* x, int64_t n) {
  map(y, x, n, [](V v) { return v * normal(v).cdf; });
}
void gelu_erf_grad(float* dx, const float* x, const float* dy, int64_t n) {
  map_grad(dx, x, dy, n, [](V v) {
    const auto [cdf, bell] = normal(v);
    return fma(V(0.39894228f) * v, bell, cdf);
  });
}

void gelu_tanh(float* y, const float* x, int64_t n) {
  map(y, x, n, [](V v) { return v * gelu_gate(v); });
}
void gelu_tanh_grad(float* dx, const float* x, const float* dy, int64_t n) {
  map_grad(dx, x, dy, n, [](V v) {
    const V s = gelu_gate(v);
    const V slope = V(two_root) * fma(V(3 * cubic), v * v, V(1.0f));
    return fma(v * s * (V(1.0f) - s), slope, s);
  });
}

void sigmoid_map(float* y, const float* x, int64_t n) {
  map(y, x, n, [](V v) { return sigmoid(v); });
}
void sigmoid_grad(float* dx, const float* x, const float* dy, int64_t n) {
  map_grad(dx, x, dy, n, [](V v) {
    const V s = sigmoid(v);
    return s * (V(1.0f) - s);
  });
}

void tanh_map(float* y, const float* x, int64_t n) {
  map(y, x, n, [](V v) { return tanh_of(v); });
}
void tanh_grad(float* dx, const float* x, const float* dy, int64_t n) {
  map_grad(dx, x, dy, n, [](V v) {
    const V t = tanh_of(v);
    return xsimd::fnma(t, t, V(1.0f));
  });
}

void exp_map(float* y, const float* x, int64_t n) {
  map(y, x, n, [](V v) { return exp(v); });
}

void swiglu(float* y, const float* gate, const float* up, int64_t n) {
  sweep(n, [&](auto at) {
    const V g = at.load(gate);
    at.store(y, g * sigmoid(g) * at.load(up));
  });
}
void swiglu_grad(float* dgate, float* dup, const float* gate, const float* up, const float* dy, int64_t n) {
  sweep(n, [&](auto at) {
    const V g = at.load(gate), d = at.load(dy), s = sigmoid(g);
    at.store(dgate, fma(d * at.load(up), s * fma(g, V(1.0f) - s, V(1.0f)), at.load(dgate)));
    at.store(dup, fma(d, g * s, at.load(dup)));
  });
}

}  // namespace

void ISA::add_maps() {
  kernel::silu.add(this_isa, silu);
  kernel::gelu_erf.add(this_isa, gelu_erf);
  kernel::gelu_tanh.add(this_isa, gelu_tanh);
  kernel::sigmoid.add(this_isa, sigmoid_map);
  kernel::tanh.add(this_isa, tanh_map);
  kernel::exp.add(this_isa, exp_map);
  kernel::silu_grad.add(this_isa, silu_grad);
  kernel::gelu_erf_grad.add(this_isa, gelu_erf_grad);
  kernel::gelu_tanh_grad.add(this_isa, gelu_tanh_grad);
  kernel::sigmoid_grad.add(this_isa, sigmoid_grad);
  kernel::tanh_grad.add(this_isa, tanh_grad);
  kernel::swiglu.add(this_isa, swiglu);
  kernel::swiglu_grad.add(this_isa, swiglu_grad);
}

}  // namespace kvt
