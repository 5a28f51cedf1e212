// Phi-3 (Abdin et al. 2024), GGUF `phi3`: Llama's block with fused products: W_qkv for queries, keys and values, W_up for gate and up.
#pragma once
#include "models/causal_lm.h"

namespace kvt {

struct Phi3Config : LmConfig {
  float rms_eps = 1e-5f;
  int64_t window = 0;              // each token sees the last so many; 0 = all
  RopeOptions rope;
};

// h = x + Attention(RMSNorm(x)),   y = h + W_down(SiLU(g) ⊙ u),   [g; u] = W_up RMSNorm(h)
struct Phi3Block {
  RmsNorm attn_norm;
  Linear attn_qkv, attn_output;
  RmsNorm ffn_norm;
  Linear ffn_up, ffn_down;
  int64_t heads = 0, kv_heads = 0, head_size = 0, window = 0;
  RopeOptions rope_options;

  Phi3Block() = default;
  explicit Phi3Block(const Phi3Config& c);
  Tensor attend(const Tensor& x, std::span<const int32_t> positions, KvCache* cache, int64_t layer) const;
  Tensor operator()(const Tensor& x, std::span<const int32_t> positions, KvCache* cache, int64_t layer) const;
  template <class F> void fields(F&& f) {
    f("attn_norm", attn_norm); f("attn_qkv", attn_qkv); f("attn_output", attn_output);
    f("ffn_norm", ffn_norm); f("ffn_up", ffn_up); f("ffn_down", ffn_down);
  }
};

class Phi3 : public CausalLm {
 public:
  Embedding token_embd;
  std::vector<Phi3Block> blk;
  RmsNorm output_norm;
  Linear output;                  // without weights of its own when the config ties it to the embedding

  Phi3(const Phi3Config& config, const std::map<std::string, Tensor>& tensors, const std::string& source);
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
  Phi3Config config_;
};

}  // namespace kvt
