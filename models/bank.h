// Knowledge of several domains in one model: each has low-rank factors of its own, and every token is read with those of one domain.
//
//   d_i  = argmin_d |emb_i − c_d|²            c_d: the mean embedding of the domain's text
//   y'_i = y_i + s_d B_d (A_d x_i),  d = d_i
//
// It is the choice that α makes in models/kvt.h, sharpened to one of the domains: what one of them computes does not depend on which
// others there are. Word level: emb_i is the token's own embedding. Sentence level: the mean of the embeddings of the tokens up to it,
// so that a text settles on its domain and nothing depends on tokens still to come. Embeddings are scaled to a mean square of 1.
#pragma once
#include "models/adapt.h"
#include "models/causal_lm.h"

namespace kvt {

struct Bank {
  enum class Level { sentence, word };
  std::vector<std::string> names;
  Tensor centers;                              // c [domains, C]
  Level level = Level::sentence;
  int64_t fixed = -1;                          // this domain for all tokens; −1 = as the tokens say

  // The domains of tokens with embeddings [B, T, C], as numbers [B T]. A cache (B = 1) holds the notes of those before.
  Tensor choose(const Tensor& embedding, KvCache* cache) const;
};

// Of a text's token embeddings [T, C]: their mean, each scaled to a mean square of 1.
Tensor domain_center(const Tensor& embedding);

// One layer's factors of each domain, null where a domain has none. The choice comes with the pass (AdapterPass::made).
struct BankAdapter : Adapter {
  std::shared_ptr<const Bank> bank;
  std::vector<std::shared_ptr<const Lora>> domains;
  Tensor operator()(const Tensor& x, const Tensor& y) const override;
};

// A language model whose layers bear BankAdapters of `bank`: it chooses and runs the model.
class BankLm : public CausalLm {
 public:
  BankLm(std::shared_ptr<CausalLm> model, std::shared_ptr<const Bank> bank);

  const LmConfig& config() const override { return model_->config(); }
  Tensor hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const override;
  Tensor logits(const Tensor& hidden) const override { return model_->logits(hidden); }
  Tensor loss(const Tensor& hidden, std::span<const int32_t> targets) const override { return model_->loss(hidden, targets); }
  KvCache make_cache(int64_t capacity, DType dtype, int64_t twins_from = -1) const override;
  void each_parameter(const std::function<void(const std::string&, Parameter&)>& f) override { model_->each_parameter(f); }
  void each_linear(const std::function<void(const std::string&, Linear&)>& f) override { model_->each_linear(f); }

 private:
  std::shared_ptr<CausalLm> model_;
  std::shared_ptr<const Bank> bank_;
  Tensor embedding_;                           // [V, C], of any dtype
};

}  // namespace kvt
