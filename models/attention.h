// Multi-head attention with grouped keys and values (Ainslie et al. 2023), rotary positions, and a cache for decoding.
#pragma once
#include "models/layers.h"

namespace kvt {

// The keys and values of the tokens seen so far, per layer [capacity, Hkv, D]; one sequence. Layers from `twins_from` on keep
// two: what the base made of the tokens, and what the adapted model did (models/fusion.h).
class KvCache {
 public:
  using Pair = KeysAndValues;

  KvCache() = default;
  KvCache(int64_t layers, int64_t capacity, int64_t kv_heads, int64_t head_size, DType dtype, int64_t twins_from = -1);   // F32, F16 or Q8_0; −1 = none

  int64_t length() const { return length_; }
  int64_t capacity() const { return capacity_; }
  int64_t bytes() const;
  // Row `row` (0, or 1 of twins) of layer `layer` stores k and v [1, T, Hkv, D] behind the tokens there are, and gets all:
  // [1, length + T, Hkv, D] of dtype. Throws when they do not fit. The length grows once per step, by advance().
  Pair append(int64_t layer, int64_t row, const Tensor& k, const Tensor& v);
  void advance(int64_t tokens);
  bool same_form(const KvCache& other) const;      // what a token has in each: layers, rows, shapes, types and notes
  void truncate(int64_t length);         // forgets all behind the first `length` tokens
  // `numbers` F32 numbers a token that a wrapper of the model keeps (models/kvt.h): [capacity, numbers], written by the wrapper.
  void keep_notes(int64_t numbers);
  const Tensor& notes() const { return notes_; }

 private:
  std::vector<std::vector<Pair>> layers_;      // [layer][row]
  int64_t capacity_ = 0, length_ = 0;
  Tensor notes_;
};

// attention() over the tokens of `cache` (null = none) and those of q, k and v behind them, which join it. Twins attend each to their own.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options, KvCache* cache, int64_t layer);

// softmax(rope(W_q x) rope(W_k x)ᵀ / √D + causal mask) W_v x, through W_o. Where the model has norms for them, queries and keys of
// each head are RMS-normalised before they turn (Qwen3, Gemma 3); with a window each token sees the last `window` alone, itself included.
struct Attention {
  Linear attn_q, attn_k, attn_v, attn_output;
  RmsNorm attn_q_norm, attn_k_norm;
  int64_t heads = 0, kv_heads = 0, head_size = 0, window = 0;
  float scale = 0.f;                     // 0 = 1/√D
  RopeOptions rope_options;

  // x [B, T, C] at `positions` (T of them); with a cache B = 1 and the tokens follow those of the cache.
  Tensor operator()(const Tensor& x, std::span<const int32_t> positions, KvCache* cache, int64_t layer) const;
  template <class F> void fields(F&& f) {
    f("attn_q", attn_q); f("attn_k", attn_k); f("attn_v", attn_v); f("attn_output", attn_output);
    if (normalised()) f("attn_q_norm", attn_q_norm), f("attn_k_norm", attn_k_norm);
  }
  bool normalised() const { return attn_q_norm.weight.shape.rank() > 0; }
};

}  // namespace kvt
