// Training data from files: plain text, or JSON lines of prompt–completion pairs.
//
//   {"prompt": "Translate: good morning →", "completion": " bonjour"}        one object a line; empty lines are passed over
#pragma once
#include <string>

#include "engine/data.h"
#include "engine/text_classes.h"
#include "engine/tokenizer.h"

namespace kvt {

// Names ending in .jsonl or .json are pairs, all others text. Special tokens are recognised in pairs (they are a program's work:
// chat markup), not in text. Throws an Error naming file and line for what is no pair, and for a file without anything to learn.
Examples read_examples(const std::string& path, const Tokenizer& tokenizer, int64_t length);

// Lines of LABEL, a tab, and a text; empty lines are passed over. Throws an Error naming file and line for any other, and for a file
// without any.
std::vector<LabelledText> read_labelled(const std::string& path);

}  // namespace kvt
