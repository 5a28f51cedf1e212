// Layered knowledge adaptation (LKA): knowledge vectors K choose what each adapted layer adds, W → W + s B C_i A.
//
//   α_i  = softmax_j(K_j · (w_α + W_α emb_i))              relevance of each knowledge vector to input i
//   κ_i  = Σ_j α_ij K_j
//   φ_i  = Σ_levels g_level GELU(W_1 κ_i,level + b_1)      hidden layer of the MLP, shared by all layers
//   C_i  = C̄ + W_2 φ_i   ∈ R^{k×t}                         the generated core of one layer; W_2 starts at zero: C_i = C̄
//   y'_i = y_i + s B (C_i (A x_i))                         A [t, in], B [out, k]
//
// Levels, each with a learned gate g:   concept    emb = 0: the bank alone, one core for all inputs
//                                       sentence   emb = the mean of the token embeddings: of the whole text, for language models of
//                                                  the tokens up to the one that is read, for translations of the source
//                                       word       emb = the token's own embedding
// Embeddings are scaled to a mean square of 1. Scoring [K_j ; emb_i] by one vector would not do: emb_i adds the same to every
// j, which the softmax cancels; hence the product of the two.
#pragma once
#include "models/adapt.h"
#include "models/causal_lm.h"

namespace kvt {

struct KvtConfig {
  int64_t channels = 0;                        // of the embeddings
  int64_t vectors = 0, size = 0, columns = 0;  // m, k, t
  int64_t hidden = 0;                          // of the MLP
  int64_t layers = 0;                          // adapted linear layers
  bool concept_level = true, sentence_level = true, word_level = true;      // none of them: the constant core C̄

  bool generated() const { return concept_level || sentence_level || word_level; }
  bool per_token() const { return sentence_level || word_level; }
};

// Embeddings of the tokens whose cores are wanted, and what the sentence level knows of those before.
struct KvtInput {
  Tensor embedding;                            // [B, T, C], or none where no level needs it
  bool causal = true;
  std::vector<int32_t> lengths = {};           // not causal: the tokens that row b has; all, if empty
  Tensor sentence = {};                        // of a decoder: the sentence level's φ of the sources, [B, 1, h] (AdapterPass::sentence)
  KvCache* cache = nullptr;                    // B = 1: notes of the tokens before are there, those of these tokens join them
};

// The generator: all that is shared by the adapted layers.
class Kvt {
 public:
  Parameter bank;                              // K [m, k]
  Parameter w_alpha;                           // w_α [k]
  Linear alpha;                                // W_α [k, C]
  Linear mlp_up, mlp_down;                     // W_1 [h, k] and b_1;  W_2 [layers · k · t, h] and the constant cores C̄
  Parameter gates;                             // g of concept, sentence, word: [3]

  explicit Kvt(const KvtConfig& config);       // no numbers yet
  // K and W_α random, w_α and W_2 zero, gates 1, C̄ the identity; all want gradients.
  void init(Rng& rng);
  template <class F> void fields(F&& f) {
    if (config_.generated()) f("bank", bank), f("w_alpha", w_alpha), f("alpha", alpha), f("mlp_up", mlp_up), f("gates", gates);
    f("mlp_down", mlp_down);
  }
  // φ of all inputs [N, h]: N = B T where tokens differ (the word level, the causal sentence level), B where texts do, else 1. None for the constant core.
  // `sentence` (or null) gets the sentence level's part of it, if there is that level.
  Tensor hidden(const KvtInput& input, Tensor* sentence = nullptr) const;
  // What adapters need to know in a pass with these inputs.
  AdapterPass pass(const KvtInput& input) const;
  // One layer's cores [N, k · t] of φ, or the constant one, [1, k · t].
  Tensor cores(const Tensor& phi, int64_t layer) const;
  // For inference (LowRankCores): one layer's C_i = Σ_u φ_i,u W_u, in which C̄ is the last W_u: [h + 1, t, k rounded up to a multiple of 8]; and all φ_i, a 1
  // behind each, four inputs side by side: [⌈N/4⌉, h + 1, 4]. h = 0 for the constant core.
  Tensor core_weights(int64_t layer) const;
  static Tensor lanes(const Tensor& phi);
  // α of the level's query [.., k] = W_α emb, none for the concept level: [.., m]
  Tensor relevance(const Tensor& query) const;

  const KvtConfig& config() const { return config_; }
  KvtConfig& levels() { return config_; }      // for switching levels off

 private:
  Tensor level(int gate, const Tensor& query) const;
  KvtConfig config_;
};

// One adapted linear layer; what its core is made from comes with the pass (AdapterPass::made).
struct GeneratedCore : LowRankAdapter {        // A [t, in], B [out, k]
  std::shared_ptr<const Kvt> kvt;
  int64_t layer = 0;

  static std::shared_ptr<GeneratedCore> init(std::shared_ptr<const Kvt> kvt, int64_t layer, int64_t in, int64_t out, float scale, Rng& rng);
  // The same as a LoRA, A and B C with scale s, of a core that does not depend on the input; it costs no more than that. Throws for others.
  std::shared_ptr<Lora> folded() const;
  Tensor operator()(const Tensor& x, const Tensor& y) const override;
  std::optional<LowRank> low_rank(int64_t rows) const override;
  void freeze() override;
};

// y_n = C_n h_n:  cores [N, k · t];  h [.., t] of `each` N rows, the first `each` for the first core: [.., k]
Tensor core_product(const Tensor& cores, int64_t k, const Tensor& h);
// y_t = (before + Σ_{s ≤ t} x_s) / (count + t + 1),  x [B, T, k], before [k] or none
Tensor prefix_mean(const Tensor& x, const Tensor& before = {}, int64_t count = 0);

// Has a model that is no language model, and whose layers bear GeneratedCore adapters of `kvt`, make their cores in each pass.
void make_cores(Model& model, std::shared_ptr<const Kvt> kvt);

// A language model whose layers bear GeneratedCore adapters of `kvt`: it makes the cores and runs the model with them.
class KvtLm : public CausalLm {
 public:
  KvtLm(std::shared_ptr<CausalLm> model, std::shared_ptr<const Kvt> kvt);

  const LmConfig& config() const override { return model_->config(); }
  Tensor hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const override;
  Tensor logits(const Tensor& hidden) const override { return model_->logits(hidden); }
  Tensor loss(const Tensor& hidden, std::span<const int32_t> targets) const override { return model_->loss(hidden, targets); }
  KvCache make_cache(int64_t capacity, DType dtype, int64_t twins_from = -1) const override;
  void each_parameter(const std::function<void(const std::string&, Parameter&)>& f) override { model_->each_parameter(f); }
  void each_linear(const std::function<void(const std::string&, Linear&)>& f) override { model_->each_linear(f); }

 private:
  std::shared_ptr<CausalLm> model_;
  std::shared_ptr<const Kvt> kvt_;
  Tensor embedding_;                           // [V, C], of any dtype
};

}  // namespace kvt
