#include "engine/memory.h"

#include <algorithm>

namespace kvt {

constexpr int64_t number = sizeof(float);

// Of each token its text in the file's keys and in the vocabulary, an entry in the look-up table, its kind and score; of each merge its text
// and an entry.
int64_t tokenizer_bytes(const Gguf& gguf) {
  constexpr int64_t string = 48, entry = 88;
  int64_t bytes = 0;
  for (const auto& [key, each] : {std::pair("tokenizer.ggml.tokens", 3 * string + entry + 16), std::pair("tokenizer.ggml.merges", 2 * string + entry)})
    if (const Gguf::Value* value = gguf.find(key))
      if (const auto* items = std::get_if<std::vector<std::string>>(value)) bytes += int64_t(items->size()) * each;
  return bytes;
}

int64_t cache_bytes(const LmConfig& c, int64_t context, DType dtype) {
  return c.layers * 2 * byte_size(dtype, context * c.kv_heads * c.head_size);
}

// One token in one block: the residual stream twice, norms, queries, keys and values before and after they turn, what attention gives, gate,
// up and their product.
static int64_t block_numbers(const LmConfig& c) {
  return 5 * c.channels + 3 * c.heads * c.head_size + 4 * c.kv_heads * c.head_size + 3 * c.hidden;
}

// A pass of up to 4 tokens keeps the results of all blocks until its end, in an arena (engine/generate.cpp); a longer one those of a block.
int64_t work_bytes(const LmConfig& c, int64_t batch) {
  constexpr int64_t chunk = 1 << 20;
  const int64_t few = std::min<int64_t>(batch, 4), arena = number * (few * c.layers * block_numbers(c) + 2 * c.vocabulary);
  return (arena + arena / 8 + chunk) / chunk * chunk + number * (batch * block_numbers(c) + 3 * c.vocabulary);
}

int64_t work_bytes(const BertConfig& c, int64_t texts, int64_t tokens) { return number * texts * tokens * (9 * c.channels + 2 * c.hidden); }

}  // namespace kvt
