#include "models/phi3.h"

#include <numeric>

namespace kvt {

Phi3Block::Phi3Block(const Phi3Config& c)
    : attn_norm(c.channels, c.rms_eps), attn_qkv(c.channels, (c.heads + 2 * c.kv_heads) * c.head_size), attn_output(c.heads * c.head_size, c.channels),
      ffn_norm(c.channels, c.rms_eps), ffn_up(c.channels, 2 * c.hidden), ffn_down(c.hidden, c.channels),
      heads(c.heads), kv_heads(c.kv_heads), head_size(c.head_size), window(c.window), rope_options(c.rope) {}

Tensor Phi3Block::attend(const Tensor& x, std::span<const int32_t> positions, KvCache* cache, int64_t layer) const {
  const int64_t B = x.dim(0), T = x.dim(1), D = head_size;
  const Tensor qkv = attn_qkv(x);
  const auto part = [&](int64_t first, int64_t n) { return slice(qkv, 2, first * D, (first + n) * D).view({B, T, n, D}); };
  const Tensor q = rope(part(0, heads), positions, rope_options), k = rope(part(heads, kv_heads), positions, rope_options);
  const AttentionOptions options = {.causal = true, .scale = 0, .lengths = {}, .window = window};
  return attn_output(attention(q, k, part(heads + kv_heads, kv_heads), options, cache, layer).view({B, T, heads * D}));
}

Tensor Phi3Block::operator()(const Tensor& x, std::span<const int32_t> positions, KvCache* cache, int64_t layer) const {
  const Tensor h = x + attend(attn_norm(x), positions, cache, layer);
  const Tensor both = ffn_up(ffn_norm(h));
  const int64_t F = both.dim(2) / 2;
  return h + ffn_down(swiglu(slice(both, 2, 0, F), slice(both, 2, F, 2 * F)));
}

Phi3::Phi3(const Phi3Config& config, const std::map<std::string, Tensor>& tensors, const std::string& source)
    : token_embd(config.vocabulary, config.channels), output_norm(config.channels, config.rms_eps), output(config.channels, config.vocabulary), config_(config) {
  for (int64_t i = 0; i < config.layers; ++i) blk.emplace_back(config);
  load_parameters(*this, tensors, source);
}

Tensor Phi3::hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const {
  require(int64_t(ids.size()) == B * T, "phi3: ", ids.size(), " ids for ", B, " × ", T);
  ArenaVector<int32_t> positions(static_cast<size_t>(T));
  std::iota(positions.begin(), positions.end(), options.cache ? int32_t(options.cache->length()) : 0);

  const Tensor x = token_embd(ids, {B, T});
  return output_norm(through_blocks(x, options, [this, positions, cache = options.cache](int64_t i, const Tensor& h) { return blk[size_t(i)](h, positions, cache, i); }));
}

Tensor Phi3::logits(const Tensor& hidden) const { return scores(output, token_embd, hidden); }

Tensor Phi3::loss(const Tensor& hidden, std::span<const int32_t> targets) const { return scored_loss(output, token_embd, hidden, targets); }

}  // namespace kvt
