#include "engine/optim.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "tensor/parallel.h"

namespace kvt {

static constexpr int64_t grain = 1 << 14;

static Tensor owned_zeros(const Shape& shape) {
  const auto bytes = size_t(byte_size(DType::F32, shape.numel()));
  Tensor t(shape, DType::F32, Storage::allocate_owned(bytes));
  std::fill_n(t.data(), t.size(), 0.f);
  return t;
}

AdamW::Moments AdamW::moments(const Shape& shape) { return {owned_zeros(shape), owned_zeros(shape)}; }

void AdamW::operator()(const Tensor& w, const Moments& moments, int64_t t, float lr, bool decay) const {
  require(t >= 1, "adamw: steps count from 1, got ", t);
  require(moments.m.size() == w.size() && moments.v.size() == w.size(), "adamw: moments of ", moments.m.shape(), " for weights of ", w.shape());
  if (!w.has_grad()) return;
  const auto m_scale = float(1 / (1 - std::pow(double(beta1), double(t)))), v_scale = float(1 / (1 - std::pow(double(beta2), double(t))));
  const float lambda = decay ? weight_decay : 0.f;
  float *weight = w.data(), *m = moments.m.data(), *v = moments.v.data();
  const float* g = w.grad();
  parallel_for(w.size(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      m[i] = beta1 * m[i] + (1 - beta1) * g[i];
      v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
      weight[i] -= lr * (m[i] * m_scale / (std::sqrt(v[i] * v_scale) + eps) + lambda * weight[i]);
    }
  });
}

float Schedule::operator()(int64_t t) const {
  require(t >= 1 && t <= steps, "schedule: step ", t, " of ", steps);
  if (t <= warmup) return peak * float(t) / float(warmup);
  const double p = double(t - 1 - warmup) / double(steps - warmup);
  switch (kind) {
    case Kind::constant: return peak;
    case Kind::linear: return float(peak * (1 - p));
    case Kind::cosine: return float(peak * (1 + std::cos(std::numbers::pi * p)) / 2);
  }
  fail("schedule: unknown kind ", int(kind));
}

const char* name(Schedule::Kind kind) {
  return kind == Schedule::Kind::constant ? "constant" : kind == Schedule::Kind::linear ? "linear" : "cosine";
}

Schedule::Kind schedule_kind(const std::string& wanted) {
  for (auto kind : {Schedule::Kind::constant, Schedule::Kind::linear, Schedule::Kind::cosine})
    if (wanted == name(kind)) return kind;
  fail("schedule: no '", wanted, "', there are constant, linear and cosine");
}

double gradient_norm(std::span<const Tensor> weights) {
  double total = 0;
  std::vector<double> sums;
  for (const Tensor& w : weights) {
    if (!w.has_grad()) continue;
    const float* g = w.grad();
    sums.assign(size_t((w.size() + grain - 1) / grain), 0.0);
    parallel_for(int64_t(sums.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        double sum = 0;
        for (int64_t i = piece * grain; i < std::min(w.size(), (piece + 1) * grain); ++i) sum += double(g[i]) * g[i];
        sums[size_t(piece)] = sum;
      }
    });
    for (double s : sums) total += s;
  }
  return std::sqrt(total);
}

void clip_gradients(std::span<const Tensor> weights, double norm, double most) {
  if (most <= 0 || norm <= most) return;
  const auto factor = float(most / norm);
  for (const Tensor& w : weights) {
    if (!w.has_grad()) continue;
    float* g = w.grad();
    parallel_for(w.size(), grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) g[i] *= factor;
    });
  }
}

}  // namespace kvt
