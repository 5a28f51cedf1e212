// Training a byte-level BPE tokenizer (Sennrich et al. 2016; bytes as letters: Radford et al. 2019).
//
//   The text is cut into words (engine/pretokenize.h), each word is its bytes, and the most frequent pair of neighbours becomes one
//   token, again and again, until the vocabulary is full or no pair occurs `least` times.
//
// Ids: special tokens, then the 256 byte letters in the order of their code points, then what each merge makes. Of equally frequent
// pairs the one with the smaller ids comes first, so that the same text always gives the same tokenizer.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/gguf.h"

namespace kvt {

class BpeTrainer {
 public:
  struct Options {
    int64_t size = 8000;                                    // tokens, special ones and bytes included
    int64_t least = 2;                                      // how often a pair must occur to be merged
    std::string pre = "gpt-2";                              // tokenizer.ggml.pre
    std::vector<std::string> special = {"<s>", "</s>"};     // control tokens; the first begins a text, the last ends it
  };
  explicit BpeTrainer(Options options);                     // throws an Error for a size that cannot hold bytes and special tokens

  void add(std::string_view text);                          // counts its words
  // The tokenizer as metadata: tokenizer.ggml.{model, pre, tokens, token_type, merges, bos_token_id, eos_token_id}.
  Gguf train() const;

 private:
  Options options_;
  std::unordered_map<std::string, int64_t> words_;
};

}  // namespace kvt
