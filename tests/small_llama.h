// A Llama of a few thousand random weights, as the GGUF file (in memory) that a test needs a base model from.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <string>

#include "engine/gguf.h"
#include "engine/load.h"
#include "ops/quant.h"
#include "tensor/random.h"

namespace kvt {

struct SmallLlama {
  int64_t layers = 2, channels = 32, hidden = 64, heads = 4, kv_heads = 2, vocabulary = 40;
  bool tied = true;
  DType matrices = DType::F32;
  uint64_t seed = 5;

  Gguf gguf() const {
    Gguf file;
    Rng rng(seed);
    file.set("general.architecture", std::string("llama"));
    for (const auto& [key, value] : std::map<std::string, int64_t>{{"block_count", layers}, {"embedding_length", channels},
             {"feed_forward_length", hidden}, {"context_length", 64}, {"attention.head_count", heads}, {"attention.head_count_kv", kv_heads}})
      file.set("llama." + key, uint32_t(value));
    const auto matrix = [&](const std::string& name, int64_t out, int64_t in) {
      const Tensor w = randn({out, in}, rng, 0.2f);
      file.add(name + ".weight", matrices == DType::F32 ? w : pack(w, matrices));
    };
    const auto norm = [&](const std::string& name) { file.add(name + ".weight", rand_uniform({channels}, rng, 0.5f, 1.5f)); };
    matrix("token_embd", vocabulary, channels);
    for (int64_t i = 0; i < layers; ++i) {
      const std::string b = "blk." + std::to_string(i) + ".";
      const int64_t head = channels / heads;
      norm(b + "attn_norm");
      matrix(b + "attn_q", channels, channels);
      matrix(b + "attn_k", kv_heads * head, channels);
      matrix(b + "attn_v", kv_heads * head, channels);
      matrix(b + "attn_output", channels, channels);
      norm(b + "ffn_norm");
      matrix(b + "ffn_gate", hidden, channels);
      matrix(b + "ffn_up", hidden, channels);
      matrix(b + "ffn_down", channels, hidden);
    }
    norm("output_norm");
    if (!tied) matrix("output", vocabulary, channels);
    return file;
  }
};

// A folder of this test's own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "kvt-test-XXXXXX").string();
    require(::mkdtemp(pattern.data()) != nullptr, "cannot make a temporary folder ", pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(const std::string& file) const { return (path_ / file).string(); }

 private:
  std::filesystem::path path_;
};

inline std::string bytes_of(const std::string& path) {
  const Storage bytes = Storage::read_file(path);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace kvt
