// A model of texts for classification: a language model or an encoder, with its adapters.
#pragma once
#include "engine/text_classes.h"
#include "tools/common.h"

namespace kvt {

struct TextModel {
  Gguf gguf;
  std::shared_ptr<CausalLm> lm;          // one of the two
  std::shared_ptr<Bert> encoder;
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<Gguf> classes;           // the file with a class head: of the adapters the last that has one, else the model's own, if it has one
  std::optional<Fusion> fusion;          // as the last adapter's file or the options say

  Model& model() const { return lm ? static_cast<Model&>(*lm) : *encoder; }
  TextClassifier classifier() const { return lm ? TextClassifier(*lm) : TextClassifier(*encoder); }
};
// `as_base`: the adapters are the base's, for what is trained on top.
TextModel open_text_model(const ModelOptions& options, bool as_base);

// "names": each class's own name; or "CLASS=WORD,CLASS=WORD,…" → a word for each of `names`, with a space before it unless `text` ends in
// one already. Throws an Error for a class without a word and a word without a class.
std::vector<std::string> parse_words(const std::string& words, const std::vector<std::string>& names, const std::string& text);

}  // namespace kvt
