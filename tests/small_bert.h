// A BERT of random weights with a vocabulary of letters and a few words, as a GGUF file in memory.
#pragma once
#include "engine/gguf.h"
#include "tensor/random.h"

namespace kvt {

struct SmallBert {
  int64_t layers = 2, channels = 32, hidden = 64, heads = 4, context = 32;
  uint64_t seed = 7;

  Gguf gguf() const {
    Gguf file;
    Rng rng(seed);
    std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581the", "\u2581cat", "\u2581sat", "\u2581on", "\u2581mat"};
    for (char c = 'a'; c <= 'z'; ++c) tokens.push_back(std::string("\u2581") + c), tokens.push_back(std::string(1, c));
    const auto vocabulary = int64_t(tokens.size());
    file.set("general.architecture", std::string("bert"));
    for (const auto& [key, value] : std::map<std::string, int64_t>{{"block_count", layers}, {"embedding_length", channels}, {"feed_forward_length", hidden},
             {"context_length", context}, {"attention.head_count", heads}, {"pooling_type", 1}})
      file.set("bert." + key, uint32_t(value));
    file.set("bert.attention.layer_norm_epsilon", 1e-12f);
    file.set("tokenizer.ggml.model", std::string("bert"));
    file.set("tokenizer.ggml.tokens", tokens);
    const auto matrix = [&](const std::string& name, int64_t out, int64_t in) { file.add(name + ".weight", randn({out, in}, rng, 0.2f)); };
    const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
      matrix(name, out, in);
      file.add(name + ".bias", randn({out}, rng, 0.1f));
    };
    const auto norm = [&](const std::string& name) {
      file.add(name + ".weight", rand_uniform({channels}, rng, 0.5f, 1.5f));
      file.add(name + ".bias", randn({channels}, rng, 0.1f));
    };
    matrix("token_embd", vocabulary, channels);
    matrix("token_types", 2, channels);
    matrix("position_embd", context, channels);
    norm("token_embd_norm");
    for (int64_t i = 0; i < layers; ++i) {
      const std::string b = "blk." + std::to_string(i) + ".";
      for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) linear(b + name, channels, channels);
      norm(b + "attn_output_norm");
      linear(b + "ffn_up", hidden, channels);
      linear(b + "ffn_down", channels, hidden);
      norm(b + "layer_output_norm");
    }
    return file;
  }
};

}  // namespace kvt
