#include "models/gpt2.h"

#include <numeric>

namespace kvt {

Gpt2Block::Gpt2Block(const Gpt2Config& c)
    : attn_norm(c.channels, c.norm_eps), attn_qkv(c.channels, 3 * c.channels, true), attn_output(c.channels, c.channels, true),
      ffn_norm(c.channels, c.norm_eps), ffn_up(c.channels, c.hidden, true), ffn_down(c.hidden, c.channels, true), heads(c.heads) {}

Tensor Gpt2Block::attend(const Tensor& x, KvCache* cache, int64_t layer) const {
  const int64_t B = x.dim(0), T = x.dim(1), C = x.dim(2);
  const Tensor qkv = attn_qkv(x);
  const auto part = [&](int64_t i) { return slice(qkv, 2, i * C, (i + 1) * C).view({B, T, heads, C / heads}); };
  return attn_output(attention(part(0), part(1), part(2), {.causal = true}, cache, layer).view({B, T, C}));
}

Tensor Gpt2Block::operator()(const Tensor& x, KvCache* cache, int64_t layer) const {
  const Tensor h = x + attend(attn_norm(x), cache, layer);
  return h + ffn_down(gelu_tanh(ffn_up(ffn_norm(h))));
}

Gpt2::Gpt2(const Gpt2Config& config, const std::map<std::string, Tensor>& tensors, const std::string& source)
    : token_embd(config.vocabulary, config.channels), position_embd(config.context, config.channels),
      output_norm(config.channels, config.norm_eps), output(config.channels, config.vocabulary), config_(config) {
  for (int64_t i = 0; i < config.layers; ++i) blk.emplace_back(config);
  load_parameters(*this, tensors, source);
}

Tensor Gpt2::hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const {
  require(int64_t(ids.size()) == B * T, "gpt2: ", ids.size(), " ids for ", B, " × ", T);
  const int64_t past = options.cache ? options.cache->length() : 0;
  require(past + T <= config_.context, "gpt2: ", past + T, " tokens, the model has ", config_.context, " positions");
  ArenaVector<int32_t> positions(static_cast<size_t>(T));
  std::iota(positions.begin(), positions.end(), int32_t(past));

  const Tensor x = token_embd(ids, {B, T}) + position_embd(positions, {T});
  return output_norm(through_blocks(x, options, [this, cache = options.cache](int64_t i, const Tensor& h) { return blk[size_t(i)](h, cache, i); }));
}

Tensor Gpt2::logits(const Tensor& hidden) const { return scores(output, token_embd, hidden); }

Tensor Gpt2::loss(const Tensor& hidden, std::span<const int32_t> targets) const { return scored_loss(output, token_embd, hidden, targets); }

}  // namespace kvt
