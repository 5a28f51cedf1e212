// Texts as examples for a language model.
#pragma once
#include <string_view>

#include "engine/data.h"
#include "engine/tokenizer.h"

namespace kvt {

void add_text(Examples& data, const Tokenizer& tokenizer, std::string_view text);
// The prompt begins as the model's texts do, the completion ends with the end of text; special tokens in both are recognised. Throws for an
// empty completion.
void add_pair(Examples& data, const Tokenizer& tokenizer, std::string_view prompt, std::string_view completion);

// Pairs as lines of JSON, one object a line; empty lines are passed over, and members beside the two:
//
//   {"prompt": "Translate: good morning →", "completion": " bonjour"}
//
// Throws an Error naming `source` (a path) and line for what is no pair.
void add_pairs(Examples& data, const Tokenizer& tokenizer, std::string_view lines, const std::string& source);

}  // namespace kvt
