// Texts as unit vectors, by BERT.
#pragma once
#include "engine/tokenizer.h"
#include "models/bert.h"

namespace kvt {

struct TextEmbedding {
  std::vector<int32_t> ids;            // special tokens included
  std::vector<float> vector;           // of length 1
};

// The ids of a text as the model reads it, cut to `most` tokens with the end token kept: [CLS] t₁ … t_(most−2) [SEP].
std::vector<int32_t> cut_ids(std::vector<int32_t> ids, int64_t most);

// How many tokens of a text count: kvt.embed.max_tokens of the file (sentence-transformers' max_seq_length), else all the model has positions for.
int64_t most_tokens(const Gguf& gguf, const Bert& model);

// One for each text, in order; texts of like length are computed together, `batch` at a time.
std::vector<TextEmbedding> embed(const Bert& model, const Tokenizer& tokenizer, std::span<const std::string> texts, int64_t most, int64_t batch);

}  // namespace kvt
