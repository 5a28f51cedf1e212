// Methods of adaptation: each is what one linear layer gains, under its equation.
#pragma once
#include "models/layers.h"

namespace kvt {

// LoRA (Hu et al. 2021):  y' = y + s B (A x),  A [r, in], B [out, r], s = user scale · α/r.
// A starts as U[−1/√in, 1/√in) (Kaiming uniform with a = √5, as PEFT does), B as zero: the start is the base model.
struct Lora : Adapter {
  Tensor a, b;
  float scale = 1.f;

  Lora(Tensor a_, Tensor b_, float s) : a(std::move(a_)), b(std::move(b_)), scale(s) {}
  static std::shared_ptr<Lora> init(int64_t in, int64_t out, int64_t rank, float alpha, Rng& rng);
  int64_t rank() const { return a.dim(0); }
  Tensor operator()(const Tensor& x, const Tensor& y) const override;
};

// W + s B A as F32, for any base type.
Tensor merged(const Tensor& w, const Lora& lora);

}  // namespace kvt
