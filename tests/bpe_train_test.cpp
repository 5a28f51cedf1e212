#include "tests/main.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/bpe_train.h"
#include "engine/tokenizer.h"
#include "tests/check.h"

using namespace kvt;

namespace {

// The text of tests/golden/make_bpe.py.
std::vector<std::string> made_lines() {
  const std::vector<std::string> syllables{"an", "be", "the", "er", "st", "in", "\u00fc", "ge", "sch", "o", "ll", "\u20ac", "7", "42", "aaa", "nn", "!", ",", "\U0001f600", "qu"};
  uint64_t s = 17;
  const auto below = [&](uint64_t n) {
    s = s * 6364136223846793005u + 1442695040888963407u;
    return (s >> 33) % n;
  };
  std::vector<std::string> lines;
  for (int i = 0; i < 300; ++i) {
    std::string line;
    for (int w = 0; w < 10; ++w) {
      const uint64_t count = 1 + below(3);
      if (w > 0) line += ' ';
      for (uint64_t k = 0; k < count; ++k) {
        const uint64_t a = below(syllables.size()), b = below(syllables.size());
        line += syllables[std::min(a, b)];
      }
    }
    lines.push_back(line);
  }
  return lines;
}

Gguf train(BpeTrainer::Options options, const std::vector<std::string>& lines) {
  BpeTrainer trainer(std::move(options));
  for (const std::string& line : lines) trainer.add(line);
  return trainer.train();
}

}  // namespace

TEST_CASE("vocabulary, merges and ids are those of the tokenizers package") {
  std::ifstream in(project_path("tests/golden/bpe_train.json"));
  const nlohmann::json golden = nlohmann::json::parse(in);
  const std::vector<std::string> lines = made_lines();
  REQUIRE(lines[0] == golden.at("first_line").get<std::string>());
  const Gguf gguf = train({.size = 700, .least = 2, .pre = "gpt-2", .special = {"<s>", "</s>"}}, lines);
  const auto &tokens = gguf.array<std::string>("tokenizer.ggml.tokens"), &merges = gguf.array<std::string>("tokenizer.ggml.merges");
  CHECK(tokens == golden.at("tokens").get<std::vector<std::string>>());
  CHECK(merges == golden.at("merges").get<std::vector<std::string>>());
  CHECK(Tokenizer::from(gguf)->encode(golden.at("probe").get<std::string>()) == golden.at("ids").get<std::vector<int32_t>>());
}

TEST_CASE("a trained tokenizer takes any bytes apart and puts them together again") {
  const Gguf gguf = train({.size = 400, .least = 2, .pre = "gpt-2", .special = {"<pad>", "<s>", "</s>"}}, made_lines());
  const auto tokenizer = Tokenizer::from(gguf);
  CHECK(tokenizer->vocab().size() == 400);
  CHECK(tokenizer->vocab().bos == 0);
  CHECK(tokenizer->vocab().eos == 2);
  for (const std::string& text : {std::string("Gr\u00fc\u00dfe \u4e16\u754c"), std::string("\xff\x00\xfe broken", 10), std::string("  \n\t x"), std::string()})
    CHECK(tokenizer->decode(tokenizer->encode(text, {.add_special = false, .parse_special = false})) == text);
}

TEST_CASE("training ends when no pair is frequent enough; the same counts in another order give the same tokenizer") {
  const std::vector<std::string> text{"ab ab ab", "abc", "xy"}, reversed{"xy", "abc", "ab ab ab"};
  const Gguf a = train({.size = 1000, .least = 2, .pre = "gpt-2", .special = {}}, text), b = train({.size = 1000, .least = 2, .pre = "gpt-2", .special = {}}, reversed);
  // "ab" occurs four times, " ab" twice; all else once.
  CHECK(a.array<std::string>("tokenizer.ggml.merges") == std::vector<std::string>{"a b", "\u0120 ab"});
  CHECK(a.array<std::string>("tokenizer.ggml.tokens") == b.array<std::string>("tokenizer.ggml.tokens"));
}

TEST_CASE("impossible vocabularies are refused") {
  CHECK_THROWS_WITH_AS(BpeTrainer({.size = 257, .least = 2, .pre = "gpt-2", .special = {"<s>", "</s>"}}),
                       "bpe: a vocabulary of 257 tokens; bytes and special tokens alone are 258", Error);
  CHECK_THROWS_WITH_AS(BpeTrainer({.size = 300, .least = 2, .pre = "gpt-2", .special = {"<s>", "<s>"}}), "bpe: the special token '<s>' is there twice", Error);
  CHECK_THROWS_AS(BpeTrainer({.size = 300, .least = 2, .pre = "nonsense", .special = {}}), Error);
  CHECK_THROWS_AS(train({.size = 300, .least = 2, .pre = "gpt-2", .special = {"a"}}, {"b"}), Error);
}
