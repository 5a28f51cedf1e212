// Training data from files: plain text, JSON lines of prompt–completion pairs (engine/text_pairs.h), or labelled texts.
#pragma once
#include <string>

#include "engine/data.h"
#include "engine/text_classes.h"
#include "engine/tokenizer.h"

namespace kvt {

// Names ending in .jsonl or .json are pairs, all others text, in which special tokens are not recognised. Throws an Error naming file and line for what is no pair, and for a file without anything to learn.
Examples read_examples(const std::string& path, const Tokenizer& tokenizer, int64_t length);

// Lines of LABEL, a tab, and a text; empty lines are passed over. Throws an Error naming file and line for any other, and for a file
// without any.
std::vector<LabelledText> read_labelled(const std::string& path);

}  // namespace kvt
