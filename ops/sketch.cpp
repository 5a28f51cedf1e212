#include "ops/sketch.h"

#include "ops/loops.h"
#include "ops/ops.h"

namespace kvt {

Tensor TestMatrices::gaussian(const Shape& shape, uint64_t stream) const {
  Rng rng(seed_);
  Rng own(rng.next() + 2 * uint64_t(shape.numel()) + stream);
  return randn(shape, own);
}

const Tensor& TestMatrices::omega(int64_t in) {
  Tensor& omega = omega_[in];
  if (!omega) omega = gaussian({in, p_}, 0);
  return omega;
}

const Tensor& TestMatrices::psi(int64_t out) {
  Tensor& psi = psi_[out];
  if (!psi) psi = gaussian({q_, out}, 1);
  return psi;
}

GradientSketch::GradientSketch(int64_t out, int64_t in, TestMatrices& tests) : out_(out), in_(in) {
  const int64_t p = tests.p(), q = tests.q();
  if (out * in <= out * p + q * in) {
    g_ = Tensor::zeros({out, in});
    return;
  }
  omega_ = tests.omega(in);
  psi_ = tests.psi(out);
  y_ = Tensor::zeros({out, p});
  z_ = Tensor::zeros({q, in});
}

void GradientSketch::add(const Tensor& x, const float* dy) {
  const int64_t T = x.size() / in_;
  const kernel::Mat dy_transposed{dy, 1, out_};
  if (g_) return multiply(g_.data(), in_, dy_transposed, {x.data(), in_, 1}, out_, in_, T);
  const int64_t p = y_.dim(1), q = z_.dim(0);
  const Tensor x_omega = Tensor::zeros({T, p}), dy_psi = Tensor::zeros({T, q});
  multiply(x_omega.data(), p, {x.data(), in_, 1}, {omega_.data(), p, 1}, T, p, in_);
  multiply(y_.data(), p, dy_transposed, {x_omega.data(), p, 1}, out_, p, T);
  multiply(dy_psi.data(), q, {dy, out_, 1}, {psi_.data(), 1, out_}, T, q, out_);
  multiply(z_.data(), in_, {dy_psi.data(), 1, q}, {x.data(), in_, 1}, q, in_, T);
}

Svd GradientSketch::leading(int64_t k) const {
  if (g_) return svd(g_).leading(k);
  const Tensor q = qr(y_).q;
  const Svd small = svd(least_squares(matmul(psi_, q), z_)).leading(k);
  return {matmul(q, small.u), small.s, small.v};
}

static double squares(const Tensor& x) {
  double sum = 0;
  for (float v : x.values()) sum += double(v) * double(v);
  return sum;
}

double GradientSketch::energy() const { return g_ ? squares(g_) : squares(z_) / double(z_.dim(0)); }

int64_t GradientSketch::bytes() const { return g_ ? g_.bytes() : y_.bytes() + z_.bytes(); }

}  // namespace kvt
