// Pre-tokenizers: how a text is cut into words before byte-level BPE, chosen by tokenizer.ggml.pre.
//
// Models publish them as regular expressions, applied in passes: each pass cuts every piece the pass before left; what it matches
// and what lies between matches become pieces. Here a pass is a list of rules, tried in order at each position.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/unicode.h"

namespace kvt {

using Chars = std::span<const unicode::Char>;

// One alternative of a regex:  lead? body{least,most} trail*  for most of them.
struct Rule {
  using Set = bool (*)(unicode::Char);
  size_t (*match)(const Rule&, Chars, size_t at);          // where the match that begins at `at` ends; `at` if there is none
  Set lead = nullptr, body = nullptr, trail = nullptr;
  size_t least = 1, most = SIZE_MAX;
};

struct PreTokenizer {
  std::vector<std::string_view> names;                     // values of tokenizer.ggml.pre
  std::vector<std::vector<Rule>> passes;
  bool whole_words = false;                                // a word that is a token is not merged from letters
  bool adds_bos = false;                                   // unless tokenizer.ggml.add_bos_token says otherwise

  // Throws an Error naming the value, the known ones and the key to set. `source` names the file.
  static const PreTokenizer& named(std::string_view name, std::string_view source);
  // Appends the words of a text, in order: together they are the text.
  void split(std::string_view text, std::vector<std::string_view>& words) const;
};

}  // namespace kvt
