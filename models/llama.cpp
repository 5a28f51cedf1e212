#include "models/llama.h"

#include <numeric>

#include "models/together.h"

namespace kvt {

LlamaBlock::LlamaBlock(const LlamaConfig& c)
    : attn_norm(c.channels, c.rms_eps), ffn_norm(c.channels, c.rms_eps),
      ffn_gate(c.channels, c.hidden), ffn_up(c.channels, c.hidden), ffn_down(c.hidden, c.channels) {
  attention.attn_q = Linear(c.channels, c.heads * c.head_size, c.qkv_bias);
  attention.attn_k = Linear(c.channels, c.kv_heads * c.head_size, c.qkv_bias);
  attention.attn_v = Linear(c.channels, c.kv_heads * c.head_size, c.qkv_bias);
  attention.attn_output = Linear(c.heads * c.head_size, c.channels);
  if (c.qk_norm) attention.attn_q_norm = attention.attn_k_norm = RmsNorm(c.head_size, c.rms_eps);
  attention.heads = c.heads;
  attention.kv_heads = c.kv_heads;
  attention.head_size = c.head_size;
  attention.rope_options = c.rope;
}

Tensor LlamaBlock::operator()(const Tensor& x, std::span<const int32_t> positions, KvCache* cache, int64_t layer) const {
  const Tensor h = x + attention(attn_norm(x), positions, cache, layer);
  const ArenaVector<Tensor> gate_up = together(ffn_norm(h), {&ffn_gate, &ffn_up});
  return h + ffn_down(swiglu(gate_up[0], gate_up[1]));
}

Llama::Llama(const LlamaConfig& config, const std::map<std::string, Tensor>& tensors, const std::string& source)
    : token_embd(config.vocabulary, config.channels), output_norm(config.channels, config.rms_eps), output(config.channels, config.vocabulary), config_(config) {
  for (int64_t i = 0; i < config.layers; ++i) blk.emplace_back(config);
  load_parameters(*this, tensors, source);
}

Tensor Llama::hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const {
  require(int64_t(ids.size()) == B * T, "llama: ", ids.size(), " ids for ", B, " × ", T);
  ArenaVector<int32_t> positions(static_cast<size_t>(T));
  std::iota(positions.begin(), positions.end(), options.cache ? int32_t(options.cache->length()) : 0);

  const Tensor x = token_embd(ids, {B, T});
  return output_norm(through_blocks(x, options, [this, positions, cache = options.cache](int64_t i, const Tensor& h) { return blk[size_t(i)](h, positions, cache, i); }));
}

Tensor Llama::logits(const Tensor& hidden) const { return scores(output, token_embd, hidden); }

Tensor Llama::loss(const Tensor& hidden, std::span<const int32_t> targets) const { return scored_loss(output, token_embd, hidden, targets); }

}  // namespace kvt
