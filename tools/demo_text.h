// What kvt demo measures and shows: held-out paragraphs with marked key words.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "engine/columns.h"
#include "engine/tokenizer.h"
#include "models/causal_lm.h"

namespace kvt {

// A paragraph of a held-out text. In the file the words that carry a fact stand in brackets: "reeds are cut from [tin]".
struct Paragraph {
  using Span = std::pair<size_t, size_t>;      // bytes of the text, [begin, end)
  std::string text;                            // without brackets
  std::vector<Span> keys, words;
};

// Paragraphs are separated by empty lines. Throws an Error naming the file for unpaired brackets and for a file without key words.
std::vector<Paragraph> read_paragraphs(const std::string& path);

// How well a model predicts paragraphs, each read alone.
struct Score {
  double nll = 0;                              // Σ −log p over all tokens but each paragraph's first
  int64_t predictions = 0;
  std::vector<double> keys, words;             // −log p of each key word and of each word, over all paragraphs in order

  double mean() const { return nll / double(predictions); }      // nats per token
};
Score score(const CausalLm& model, const Tokenizer& tokenizer, const std::vector<Paragraph>& paragraphs);

// The sentence up to and with key word `key`, as much of its end as fits into `width` columns.
std::string sentence_before(const Paragraph& paragraph, size_t key, size_t width);

// One line, cut behind the last full sentence; "…" at the end where there is none.
std::string whole_sentences(const std::string& text);

}  // namespace kvt
