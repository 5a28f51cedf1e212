// What bidirectional Transformers share (BERT, ViT): attention in which every token sees every other, and the activations.
#pragma once
#include "models/layers.h"

namespace kvt {

enum class Activation { gelu, gelu_tanh, relu };
inline Tensor activate(const Tensor& x, Activation a) {
  return a == Activation::gelu ? gelu(x) : a == Activation::gelu_tanh ? gelu_tanh(x) : relu(x);
}

// Multi-head attention (Vaswani et al. 2017):  W_o concat_h softmax(Q_h K_hᵀ / √D) V_h,   Q = W_q x, K = W_k x, V = W_v x
struct SelfAttention {
  Linear attn_q, attn_k, attn_v, attn_output;
  int64_t heads = 0, head_size = 0;

  SelfAttention() = default;
  SelfAttention(int64_t channels, int64_t heads_, int64_t head_size_, bool qkv_bias)
      : attn_q(channels, heads_ * head_size_, qkv_bias), attn_k(channels, heads_ * head_size_, qkv_bias), attn_v(channels, heads_ * head_size_, qkv_bias),
        attn_output(heads_ * head_size_, channels, true), heads(heads_), head_size(head_size_) {}

  // x [B, T, C]; only the first lengths[b] tokens of row b are seen (all, if empty).
  Tensor operator()(const Tensor& x, const std::vector<int32_t>& lengths = {}) const {
    const int64_t B = x.dim(0), T = x.dim(1);
    const auto split = [&](const Linear& w) { return w(x).view({B, T, heads, head_size}); };
    return attn_output(attention(split(attn_q), split(attn_k), split(attn_v), {.causal = false, .scale = 0, .lengths = lengths}).view({B, T, heads * head_size}));
  }
  template <class F> void fields(F&& f) { f("attn_q", attn_q); f("attn_k", attn_k); f("attn_v", attn_v); f("attn_output", attn_output); }
};

}  // namespace kvt
