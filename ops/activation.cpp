// Activation functions and their derivatives, with σ(x) = 1 / (1 + e^−x), Φ and φ the normal distribution and its density
//
//   silu        x σ                      σ (1 + x (1 − σ))
//   gelu_erf    x Φ(x)                   Φ + x φ                                         (Hendrycks and Gimpel 2016)
//   gelu_tanh   x/2 (1 + t)              (1 + t)/2 + x/2 (1 − t²) c (1 + 3 · 0.044715 x²)
//               t = tanh(c (x + 0.044715 x³)),  c = √(2/π)
//   sigmoid     σ                        σ (1 − σ)
//   tanh        t                        1 − t²
//   swiglu      silu(gate) ⊙ up          to gate: up silu'(gate),  to up: silu(gate)     (Shazeer 2020)
#include <cmath>
#include <numbers>

#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/profile.h"

namespace kvt {

namespace {

constexpr float cubic = 0.044715f;
const float root_2_over_pi = std::sqrt(2 * std::numbers::inv_pi_v<float>);

float logistic(float x) { return 1 / (1 + std::exp(-x)); }
float normal_cdf(float x) { return 0.5f * (1 + std::erf(x / std::numbers::sqrt2_v<float>)); }
float normal_pdf(float x) { return std::exp(-0.5f * x * x) * 0.5f * root_2_over_pi; }
float gelu_tanh_inner(float x) { return std::tanh(root_2_over_pi * (x + cubic * x * x * x)); }

float silu_value(float x) { return x * logistic(x); }
float silu_slope(float x) { return logistic(x) * (1 + x * (1 - logistic(x))); }

float gelu_erf_value(float x) { return x * normal_cdf(x); }
float gelu_erf_slope(float x) { return normal_cdf(x) + x * normal_pdf(x); }

float gelu_tanh_value(float x) { return 0.5f * x * (1 + gelu_tanh_inner(x)); }
float gelu_tanh_slope(float x) {
  const float t = gelu_tanh_inner(x);
  return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * root_2_over_pi * (1 + 3 * cubic * x * x);
}

float sigmoid_slope(float x) { return logistic(x) * (1 - logistic(x)); }

float tanh_value(float x) { return std::tanh(x); }
float tanh_slope(float x) { return 1 - std::tanh(x) * std::tanh(x); }

float exp_value(float x) { return std::exp(x); }

template <float f(float)>
void map_reference(float* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = f(x[i]);
}

template <float slope(float)>
void grad_reference(float* dx, const float* x, const float* dy, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dx[i] += slope(x[i]) * dy[i];
}

void swiglu_reference(float* y, const float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = silu_value(gate[i]) * up[i];
}

void swiglu_grad_reference(float* dgate, float* dup, const float* gate, const float* up, const float* dy, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    dgate[i] += dy[i] * up[i] * silu_slope(gate[i]);
    dup[i] += dy[i] * silu_value(gate[i]);
  }
}

Tensor map(const Tensor& x, const Kernel<kernel::Map>& f, const Kernel<kernel::MapGrad>& grad) {
  const auto apply = [&f](const Tensor& at) {
    Tensor y(at.shape());
    for_numbers(at.size(), [to = y.data(), from = at.data(), &f](int64_t begin, int64_t end) { f(to + begin, from + begin, end - begin); });
    return y;
  };
  const Tensor y = apply(x);
  if (!recording({x})) return y;
  const Kept kept = saved(x);
  y.set_recipe([=] { return apply(kept()); });
  return on_backward(y, {x}, [=, &grad, x = x.gradient(), y = y.gradient()] {
    const Tensor numbers = kept();
    for_numbers(x.size(), [dx = x.grad(), from = numbers.data(), dy = y.grad(), &grad](int64_t begin, int64_t end) {
      grad(dx + begin, from + begin, dy + begin, end - begin);
    });
  });
}

}  // namespace

namespace kernel {
Kernel<Map> silu("silu", map_reference<silu_value>);
Kernel<Map> gelu_erf("gelu_erf", map_reference<gelu_erf_value>);
Kernel<Map> gelu_tanh("gelu_tanh", map_reference<gelu_tanh_value>);
Kernel<Map> sigmoid("sigmoid", map_reference<logistic>);
Kernel<Map> tanh("tanh", map_reference<tanh_value>);
Kernel<Map> exp("exp", map_reference<exp_value>);
Kernel<MapGrad> silu_grad("silu_grad", grad_reference<silu_slope>);
Kernel<MapGrad> gelu_erf_grad("gelu_erf_grad", grad_reference<gelu_erf_slope>);
Kernel<MapGrad> gelu_tanh_grad("gelu_tanh_grad", grad_reference<gelu_tanh_slope>);
Kernel<MapGrad> sigmoid_grad("sigmoid_grad", grad_reference<sigmoid_slope>);
Kernel<MapGrad> tanh_grad("tanh_grad", grad_reference<tanh_slope>);
Kernel<void(float*, const float*, const float*, int64_t)> swiglu("swiglu", swiglu_reference);
Kernel<void(float*, float*, const float*, const float*, const float*, int64_t)> swiglu_grad("swiglu_grad", swiglu_grad_reference);
}  // namespace kernel

Tensor silu(const Tensor& x) { return map(x, kernel::silu, kernel::silu_grad); }
Tensor gelu(const Tensor& x) { return map(x, kernel::gelu_erf, kernel::gelu_erf_grad); }
Tensor gelu_tanh(const Tensor& x) { return map(x, kernel::gelu_tanh, kernel::gelu_tanh_grad); }
Tensor sigmoid(const Tensor& x) { return map(x, kernel::sigmoid, kernel::sigmoid_grad); }
Tensor tanh(const Tensor& x) { return map(x, kernel::tanh, kernel::tanh_grad); }

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  const Timed timed([] { return "swiglu"; });
  require(gate.shape() == up.shape(), "swiglu: gate ", gate.shape(), " but up ", up.shape());
  const auto apply = [](const Tensor& a, const Tensor& b) {
    Tensor y(a.shape());
    for_numbers(y.size(), [to = y.data(), g = a.data(), u = b.data()](int64_t begin, int64_t end) {
      kernel::swiglu(to + begin, g + begin, u + begin, end - begin);
    });
    return y;
  };
  const Tensor y = apply(gate, up);
  if (!recording({gate, up})) return y;
  const Kept kept_gate = saved(gate), kept_up = saved(up);
  y.set_recipe([=] { return apply(kept_gate(), kept_up()); });
  return on_backward(y, {gate, up}, [=, gate = gate.gradient(), up = up.gradient(), y = y.gradient()] {
    const Tensor gates = kept_gate(), ups = kept_up();
    const Tensor spare = gate.wants_grad() && up.wants_grad() ? Tensor() : Tensor::zeros({y.size()});    // the kernel fills both
    float *dgate = gate.wants_grad() ? gate.grad() : spare.data(), *dup = up.wants_grad() ? up.grad() : spare.data();
    for_numbers(y.size(), [=, g = gates.data(), u = ups.data(), dy = y.grad()](int64_t begin, int64_t end) {
      kernel::swiglu_grad(dgate + begin, dup + begin, g + begin, u + begin, dy + begin, end - begin);
    });
  });
}

}  // namespace kvt
