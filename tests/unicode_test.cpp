#include "tests/main.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/pretokenize.h"
#include "engine/unicode.h"
#include "tensor/error.h"
#include "tests/check.h"

using namespace kvt;

// Sums by tests/golden/make_tokenizer.py unicode, which reads Python's unicodedata directly.
TEST_CASE("category, lower case and decomposition of every code point") {
  uint64_t categories = 0, lowered = 0, parts_sum = 0;
  std::vector<uint32_t> parts;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    categories = categories * 31 + unicode::category(c);
    lowered = lowered * 31 + unicode::lower(c);
    parts.clear();
    unicode::decompose(c, parts);
    std::sort(parts.begin(), parts.end());
    for (const uint32_t p : parts) parts_sum = parts_sum * 31 + p;
  }
  CHECK(categories == 0xe55ac30fb3fce36u);
  CHECK(lowered == 0xc8d663305cb74e90u);
  CHECK(parts_sum == 0xfc95265faff8c3ebu);
}

TEST_CASE("UTF-8: every code point comes back, and what is no code point falls into bytes") {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    unicode::append(text, c);
    size_t at = 0;
    REQUIRE(unicode::next(text, at) == c);
    REQUIRE(at == text.size());
    REQUIRE(unicode::Char(c, unicode::Lo).bytes() == text.size());
  }
  const auto codes = [](std::string_view text) {
    std::vector<uint32_t> out;
    for (const unicode::Char c : unicode::decode(text)) out.push_back(c.code());
    return out;
  };
  const auto bytes = [](std::string_view text) {
    std::vector<uint32_t> out;
    for (const char c : text) out.push_back(unicode::invalid_byte + static_cast<unsigned char>(c));
    return out;
  };
  for (const std::string_view bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xE6\x88",
                                     "\xF0\x9F\x9A"})
    CHECK(codes(bad) == bytes(bad));
  CHECK(codes("\xE6\x88q") == std::vector<uint32_t>{unicode::invalid_byte + 0xE6, unicode::invalid_byte + 0x88, 'q'});
}

TEST_CASE("white space is White_Space") {
  std::vector<uint32_t> found;
  for (uint32_t c = 0; c < 0x110000; ++c)
    if (unicode::Char(c, unicode::category(c)).space()) found.push_back(c);
  CHECK(found == std::vector<uint32_t>{9, 10, 11, 12, 13, 0x20, 0x85, 0xA0, 0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200A,
                                       0x2028, 0x2029, 0x202F, 0x205F, 0x3000});
}

TEST_CASE("pre-tokenizers cut as their regular expressions do") {
  std::ifstream in(project_path("tests/golden/pretokenize.json"));
  const auto cases = nlohmann::json::parse(in);
  REQUIRE(cases.size() >= 300);
  for (const auto& c : cases) {
    const std::string text = c["text"], name = c["pre"];
    std::vector<std::string_view> words;
    PreTokenizer::named(name, "test").split(text, words);
    INFO(name, ": '", text, "'");
    CHECK(std::vector<std::string>(words.begin(), words.end()) == c["words"].get<std::vector<std::string>>());
  }
}

TEST_CASE("every pre-tokenizer keeps every byte, and takes long runs in linear time") {
  for (const char* name : {"default", "gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35", "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon", "tekken", "gpt-4o"})
    for (const std::string unit : {"A", " ", "\n", "漢A", "'", "1", "\xFF", "\u0301", " \n", "漢"}) {
      std::string text;
      while (text.size() < 1 << 18) text += unit;
      text += "漢";                              // a run that does not reach the end
      std::vector<std::string_view> words;
      PreTokenizer::named(name, "test").split(text, words);
      std::string joined;
      for (const std::string_view w : words) {
        CHECK_FALSE(w.empty());
        joined += w;
      }
      CHECK(joined == text);
    }
}

TEST_CASE("an unknown pre-tokenizer is named, with what is known and what to do") {
  CHECK_THROWS_WITH_AS(PreTokenizer::named("llama", "file.gguf"), doctest::Contains("file.gguf: unknown pre-tokenizer tokenizer.ggml.pre = 'llama'; known are default, gpt-2"), Error);
  CHECK_THROWS_WITH_AS(PreTokenizer::named("llama", "file.gguf"), doctest::Contains("Set the key"), Error);
}
