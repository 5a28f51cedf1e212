#include "engine/new_model.h"

#include <algorithm>
#include <cmath>

namespace kvt {

namespace {

class Writer {
 public:
  Writer(Gguf& gguf, const NewModel& shape, Rng& rng) : gguf_(gguf), m_(shape), rng_(rng) {}

  void common() {
    gguf_.set("general.architecture", m_.architecture);
    key("vocab_size", m_.vocabulary);
    key("embedding_length", m_.channels);
    key("block_count", m_.layers);
    key("feed_forward_length", m_.hidden);
    key("context_length", m_.context);
    key("attention.head_count", m_.heads);
    matrix("token_embd.weight", m_.vocabulary, m_.channels);
  }

  void gpt2() {
    gguf_.set("gpt2.attention.layer_norm_epsilon", 1e-5f);
    matrix("position_embd.weight", m_.context, m_.channels);
    for (int64_t i = 0; i < m_.layers; ++i) {
      const std::string blk = "blk." + std::to_string(i) + ".";
      norm(blk + "attn_norm", true);
      linear(blk + "attn_qkv", 3 * m_.channels, m_.channels);
      linear(blk + "attn_output", m_.channels, m_.channels, residual());
      norm(blk + "ffn_norm", true);
      linear(blk + "ffn_up", m_.hidden, m_.channels);
      linear(blk + "ffn_down", m_.channels, m_.hidden, residual());
    }
    norm("output_norm", true);
  }

  void llama() {
    key("attention.head_count_kv", m_.kv_heads);
    gguf_.set("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_.set("llama.rope.freq_base", 10000.f);
    const int64_t kv = m_.channels / m_.heads * m_.kv_heads;
    for (int64_t i = 0; i < m_.layers; ++i) {
      const std::string blk = "blk." + std::to_string(i) + ".";
      norm(blk + "attn_norm", false);
      matrix(blk + "attn_q.weight", m_.channels, m_.channels);
      matrix(blk + "attn_k.weight", kv, m_.channels);
      matrix(blk + "attn_v.weight", kv, m_.channels);
      matrix(blk + "attn_output.weight", m_.channels, m_.channels, residual());
      norm(blk + "ffn_norm", false);
      matrix(blk + "ffn_gate.weight", m_.hidden, m_.channels);
      matrix(blk + "ffn_up.weight", m_.hidden, m_.channels);
      matrix(blk + "ffn_down.weight", m_.channels, m_.hidden, residual());
    }
    norm("output_norm", false);
  }

  void output() {
    if (!m_.tied_output) matrix("output.weight", m_.vocabulary, m_.channels);
  }

 private:
  static constexpr float deviation = 0.02f;
  float residual() const { return deviation / std::sqrt(2.f * float(m_.layers)); }

  void key(const char* name, int64_t value) { gguf_.set(m_.architecture + "." + name, uint32_t(value)); }
  void matrix(const std::string& name, int64_t out, int64_t in, float std = deviation) { gguf_.add(name, randn({out, in}, rng_, std)); }
  void linear(const std::string& name, int64_t out, int64_t in, float std = deviation) {
    matrix(name + ".weight", out, in, std);
    gguf_.add(name + ".bias", Tensor::zeros({out}));
  }
  void norm(const std::string& name, bool bias) {
    const Tensor ones({m_.channels});
    std::fill_n(ones.data(), m_.channels, 1.f);
    gguf_.add(name + ".weight", ones);
    if (bias) gguf_.add(name + ".bias", Tensor::zeros({m_.channels}));
  }

  Gguf& gguf_;
  const NewModel& m_;
  Rng& rng_;
};

}  // namespace

void add_random_model(Gguf& gguf, const NewModel& m, Rng& rng) {
  const bool gpt2 = m.architecture == "gpt2";
  require(gpt2 || m.architecture == "llama", "new model: architecture '", m.architecture, "' is not known; known: gpt2, llama");
  require(m.vocabulary >= 1 && m.channels >= 1 && m.layers >= 1 && m.hidden >= 1 && m.context >= 1, "new model: vocabulary ", m.vocabulary, ", ", m.channels,
          " channels, ", m.layers, " layers, hidden size ", m.hidden, ", context ", m.context, "; expected at least 1 of each");
  require(m.heads >= 1 && m.channels % m.heads == 0, "new model: ", m.channels, " channels do not divide into ", m.heads, " heads");
  require(m.kv_heads >= 1 && m.heads % m.kv_heads == 0, "new model: ", m.heads, " query heads are not a multiple of ", m.kv_heads, " key/value heads");
  require(gpt2 ? m.kv_heads == m.heads : m.channels / m.heads % 2 == 0, "new model: ", m.architecture, " with ", m.heads, " heads, ", m.kv_heads,
          " key/value heads and head size ", m.channels / m.heads, "; gpt2 has as many of both, llama an even head size");
  Writer writer(gguf, m, rng);
  writer.common();
  if (gpt2) writer.gpt2();
  else writer.llama();
  writer.output();
}

}  // namespace kvt
