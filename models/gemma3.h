// Gemma 3 (Gemma Team 2025), GGUF `gemma3`: norms before and behind every sub-layer, queries and keys normalised, most layers with a
// sliding window, GEGLU (Shazeer 2020). Norm weights are stored as 1 + w, as GGUF's converters do. Members carry their GGUF names.
//
//   x = √C E[token],   blocks,   scores = E RMSNorm(x)
#pragma once
#include "models/causal_lm.h"

namespace kvt {

struct Gemma3Config : LmConfig {
  float rms_eps = 1e-6f;
  int64_t window = 0;              // of the local layers, in tokens
  int64_t pattern = 6;             // layers pattern − 1, 2 pattern − 1, … are global, the others local
  float scale = 0.f;               // of the scores; 0 = 1/√D
  RopeOptions rope, local_rope;

  bool global(int64_t layer) const { return (layer + 1) % pattern == 0; }
};

// h = x + N₂(Attention(N₁(x))),   y = h + N₄(W_down(gelu(W_gate n) ⊙ W_up n)),   n = N₃(h),   gelu by tanh
struct Gemma3Block {
  RmsNorm attn_norm;
  Attention attention;
  RmsNorm post_attention_norm, ffn_norm;
  Linear ffn_gate, ffn_up, ffn_down;
  RmsNorm post_ffw_norm;

  Gemma3Block() = default;
  Gemma3Block(const Gemma3Config& c, int64_t layer);
  Tensor operator()(const Tensor& x, std::span<const int32_t> positions, KvCache* cache, int64_t layer) const;
  template <class F> void fields(F&& f) {
    f("attn_norm", attn_norm); f("", attention); f("post_attention_norm", post_attention_norm); f("ffn_norm", ffn_norm);
    f("ffn_gate", ffn_gate); f("ffn_up", ffn_up); f("ffn_down", ffn_down); f("post_ffw_norm", post_ffw_norm);
  }
};

class Gemma3 : public CausalLm {
 public:
  Embedding token_embd;
  std::vector<Gemma3Block> blk;
  RmsNorm output_norm;
  Linear output;                  // without weights of its own when the config ties it to the embedding

  Gemma3(const Gemma3Config& config, const std::map<std::string, Tensor>& tensors, const std::string& source);
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
  Gemma3Config config_;
};

}  // namespace kvt
