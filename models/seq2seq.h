// The encoder–decoder Transformer of "Attention Is All You Need" (Vaswani et al. 2017), for translation.
//
//   memory  =  blocks of  self-attention, feed-forward                             over the source tokens
//   scores  =  blocks of  causal self-attention, attention to memory, feed-forward  over the target tokens so far,  times Eᵀ
//
//   Each sub-layer f has a residual connection, dropout and a layer norm N:
//     post-norm (the paper)             y = N(x + dropout f(x))
//     pre-norm (Xiong et al. 2020)      y = x + dropout f(N(x)),  and one more N behind the last block
//
//   B sentences   S source tokens   T target tokens   C channels   H heads   V vocabulary
#pragma once
#include <algorithm>

#include "models/model.h"

namespace kvt {

struct Seq2SeqConfig {
  int64_t source_vocabulary = 0, target_vocabulary = 0;
  int64_t channels = 0, heads = 0, hidden = 0, encoder_layers = 0, decoder_layers = 0;
  int64_t context = 0;                  // the most tokens of a sentence, on either side

  // sinusoidal   PE(t, 2i) = sin(t/10000^(2i/C)), PE(t, 2i + 1) = cos(…), t = 0, 1, …                          (the paper)
  // halves       PE(t, i) = sin(t/10000^(i/(C/2 − 1))), PE(t, C/2 + i) = cos(…), t = 1, 2, …   (tensor2tensor, OpenNMT)
  // learned      a matrix for each side
  enum class Positions { sinusoidal, halves, learned };
  Positions positions = Positions::sinusoidal;
  enum class Activation { relu, gelu };
  Activation activation = Activation::relu;
  bool pre_norm = true;
  bool scale_embedding = true;          // embeddings times √C
  bool shared_embeddings = false;       // one matrix for both sides: one vocabulary
  bool tied_output = false;             // the output matrix is the target's embedding
  bool output_bias = false;
  float norm_eps = 1e-5f;
  float dropout = 0.f;                  // of the sum of embedding and position, and of each sub-layer's result; in training only

  void check(const std::string& source) const;      // throws an Error for impossible values; `source` (a path) stands in it
};

// Multi-head attention, concat(head_1 … head_H) W_o with head_i = softmax(Q_i K_iᵀ / √D) V_i
struct MultiHead {
  Linear q, k, v, output;
  int64_t heads = 0;

  MultiHead() = default;
  MultiHead(int64_t channels, int64_t heads_);
  struct KeysValues { Tensor k, v; };                                  // [B, S, H, D] each
  KeysValues keys_values(const Tensor& x) const;
  Tensor operator()(const Tensor& x, const KeysValues& kv, const AttentionOptions& options) const;
};

// How a sub-layer joins the stream.
struct Residual {
  bool pre_norm;
  float dropout;
  Rng* random;                          // null: no dropout

  Tensor drop(const Tensor& x) const { return random && dropout > 0 ? kvt::dropout(x, dropout, *random) : x; }
  template <class F>
  Tensor operator()(const Tensor& x, const LayerNorm& norm, F&& f) const {
    return pre_norm ? x + drop(f(norm(x))) : norm(x + drop(f(x)));
  }
};

struct FeedForward {
  Linear up, down;
  Seq2SeqConfig::Activation activation = Seq2SeqConfig::Activation::relu;

  Tensor operator()(const Tensor& x) const;                            // W_down act(W_up x + b) + b
};

struct EncoderBlock {
  MultiHead attention;
  FeedForward feed_forward;
  LayerNorm attn_norm, ffn_norm;

  EncoderBlock() = default;
  explicit EncoderBlock(const Seq2SeqConfig& c);
  Tensor operator()(const Tensor& x, const AttentionOptions& padding, const Residual& add) const;
  template <class F> void fields(F&& f) {
    f("attn_norm", attn_norm);
    f("attn_q", attention.q); f("attn_k", attention.k); f("attn_v", attention.v); f("attn_output", attention.output);
    f("ffn_norm", ffn_norm); f("ffn_up", feed_forward.up); f("ffn_down", feed_forward.down);
  }
};

// A batch of sources as the decoder sees it: the encoder's states [B, S, C], of which row b has the first lengths[b], and what adapters know of its tokens.
struct Memory {
  Tensor states;
  std::vector<int32_t> lengths;
  AdapterPass pass;

  MultiHead::KeysValues keys_values(const MultiHead& cross) const;
};

// What decoding remembers: keys and values of the target tokens so far, and of the memory, which are computed once.
// `beams` rows for each of the B sentences; those of one sentence lie together and share its memory.
class DecoderCache {
 public:
  int64_t length() const { return length_; }
  int64_t rows() const { return int64_t(lengths_.size()) * beams_; }
  // Row i continues what row from[i] was, a row of the same sentence. Throws an Error otherwise.
  void reorder(std::span<const int64_t> from);

 private:
  friend class Seq2Seq;
  friend struct DecoderBlock;
  struct Layer { MultiHead::KeysValues memory /* [B, S, H, D] */, past /* [rows, capacity, H, D] */; };
  MultiHead::KeysValues append(int64_t layer, const MultiHead::KeysValues& one);

