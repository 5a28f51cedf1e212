#include "models/bert.h"

#include <cmath>

namespace kvt {

BertBlock::BertBlock(const BertConfig& c)
    : attention(c.channels, c.heads, c.channels / c.heads, true), attn_output_norm(c.channels, c.norm_eps),
      ffn_up(c.channels, c.hidden, true), ffn_down(c.hidden, c.channels, true), layer_output_norm(c.channels, c.norm_eps) {}

Tensor BertBlock::operator()(const Tensor& x, const std::vector<int32_t>& lengths) const {
  const Tensor h = attn_output_norm(x + attention(x, lengths));
  return layer_output_norm(h + ffn_down(gelu(ffn_up(h))));
}

Bert::Bert(const BertConfig& config, const std::map<std::string, Tensor>& tensors, const std::string& source)
    : token_embd(config.vocabulary, config.channels), token_types(config.token_types, config.channels),
      position_embd(config.context, config.channels), token_embd_norm(config.channels, config.norm_eps), config_(config) {
  for (int64_t i = 0; i < config.layers; ++i) blk.emplace_back(config);
  load_parameters(*this, tensors, source);
}

Tensor Bert::hidden(std::span<const int32_t> ids, const std::vector<int32_t>& lengths, int64_t T, int64_t blocks) const {
  const int64_t B = int64_t(lengths.size());
  require(B >= 1 && T >= 1 && int64_t(ids.size()) == B * T, "bert: ", ids.size(), " ids for ", B, " × ", T);
  require(T <= config_.context, "bert: a text of ", T, " tokens, the model has ", config_.context, " positions");
  const Storage::Reuse memory;      // every block asks for the same sizes
  std::vector<int32_t> positions(ids.size());
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = int32_t(int64_t(i) % T);
  const std::vector<int32_t> first_segment(ids.size(), 0);

  const Tensor tokens = token_embd(ids, {B, T});
  const AdapterPass::Scope made(pass_with(tokens, lengths));
  Tensor x = token_embd_norm(tokens + position_embd(positions, {B, T}) + token_types(first_segment, {B, T}));
  for (int64_t i = 0; i < (blocks < 0 ? layers() : blocks); ++i) x = blk[size_t(i)](x, lengths);
  return x;
}

Tensor Bert::pooled(const Tensor& hidden, const std::vector<int32_t>& lengths) const {
  require(config_.pooling != BertConfig::Pooling::none, "bert: the file names no pooling of token states to a text's vector");
  const Tensor v = kvt::pooled(hidden, lengths, config_.pooling == BertConfig::Pooling::mean ? kvt::Pooling::mean : kvt::Pooling::first);
  // v / √(mean v² + eps) / √C = v / |v|
  return rms_norm(v, Tensor::filled({v.dim(1)}, 1 / std::sqrt(float(v.dim(1)))), 1e-24f);
}

}  // namespace kvt
