// The optimizer, its learning rate over time, and gradient clipping.
//
// AdamW (Loshchilov and Hutter 2019, algorithm 2; moments by Kingma and Ba 2015), at step t = 1, 2, …:
//
//   m ← β₁ m + (1 − β₁) g         m̂ = m / (1 − β₁ᵗ)
//   v ← β₂ v + (1 − β₂) g²        v̂ = v / (1 − β₂ᵗ)
//   w ← w − η (m̂ / (√v̂ + ε) + λ w)
#pragma once
#include <span>

#include "tensor/tensor.h"

namespace kvt {

struct AdamW {
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, weight_decay = 0.01f;

  struct Moments { Tensor m, v; };                   // F32, of the weights' shape
  static Moments moments(const Shape& shape);        // zeros
  // Step t of weights w by w.grad() at learning rate `lr`; λ counts where `decay`. Nothing without a gradient.
  void operator()(const Tensor& w, const Moments& moments, int64_t t, float lr, bool decay) const;
};

// Step t = 1 … S at peak η, W of them to warm up, p = (t − 1 − W)/(S − W):
//
//   t ≤ W       η t/W
//   constant    η
//   linear      η (1 − p)
//   cosine      η (1 + cos π p)/2         (Loshchilov and Hutter 2017, without restarts)
struct Schedule {
  enum class Kind { constant, linear, cosine };
  Kind kind = Kind::cosine;
  float peak = 1e-3f;
  int64_t warmup = 0, steps = 1;

  float operator()(int64_t t) const;
};
const char* name(Schedule::Kind kind);
Schedule::Kind schedule_kind(const std::string& name);      // throws, listing the names there are

// √(Σ g²) over all gradients there are. Summed in pieces of fixed size: the same bits with any number of threads.
double gradient_norm(std::span<const Tensor> weights);
// g ← g · min(1, most/norm);  most ≤ 0 leaves them.
void clip_gradients(std::span<const Tensor> weights, double norm, double most);

}  // namespace kvt
