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

}  // namespace kvt
