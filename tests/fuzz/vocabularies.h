// Small vocabularies of each model of tokenization: for seeds, and for targets that need a tokenizer.
#pragma once
#include <cstdio>

#include "engine/gguf.h"
#include "engine/tokenizer_models.h"
#include "engine/unicode.h"

namespace kvt::fuzz {

// One value of tokenizer.ggml.pre for each set of rules in engine/pretokenize.cpp
constexpr const char* pre_tokenizers[] = {"default",      "gpt-2",          "smollm",      "llama-bpe", "dbrx",   "qwen2", "qwen35",
                                          "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon",    "tekken", "gpt-4o"};

struct VocabularyBuilder {
  std::vector<std::string> tokens;
  std::vector<int32_t> kinds;
  std::vector<float> scores;
  int32_t add(const std::string& text, Vocab::Kind kind = Vocab::Kind::normal, float score = 0) {
    tokens.push_back(text);
    kinds.push_back(int32_t(kind));
    scores.push_back(score);
    return int32_t(tokens.size()) - 1;
  }
  Gguf file(const char* model) const {
    Gguf g;
    g.set("tokenizer.ggml.model", std::string(model));
    g.set("tokenizer.ggml.tokens", tokens);
    g.set("tokenizer.ggml.token_type", kinds);
    return g;
  }
};

// With every byte, or with those alone that the merges below and a few words need
inline Gguf bpe_vocabulary(const std::string& pre, bool every_byte = true) {
  VocabularyBuilder v;
  std::array<std::string, 256> letter;
  const auto codes = byte_letters();
  constexpr std::string_view few = "thinaders'012 \n\xC3\xA4\xEF\xBF\xBD";
  for (size_t b = 0; b < 256; ++b) {
    unicode::append(letter[b], codes[b]);
    if (every_byte || few.find(char(b)) != std::string_view::npos) v.add(letter[b]);
  }
  std::vector<std::string> merges;
  const auto merge = [&](const std::string& a, const std::string& b) { merges.push_back(a + " " + b), v.add(a + b); };
  const std::string gap = letter[' '];
  for (const auto& [a, b] : {std::pair{"t", "h"}, {"th", "e"}, {"i", "n"}, {"a", "n"}, {"an", "d"}, {"1", "2"}, {"0", "0"}, {"e", "r"}, {"'", "s"}}) merge(a, b);
  for (const char* word : {"t", "a", "the", "and", "in"}) merge(gap, word);
  merge(letter[0xC3], letter[0xA4]);
  merge(letter['\n'], letter['\n']);
  merge(gap, gap);
  const int32_t end = v.add("<|endoftext|>", Vocab::Kind::control);
  v.add("<|im_start|>", Vocab::Kind::control);
  v.add("<|im_end|>", Vocab::Kind::control);
  v.add("<tool>", Vocab::Kind::user_defined);
  v.add("<tool", Vocab::Kind::user_defined);
  Gguf g = v.file("gpt2");
  g.set("tokenizer.ggml.pre", pre);
  g.set("tokenizer.ggml.merges", merges);
  g.set("tokenizer.ggml.bos_token_id", uint32_t(end));
  g.set("tokenizer.ggml.eos_token_id", uint32_t(end));
  return g;
}

inline Gguf spm_vocabulary(bool inner_spaces = false, unsigned bytes = 256) {
  VocabularyBuilder v;
  v.add("<unk>", Vocab::Kind::unknown);
  v.add("<s>", Vocab::Kind::control);
  v.add("</s>", Vocab::Kind::control);
  for (unsigned b = 0; b < bytes; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    v.add(name, Vocab::Kind::byte);
  }
  const std::string gap = "\u2581";
  float score = 0;
  for (const std::string& t : {gap, std::string("t"), std::string("h"), std::string("e"), std::string("th"), gap + "th", gap + "the", std::string("he"), std::string("ä"),
                               std::string("1"), gap + "1", gap + gap, gap + gap + gap, std::string("漢"), std::string("a"), std::string("aa"), std::string("aaa")})
    v.add(t, Vocab::Kind::normal, score -= 1);
  if (inner_spaces) v.add("e" + gap + "t", Vocab::Kind::normal, -0.5f), v.add("e" + gap, Vocab::Kind::normal, -0.5f);
  v.add("<tool>", Vocab::Kind::user_defined);
  Gguf g = v.file("llama");
  g.set("tokenizer.ggml.scores", v.scores);
  g.set("tokenizer.ggml.bos_token_id", uint32_t(1));
  g.set("tokenizer.ggml.eos_token_id", uint32_t(2));
  return g;
}

inline Gguf wordpiece_vocabulary() {
  VocabularyBuilder v;
  for (const char* t : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) v.add(t, Vocab::Kind::control);
  const std::string start = "\u2581";
  for (const char* t : {"the", "un", "a", "1", ".", ",", "漢", "hello", "t"}) v.add(start + t);
  for (const char* t : {"able", "aff", "h", "e", "a", "i", "o", "lo", "1", "s"}) v.add(t);
  Gguf g = v.file("bert");
  g.set("tokenizer.ggml.unknown_token_id", uint32_t(1));
  g.set("tokenizer.ggml.cls_token_id", uint32_t(2));
  g.set("tokenizer.ggml.seperator_token_id", uint32_t(3));
  return g;
}

}  // namespace kvt::fuzz
