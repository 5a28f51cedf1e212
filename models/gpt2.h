// GPT-2 (Radford et al. 2019), GGUF `gpt2`. Members carry their GGUF names.
//
//   x = E[token] + P[position],   blocks,   scores = E LN(x)   (or an output matrix of its own)
#pragma once
#include "models/causal_lm.h"

namespace kvt {

struct Gpt2Config : LmConfig {
  float norm_eps = 1e-5f;
};

// h = x + Attention(LN(x)),   y = h + W_down gelu(W_up LN(h)),   gelu by tanh;  W_qkv gives queries, keys and values in one product
struct Gpt2Block {
  LayerNorm attn_norm;
  Linear attn_qkv, attn_output;
  LayerNorm ffn_norm;
  Linear ffn_up, ffn_down;
  int64_t heads = 0;

  Gpt2Block() = default;
  explicit Gpt2Block(const Gpt2Config& c);
  Tensor attend(const Tensor& x, KvCache* cache, int64_t layer) const;
  Tensor operator()(const Tensor& x, KvCache* cache, int64_t layer) const;
  template <class F> void fields(F&& f) {
    f("attn_norm", attn_norm); f("attn_qkv", attn_qkv); f("attn_output", attn_output);
    f("ffn_norm", ffn_norm); f("ffn_up", ffn_up); f("ffn_down", ffn_down);
  }
};

class Gpt2 : public CausalLm {
 public:
  Embedding token_embd, position_embd;
  std::vector<Gpt2Block> blk;
  LayerNorm output_norm;
  Linear output;                  // without weights of its own when the config ties it to the embedding

  Gpt2(const Gpt2Config& config, const std::map<std::string, Tensor>& tensors, const std::string& source);
  template <class F> void fields(F&& f) {
    f("token_embd", token_embd); f("position_embd", position_embd); f("blk", blk); f("output_norm", output_norm);
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
  Gpt2Config config_;
};

}  // namespace kvt