  std::vector<Layer> layers_;
  std::vector<int32_t> lengths_;        // tokens of each sentence of the memory
  AdapterPass source_;                  // and what adapters know of it
  int64_t beams_ = 1, capacity_ = 0, length_ = 0;
};

struct DecoderBlock {
  MultiHead attention, cross;
  FeedForward feed_forward;
  LayerNorm attn_norm, cross_attn_norm, ffn_norm;

  DecoderBlock() = default;
  explicit DecoderBlock(const Seq2SeqConfig& c);
  Tensor operator()(const Tensor& x, const Memory& memory, const Residual& add) const;
  // One more token a row, x [rows, 1, C].
  Tensor step(const Tensor& x, DecoderCache& cache, int64_t layer, const Residual& add) const;
  template <class F> void fields(F&& f) {
    f("attn_norm", attn_norm);
    f("attn_q", attention.q); f("attn_k", attention.k); f("attn_v", attention.v); f("attn_output", attention.output);
    f("cross_attn_norm", cross_attn_norm);
    f("cross_attn_q", cross.q); f("cross_attn_k", cross.k); f("cross_attn_v", cross.v); f("cross_attn_output", cross.output);
    f("ffn_norm", ffn_norm); f("ffn_up", feed_forward.up); f("ffn_down", feed_forward.down);
  }
};

// One side: embeddings, positions, blocks, and the norm behind them if pre-norm.
template <class Block>
struct Stack {
  Embedding token_embd;                 // without weights when the decoder shares the encoder's
  Parameter position_embd;              // [context, C] if learned
  std::vector<Block> blk;
  LayerNorm output_norm;
  bool own_embedding = true, learned = false, final_norm = true;

  template <class F> void fields(F&& f) {
    if (own_embedding) f("token_embd", token_embd);
    if (learned) f("position_embd", position_embd);
    f("blk", blk);
    if (final_norm) f("output_norm", output_norm);
  }
};

class Seq2Seq : public Model {
 public:
  Stack<EncoderBlock> enc;
  Stack<DecoderBlock> dec;
  Linear output;                        // without weight when tied

  explicit Seq2Seq(const Seq2SeqConfig& config);        // no numbers yet: init() or load()
  // Random weights: matrices U[−a, a) with a = √(6/(in + out)) (Glorot and Bengio 2010), embeddings N(0, 1/C), biases 0, norms 1.
  void init(Rng& rng);
  // Weights from `tensors` under their names; `source` stands in errors.
  void load(const std::map<std::string, Tensor>& tensors, const std::string& source);

  const Seq2SeqConfig& config() const { return config_; }
  const std::string& architecture() const override;
  int64_t layers() const override { return std::max(config_.encoder_layers, config_.decoder_layers); }
  int64_t channels() const override { return config_.channels; }
  template <class F> void fields(F&& f) {
    f("enc", enc); f("dec", dec);
    if (!config_.tied_output) f("output", output);
    else if (config_.output_bias) f("output.bias", output.bias);
  }
  void each_parameter(const std::function<void(const std::string&, Parameter&)>& f) override { each<Parameter>(*this, f); }
  void each_linear(const std::function<void(const std::string&, Linear&)>& f) override { each<Linear>(*this, f); }

  // ids [B, S] row-major, filled up behind lengths[b]; `random` (null: no dropout) draws the dropout.
  // `blocks` of the encoder are run, −1 = all; the last norm is behind them.
  Memory encode(std::span<const int32_t> ids, std::span<const int32_t> lengths, int64_t S, Rng* random = nullptr, int64_t blocks = -1) const;
  // The hidden states [B, T, C] of target tokens ids [B, T], each seeing those before it and the memory.
  Tensor decode(std::span<const int32_t> ids, int64_t T, const Memory& memory, Rng* random = nullptr) const;
  Tensor logits(const Tensor& hidden) const;                                                                               // [.., V]
  // Mean cross-entropy of the next tokens; label smoothing ε (Szegedy et al. 2016): ops/ops.h.
  Tensor loss(const Tensor& hidden, std::span<const int32_t> targets, float smoothing) const;

  DecoderCache start(const Memory& memory, int64_t beams, int64_t capacity) const;
  // Scores [rows, V] of the token after ids (one a row), which join the cache.
  Tensor step(std::span<const int32_t> ids, DecoderCache& cache) const;

 private:
  template <class Block>
  Tensor placed(const Stack<Block>& side, const Tensor& tokens, int64_t first, const Residual& add) const;      // embeddings [B, T, C] at positions first …
  const Tensor& target_embedding() const { return config_.shared_embeddings ? enc.token_embd.weight.tensor : dec.token_embd.weight.tensor; }
  const Tensor& output_matrix() const { return config_.tied_output ? target_embedding() : output.weight.tensor; }
  Residual residual(Rng* random) const { return {config_.pre_norm, config_.dropout, random}; }

  Seq2SeqConfig config_;
};

}  // namespace kvt
