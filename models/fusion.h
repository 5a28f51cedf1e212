// Residual fusion: the base and the adapted model as one, on logits.
//
//   residual        z = (z_θ + λ z_θ') / (1 + λ)       λ ≥ 0; without dividing by 1 + λ the softmax would sharpen as well
//   extrapolating   z = z_θ' + γ (z_θ' − z_θ)          γ ≥ 0
//
// Both are z_θ + w (z_θ' − z_θ), with w = λ/(1 + λ) < 1 or w = 1 + γ ≥ 1. Base and adapted rows share one pass: blocks below the
// first adapted one run once, from there on both run as one batch through the same weights, which are read once; their keys and
// values alone are kept twice. Scores are linear in the hidden states, z = W_U h: so long as the output matrix has no adapter, the
// states are mixed in place of the logits, and W_U is multiplied once.
#pragma once
#include "models/causal_lm.h"

namespace kvt {

struct Fusion {
  enum class Form { residual, extrapolating };
  Form form = Form::residual;
  float value = 0.7f;                    // λ or γ

  // w; throws unless the value is finite and not negative.
  float weight() const;
};

// Scores that a model computes without its adapters (but for those of_base) and, in a second pass, with them: for models that have no Fused
// of their own. The base's side is not recorded for backward.
struct TwinScores { Tensor base, adapted; };
TwinScores twin_scores(const std::function<Tensor()>& scores);
Tensor fused_scores(const Fusion& fusion, const std::function<Tensor()>& scores);

// A model whose scores are fused with those of its base: of the same model without its adapters, but for those `of_base`.
// Adapters have to be attached before. Its hidden states are for its own logits() and loss() alone.
class Fused : public CausalLm {
 public:
  Fused(std::shared_ptr<CausalLm> model, const Fusion& fusion);

  const Fusion& fusion() const { return fusion_; }
  int64_t twins_from() const { return first_; }          // the first adapted block; the number of blocks if the output alone is
  // What the base and the adapted model make of ids, before they are fused: states [2B, T, C], and scores [2, .., V] of such states.
  Tensor twin_states(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options = {}) const;
  Tensor twin_logits(const Tensor& states) const;

  const LmConfig& config() const override { return model_->config(); }
  Tensor hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const override;
  Tensor logits(const Tensor& hidden) const override;
  Tensor loss(const Tensor& hidden, std::span<const int32_t> targets) const override;
  KvCache make_cache(int64_t capacity, DType dtype, int64_t twins_from = -1) const override;
  void each_parameter(const std::function<void(const std::string&, Parameter&)>& f) override { model_->each_parameter(f); }
  void each_linear(const std::function<void(const std::string&, Linear&)>& f) override { model_->each_linear(f); }

 private:
  Tensor mix(const Tensor& twins) const;                  // base + w (adapted − base)
  Tensor join(const Tensor& base, const Tensor& adapted) const;      // two states as one

  std::shared_ptr<CausalLm> model_;
  Fusion fusion_;
  int64_t first_ = 0;
  bool output_adapted_ = false;
};

}  // namespace kvt
