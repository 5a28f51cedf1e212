#include "models/gemma3.h"

#include <cmath>
#include <numeric>

namespace kvt {

Gemma3Block::Gemma3Block(const Gemma3Config& c, int64_t layer)
    : attn_norm(c.channels, c.rms_eps), post_attention_norm(c.channels, c.rms_eps), ffn_norm(c.channels, c.rms_eps),
      ffn_gate(c.channels, c.hidden), ffn_up(c.channels, c.hidden), ffn_down(c.hidden, c.channels), post_ffw_norm(c.channels, c.rms_eps) {
  attention.attn_q = Linear(c.channels, c.heads * c.head_size);
  attention.attn_k = attention.attn_v = Linear(c.channels, c.kv_heads * c.head_size);
  attention.attn_output = Linear(c.heads * c.head_size, c.channels);
  attention.attn_q_norm = attention.attn_k_norm = RmsNorm(c.head_size, c.rms_eps);
  attention.heads = c.heads;
  attention.kv_heads = c.kv_heads;
  attention.head_size = c.head_size;
  attention.window = c.global(layer) ? 0 : c.window;
  attention.scale = c.scale;
  attention.rope_options = c.global(layer) ? c.rope : c.local_rope;
}

Tensor Gemma3Block::operator()(const Tensor& x, std::span<const int32_t> positions, KvCache* cache, int64_t layer) const {
  const Tensor h = x + post_attention_norm(attention(attn_norm(x), positions, cache, layer));
  const Tensor n = ffn_norm(h);
  return h + post_ffw_norm(ffn_down(gelu_tanh(ffn_gate(n)) * ffn_up(n)));
}

Gemma3::Gemma3(const Gemma3Config& config, const std::map<std::string, Tensor>& tensors, const std::string& source)
    : token_embd(config.vocabulary, config.channels), output_norm(config.channels, config.rms_eps), output(config.channels, config.vocabulary), config_(config) {
  for (int64_t i = 0; i < config.layers; ++i) blk.emplace_back(config, i);
  load_parameters(*this, tensors, source);
}

Tensor Gemma3::hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const {
  require(int64_t(ids.size()) == B * T, "gemma3: ", ids.size(), " ids for ", B, " × ", T);
  ArenaVector<int32_t> positions(static_cast<size_t>(T));
  std::iota(positions.begin(), positions.end(), options.cache ? int32_t(options.cache->length()) : 0);

  const Tensor x = scale(token_embd(ids, {B, T}), std::sqrt(float(config_.channels)));
  return output_norm(through_blocks(x, options, [this, positions, cache = options.cache](int64_t i, const Tensor& h) { return blk[size_t(i)](h, positions, cache, i); }));
}

Tensor Gemma3::logits(const Tensor& hidden) const { return scores(output, token_embd, hidden); }

Tensor Gemma3::loss(const Tensor& hidden, std::span<const int32_t> targets) const { return scored_loss(output, token_embd, hidden, targets); }

}  // namespace kvt
