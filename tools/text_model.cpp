#include "tools/text_model.h"

#include <algorithm>
#include <cctype>

#include "engine/load_encoder.h"
#include "ops/quant.h"
#include "tensor/parallel.h"

namespace kvt {

static TextModel open_encoder(Gguf gguf, const ModelOptions& o, bool as_base) {
  set_default_threads({.threads = o.threads});
  if (!o.activations.empty()) set_activations(o.activations == "f32" ? Activations::f32 : Activations::q8);
  TextModel m;
  m.gguf = std::move(gguf);
  if (o.check_tensors) m.gguf.check_tensors();
  m.encoder = load_bert(m.gguf);
  m.fusion = load_adapters(*m.encoder, m.gguf, o.adapters, o.any_base, as_base);
  m.tokenizer = Tokenizer::from(m.gguf);
  require(m.tokenizer->vocab().size() == m.encoder->config().vocabulary, o.model, ": the tokenizer has ", m.tokenizer->vocab().size(), " tokens, the model ",
          m.encoder->config().vocabulary);
  return m;
}

TextModel open_text_model(const ModelOptions& o, bool as_base) {
  TextModel m;
  Gguf gguf = Gguf::open(o.model, o.no_mmap ? Gguf::Access::read : Gguf::Access::map);
  if (gguf.string("general.architecture") == "bert") {
    m = open_encoder(std::move(gguf), o, as_base);
  } else {
    ModelOptions alone = o;
    alone.no_fusion = true;
    alone.fusion.reset();                          // classes' scores are fused, not words'
    LoadedModel loaded = open_model(alone, !as_base);
    m.gguf = std::move(loaded.gguf);
    m.lm = std::move(loaded.model);
    m.tokenizer = std::move(loaded.tokenizer);
    m.fusion = loaded.fusion;
  }
  if (o.fusion) m.fusion = o.fusion;
  require(!o.fusion || !o.adapters.empty(), "fusion is of an adapter with its base: name an --adapter");
  if (o.no_fusion || as_base) m.fusion.reset();
  if (m.gguf.has("kvt.classes")) m.classes = m.gguf;
  for (const std::string& adapter : o.adapters)
    if (Gguf file = Gguf::open(split_scale(adapter).first); file.has("kvt.classes")) m.classes = std::move(file);
  return m;
}

std::vector<std::string> parse_words(const std::string& text_of_words, const std::vector<std::string>& names, const std::string& text) {
  const auto spaced = [&](const std::string& word) { return text.empty() || std::isspace(static_cast<unsigned char>(text.back())) ? word : " " + word; };
  std::vector<std::string> words(names.size());
  if (text_of_words == "names") {
    std::transform(names.begin(), names.end(), words.begin(), spaced);
    return words;
  }
  for (size_t at = 0; at < text_of_words.size();) {
    const size_t comma = std::min(text_of_words.find(',', at), text_of_words.size()), equals = text_of_words.find('=', at);
    require(equals < comma && equals + 1 < comma, "--label-words: expected names, or CLASS=WORD,…, got '", text_of_words, "'");
    const auto found = std::find(names.begin(), names.end(), text_of_words.substr(at, equals - at));
    require(found != names.end(), "--label-words: there is no class '", text_of_words.substr(at, equals - at), "'");
    words[size_t(found - names.begin())] = spaced(text_of_words.substr(equals + 1, comma - equals - 1));
    at = comma + 1;
  }
  for (size_t c = 0; c < names.size(); ++c) require(!words[c].empty(), "--label-words: class '", names[c], "' has no word");
  return words;
}

}  // namespace kvt
