// BERT (Devlin et al. 2019), as an encoder of sentences: MiniLM, bge, e5 and their like (GGUF `bert`). Members carry GGUF names.
//
//   x = LN(E[token] + P[position] + S[0]),   blocks,   then one vector for the text: the mean of its tokens' states, or the first's
#pragma once
#include "models/encoder.h"
#include "models/model.h"

namespace kvt {

struct BertConfig {
  std::string architecture = "bert";
  int64_t vocabulary = 0, channels = 0, layers = 0, heads = 0, hidden = 0;
  int64_t context = 0, token_types = 2;        // rows of the position and segment embeddings
  float norm_eps = 1e-12f;
  enum class Pooling { none, mean, cls };      // GGUF's pooling_type 0, 1, 2
  Pooling pooling = Pooling::mean;
};

// h = LN(x + Attention(x)),   y = LN(h + W_down gelu(W_up h))
struct BertBlock {
  SelfAttention attention;
  LayerNorm attn_output_norm;
  Linear ffn_up, ffn_down;
  LayerNorm layer_output_norm;

  BertBlock() = default;
  explicit BertBlock(const BertConfig& c);
  Tensor operator()(const Tensor& x, const std::vector<int32_t>& lengths) const;
  template <class F> void fields(F&& f) {
    f("", attention); f("attn_output_norm", attn_output_norm);
    f("ffn_up", ffn_up); f("ffn_down", ffn_down); f("layer_output_norm", layer_output_norm);
  }
};

class Bert : public Model {
 public:
  Embedding token_embd, token_types, position_embd;
  LayerNorm token_embd_norm;
  std::vector<BertBlock> blk;

  Bert(const BertConfig& config, const std::map<std::string, Tensor>& tensors, const std::string& source);
  template <class F> void fields(F&& f) {
    f("token_embd", token_embd); f("token_types", token_types); f("position_embd", position_embd);
    f("token_embd_norm", token_embd_norm); f("blk", blk);
  }

  const BertConfig& config() const { return config_; }
  const std::string& architecture() const override { return config_.architecture; }
  int64_t layers() const override { return config_.layers; }
  int64_t channels() const override { return config_.channels; }
  void each_parameter(const std::function<void(const std::string&, Parameter&)>& f) override { each<Parameter>(*this, f); }
  void each_linear(const std::function<void(const std::string&, Linear&)>& f) override { each<Linear>(*this, f); }

  // The last states [B, T, C] of ids [B, T], or those behind the first so many `blocks`; row b is a text of lengths[b] tokens and filling behind it.
  Tensor hidden(std::span<const int32_t> ids, const std::vector<int32_t>& lengths, int64_t T, int64_t blocks = -1) const;
  // One vector of length 1 for each text, [B, C], from its states [B, T, C]. `pooling` none throws.
  Tensor pooled(const Tensor& hidden, const std::vector<int32_t>& lengths) const;

 private:
  BertConfig config_;
};

}  // namespace kvt
