// Llama (Touvron et al. 2023) and its near relatives: SmolLM, TinyLlama, Mistral (GGUF `llama`), Qwen2 (`qwen2`: biases on
// q, k, v and the other rotary pairing), Qwen3 (`qwen3`: queries and keys normalised instead). Members carry their GGUF names.
#pragma once
#include "models/causal_lm.h"

namespace kvt {

struct LlamaConfig : LmConfig {
  float rms_eps = 1e-5f;
  bool qkv_bias = false, qk_norm = false;
  RopeOptions rope;
};

// h = x + Attention(RMSNorm(x)),   y = h + W_down(SiLU(W_gate n) ⊙ W_up n),   n = RMSNorm(h)
struct LlamaBlock {
  RmsNorm attn_norm;
  Attention attention;
  RmsNorm ffn_norm;
  Linear ffn_gate, ffn_up, ffn_down;

  LlamaBlock() = default;
  explicit LlamaBlock(const LlamaConfig& c);
  Tensor operator()(const Tensor& x, std::span<const int32_t> positions, KvCache* cache, int64_t layer) const;
  template <class F> void fields(F&& f) {
    f("attn_norm", attn_norm); f("", attention); f("ffn_norm", ffn_norm);
    f("ffn_gate", ffn_gate); f("ffn_up", ffn_up); f("ffn_down", ffn_down);
  }
};

class Llama : public CausalLm {
 public:
  Embedding token_embd;
  std::vector<LlamaBlock> blk;
  RmsNorm output_norm;
  Linear output;                  // without weights of its own when the config ties it to the embedding

  // Weights come from `tensors` under their GGUF names; `source` stands in errors.
  Llama(const LlamaConfig& config, const std::map<std::string, Tensor>& tensors, const std::string& source);
  template <class F> void fields(F&& f) {
    f("token_embd", token_embd); f("blk", blk); f("output_norm", output_norm);
    if (!config_.tied_output) f("output", output);
  }

  const LmConfig& config() const override { return config_; }
  Tensor hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const override;
  Tensor logits(const Tensor& hidden) const override;
  Tensor loss(const Tensor& hidden, std::span<const int32_t> targets) const override;
  void each_parameter(const std::function<void(const std::string&, Parameter&)>& f) override { each<Parameter>(*this, f); }
  void each_linear(const std::function<void(const std::string&, Linear&)>& f) override {
    each<Linear>(*this, f);
    if (config_.tied_output) f("output", output);
  }

 private:
  LlamaConfig config_;
};

}  // namespace kvt
