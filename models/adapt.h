// Methods of adaptation: each is what one linear layer gains, under its equation.
#pragma once
#include <functional>

#include "models/layers.h"
#include "ops/low_rank.h"

namespace kvt {

// y' = y + s B (C (A x)) with a core C that is the method's affair:  A [r, in], B [out, k]
struct LowRankAdapter : Adapter {
  Tensor a, b;
  float scale = 1.f;         // s
  LowRankFactors fast;       // for inference alone

  LowRankAdapter() = default;
  LowRankAdapter(Tensor a_, Tensor b_, float s) : a(std::move(a_)), b(std::move(b_)), scale(s) {}
  virtual void freeze() { fast = low_rank_factors(a, b); }        // from here on A and B must not change, nor what the core is made of
};
// All of a model's, in the order in which it meets them: their factors then lie together, too.
void freeze(std::span<LowRankAdapter* const> adapters);

// LoRA (Hu et al. 2021):  y' = y + s B (A x),  A [r, in], B [out, r], s = user scale · α/r.
// A starts as U[−1/√in, 1/√in) (Kaiming uniform with a = √5, as PEFT does), B as zero: the start is the base model.
struct Lora : LowRankAdapter {
  using LowRankAdapter::LowRankAdapter;
  static std::shared_ptr<Lora> init(int64_t in, int64_t out, int64_t rank, float alpha, Rng& rng);
  int64_t rank() const { return a.dim(0); }
  Tensor operator()(const Tensor& x, const Tensor& y) const override;
  std::optional<LowRank> low_rank(int64_t rows) const override;
};

// A small core between frozen bases:  y' = y + s B (C (A x)),  A [k, in], B [out, k];  only c is trained, C = diag(c) for c [k], and
// C = c for c [k, k]. Weights σ of the diagonal's directions are rows of A scaled by σ.
struct Core : Adapter {
  Tensor a, b, c;
  float scale = 1.f;

  Core(Tensor a_, Tensor b_, Tensor c_, float s) : a(std::move(a_)), b(std::move(b_)), c(std::move(c_)), scale(s) {}
  Tensor operator()(const Tensor& x, const Tensor& y) const override;
  std::shared_ptr<Lora> folded() const;       // the same as a LoRA with scale 1:  A,  s B C
};

// IA3 (Liu et al. 2022): learned factors on what a layer gives, or on what it gets. They start at one: the start is the base model.
//   output   y' = [y_1 … ; l ⊙ the last n numbers of y]         input   y' = W (l ⊙ x) + b
struct Rescale : Adapter {
  enum class Side { output, input };
  Side side = Side::output;
  Tensor l;                  // [n]; of the input n = in

  Rescale(Side s, Tensor factors) : side(s), l(std::move(factors)) {}
  Tensor input(const Tensor& x) const override { return side == Side::input ? x * l : x; }
  Tensor operator()(const Tensor& x, const Tensor& y) const override;
  Tensor factors(int64_t out) const;           // of all the output's numbers, [out]: ones, then l
};

// Looks on:  y' = y, and in backward hands x [.., in] and dy = ∂L/∂y [.., out] to `see`: all that ∂L/∂W = dyᵀ x is made of, for weights
// of any type, which themselves want no gradient. Belongs behind all other adapters of its layer.
struct GradientTap : Adapter {
  std::function<void(const Tensor& x, const float* dy)> see;

  explicit GradientTap(std::function<void(const Tensor& x, const float* dy)> f) : see(std::move(f)) {}
  Tensor operator()(const Tensor& x, const Tensor& y) const override;
};

// W + s B A as F32, for any base type.
Tensor merged(const Tensor& w, const Lora& lora);
// W and b (or none) of a layer with its adapters merged in, as F32. Throws an Error, naming `layer`, for an adapter that is neither
// LoRA nor IA3.
struct Affine { Tensor w, b; };
Affine merged(const std::string& layer, const Tensor& w, const Tensor& b, const std::vector<std::shared_ptr<const Adapter>>& adapters);

}  // namespace kvt
