// Encoder–decoder models as GGUF files, and the text on both sides of them.
//
//   general.architecture                  "seq2seq"
//   seq2seq.embedding_length, .feed_forward_length, .attention.head_count, .encoder.block_count, .decoder.block_count, .context_length
//   seq2seq.attention.layer_norm_epsilon  f32
//   seq2seq.positions                     "sinusoidal", "halves" or "learned"      (models/seq2seq.h)
//   seq2seq.normalization                 "pre" or "post"
//   seq2seq.activation                    "relu" or "gelu"
//   seq2seq.embedding_scale               bool     embeddings times √C
//   seq2seq.dropout                       f32      that of training; 0 if absent
//   tensors    enc. and dec.:  token_embd.weight, position_embd, blk.N.{attn_norm, attn_q, attn_k, attn_v, attn_output, cross_attn_…,
//              ffn_norm, ffn_up, ffn_down}.{weight, bias}, output_norm.{weight, bias};  output.{weight, bias}
//              Without dec.token_embd.weight both sides share the encoder's; without output.weight the target's embedding serves.
//
// Text:  tokenizer.ggml.*, one vocabulary for both sides (engine/tokenizer.h), or, from converted models,
//   seq2seq.source_tokens, .target_tokens   strings, the id of each is its place; "<unk>", if there, stands for what is not among them
//   seq2seq.token_unit                      "character" or "word" (between spaces): what of the text is one token
//   seq2seq.start_token_id, .end_token_id   u32      what a target begins behind, and ends with
//   seq2seq.source_end                      bool     sources end with the end token, too
#pragma once
#include <memory>

#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "models/seq2seq.h"

namespace kvt {

// The model in `gguf`, sharing its bytes. Throws an Error naming file and key or tensor.
std::unique_ptr<Seq2Seq> load_seq2seq(const Gguf& gguf);
// Adds keys and tensors of the model.
void store_seq2seq(Gguf& gguf, Seq2Seq& model);

class Sentences {
 public:
  explicit Sentences(const Gguf& gguf);        // throws an Error naming file and key

  Ids source(std::string_view text) const;     // throws an Error naming what no token stands for
  Ids target(std::string_view text) const;     // without start and end
  std::string text(const Ids& target) const;
  int32_t start() const { return start_; }
  int32_t end() const { return end_; }
  int64_t source_size() const { return tokenizer_ ? tokenizer_->vocab().size() : int64_t(source_.size()); }
  int64_t target_size() const { return tokenizer_ ? tokenizer_->vocab().size() : int64_t(target_text_.size()); }

 private:
  Ids split(std::string_view text, const std::unordered_map<std::string, int32_t>& ids) const;

  std::shared_ptr<const Tokenizer> tokenizer_;                           // or the lists:
  std::unordered_map<std::string, int32_t> source_, target_;
  std::vector<std::string> target_text_;
  bool words_ = false, source_end_ = false;
  int32_t start_ = 0, end_ = 0;
};

}  // namespace kvt
