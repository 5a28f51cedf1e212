#include "tests/main.h"

#include "engine/tokenizer.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "engine/unicode.h"
#include "tensor/random.h"
#include "tests/check.h"

using namespace kvt;

using Ids = std::vector<int32_t>;

namespace {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string unzip(const std::filesystem::path& path) {
  FILE* pipe = ::popen(("gzip -dc '" + path.string() + "'").c_str(), "r");
  REQUIRE(pipe);
  std::string bytes;
  char buffer[1 << 16];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) bytes.append(buffer, n);
  REQUIRE(::pclose(pipe) == 0);
  return bytes;
}

std::unique_ptr<Tokenizer> tiny(const std::string& name) { return Tokenizer::from(Gguf::open(project_path("tests/golden/tokenizer_" + name + ".gguf"))); }

// $KVT_SMOLLM2, else .cache/SmolLM2-135M-Instruct.Q4_1.gguf in the project.
std::unique_ptr<Tokenizer> smollm2() {
  const char* set = std::getenv("KVT_SMOLLM2");
  const std::string path = set ? set : project_path(".cache/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (std::filesystem::exists(path)) return Tokenizer::from(Gguf::open(path));
  MESSAGE("SKIPPED: no ", path, " (set KVT_SMOLLM2)");
  return nullptr;
}

std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  for (size_t at = 0, end; (end = text.find(separator, at)) != std::string::npos; at = end + separator.size()) parts.push_back(text.substr(at, end - at));
  return parts;
}

Ids numbers(const std::string& line) {
  std::istringstream in(line);
  return {std::istream_iterator<int32_t>(in), {}};
}

void check_goldens(const Tokenizer& t, const std::string& file, size_t at_least) {
  const auto cases = nlohmann::json::parse(read_file(project_path("tests/golden/" + file)));
  REQUIRE(cases.size() >= at_least);
  for (const auto& c : cases) {
    const std::string text = c["text"];
    INFO(file, ": '", text, "'");
    CHECK(t.encode(text, {.add_special = false}) == c["ids"].get<Ids>());
  }
}

// Random text of code points from many blocks, never a ▁, which SPM cannot tell from a space.
std::string random_text(Rng& rng, bool bytes) {
  static constexpr uint32_t blocks[][2] = {{0x20, 0x7E}, {0x20, 0x7E}, {0, 0x20}, {0xA0, 0x24F}, {0x300, 0x36F}, {0x400, 0x4FF}, {0x600, 0x6FF},
                                           {0x2000, 0x206F}, {0x3040, 0x30FF}, {0x4E00, 0x9FFF}, {0xAC00, 0xD7A3}, {0x1F300, 0x1F6FF}, {0xE0000, 0x10FFFF}};
  std::string text;
  for (uint64_t n = rng.below(60); n > 0; --n) {
    const auto& block = blocks[rng.below(std::size(blocks))];
    const uint32_t code = bytes ? unicode::invalid_byte + uint32_t(rng.below(256)) : block[0] + uint32_t(rng.below(block[1] - block[0] + 1));
    for (uint64_t times = rng.below(8) ? 1 : 1 + rng.below(6); times > 0; --times) unicode::append(text, code);
  }
  return text;
}

}  // namespace

TEST_CASE("real vocabularies give the published ids of all their cases") {
  for (const std::string name : {"llama-spm", "phi-3", "bert-bge", "gpt-2", "deepseek-coder", "deepseek-llm", "falcon", "starcoder", "refact", "mpt"}) {
    const auto base = data_path("tokenizer-vocabs-llamacpp") / ("ggml-vocab-" + name + ".gguf");
    if (!have_data(base.string() + ".gz")) continue;
    std::string bytes = unzip(base.string() + ".gz");
    const auto t = Tokenizer::from(Gguf::parse(Storage::borrow(bytes.data(), bytes.size(), false), name));
    const auto texts = split(read_file(base.string() + ".inp"), "\n__ggml_vocab_test__\n"), lines = split(read_file(base.string() + ".out"), "\n");
    REQUIRE(texts.size() == 46);
    REQUIRE(lines.size() == 46);
    for (size_t i = 0; i < texts.size(); ++i) {
      INFO(name, ", case ", i, ": '", texts[i], "'");
      const Ids ids = t->encode(texts[i], {.add_special = false});
      CHECK(ids == numbers(lines[i]));
      if (name != "bert-bge") CHECK(t->decode(ids) == texts[i]);
    }
  }
}

TEST_CASE("SmolLM2: prompts, a whole text, and the ids of an independent implementation") {
  const auto t = smollm2();
  if (!t) return;
  check_goldens(*t, "tokenizer_smollm2.json", 30);
  CHECK_FALSE(t->vocab().add_bos);
  CHECK(t->ends_generation(2));
  CHECK_FALSE(t->ends_generation(1));
  CHECK(t->piece(1).empty());
  CHECK(t->piece(1, true) == "<|im_start|>");

  if (have_data(data_path("lm-goldens-smollm2/goldens.json"))) {
    const auto goldens = nlohmann::json::parse(read_file(data_path("lm-goldens-smollm2/goldens.json")));
    for (const auto& golden : goldens) CHECK(t->encode(golden["prompt"].get<std::string>()) == golden["prompt_ids"].get<Ids>());
  }
  if (have_data(data_path("text-general/wikitext2_test.txt"))) {
    const std::string text = read_file(data_path("text-general/wikitext2_test.txt"));
    const Ids ids = t->encode(text);
    CHECK(ids.size() == 312144);
    CHECK(Ids(ids.begin(), ids.begin() + 10) == Ids{3717, 446, 6356, 2067, 5131, 46, 446, 3717, 3717, 6356});
    CHECK(t->decode(ids) == text);
  }
}

TEST_CASE("bytes without a token become U+FFFD, the whole character at once") {
  const auto t = smollm2();
  if (!t) return;
  CHECK(t->decode(t->encode("a\xC0 b\xFF")) == "a\uFFFD b\uFFFD");
  CHECK(t->decode(t->encode("\U00050000")) == "\uFFFD");      // its first byte, F1, has no token
}

TEST_CASE("a small WordPiece vocabulary gives the ids of an independent implementation") {
  const auto t = tiny("wordpiece");
  check_goldens(*t, "tokenizer_wordpiece.json", 30);
  const Ids ids = t->encode("The cat sat");
  CHECK(ids.front() == t->vocab().cls);
  CHECK(ids.back() == t->vocab().separator);
  CHECK(t->decode(ids) == "the cat sat");
}

TEST_CASE("any text comes back from its ids; for byte-level BPE and SPM any bytes do") {
  Rng rng(7);
  for (const char* name : {"bpe", "spm"}) {
    const auto t = tiny(name);
    for (int round = 0; round < 400; ++round) {
      const std::string text = random_text(rng, round % 2 == 0);
      const Ids ids = t->encode(text);
      CHECK(t->decode(ids) == text);
      for (const int32_t id : ids) CHECK((id >= 0 && id < t->vocab().size()));
    }
  }
}

TEST_CASE("pieces, one by one, are the text: streaming shows what decoding does") {
  for (const char* name : {"bpe", "spm"}) {
    const auto t = tiny(name);
    const std::string text = "The cat's 漢字 🚀\n ok";
    std::string streamed;
    for (const int32_t id : t->encode(text)) streamed += t->piece(id);
    CHECK(streamed == (t->vocab().add_space_prefix ? " " + text : text));
  }
}

TEST_CASE("special tokens: control only on request, user-defined always, the longest first") {
  const auto t = tiny("bpe");
  const int32_t tool = t->vocab().find("<tool>"), longer = t->vocab().find("<tool>x"), im_start = 1;
  const Tokenizer::Options parse{.add_special = false, .parse_special = true}, plain{.add_special = false, .parse_special = false};
  CHECK(t->encode("<|im_start|><tool>x<tool>", parse) == Ids{im_start, longer, tool});
  const Ids ids = t->encode("<|im_start|><tool>", plain);
  CHECK(std::count(ids.begin(), ids.end(), im_start) == 0);
  CHECK(ids.back() == tool);
  CHECK(t->decode(ids) == "<|im_start|><tool>");
  CHECK(t->decode(t->encode("<|im_start|>hi", parse)) == "hi");
  CHECK(t->decode(t->encode("<|im_start|>hi", parse), true) == "<|im_start|>hi");
  CHECK(t->encode("<|im_start", parse) == t->encode("<|im_start", plain));

  const auto spm = tiny("spm");
  const Ids letters = spm->encode("<s></s><unk><0x41>", plain);
  for (const int32_t control : {0, 1, 2, 3 + 0x41}) CHECK(std::count(letters.begin(), letters.end(), control) == 0);
  CHECK(spm->encode("<s>", parse) == Ids{1});
  CHECK(spm->decode(spm->encode("a<s>b", parse), true) == "a<s>b");
}

TEST_CASE("SPM begins a text with BOS and a space; without the key for BOS byte-level BPE begins with nothing") {
  const auto spm = tiny("spm"), bpe = tiny("bpe");
  const Ids cat = spm->encode("cat");
  CHECK(cat.front() == spm->vocab().bos);
  CHECK(spm->encode("cat", {.add_special = false}) == Ids(cat.begin() + 1, cat.end()));
  CHECK(spm->piece(cat[1]).front() == ' ');
  CHECK(spm->decode(cat) == "cat");
  CHECK(spm->encode("") == Ids{spm->vocab().bos});
  CHECK(bpe->encode("").empty());
  CHECK_THROWS_WITH_AS(bpe->piece(-1), doctest::Contains("token id -1 is outside of the vocabulary of "), Error);
  CHECK_THROWS_AS(bpe->decode({bpe->vocab().size()}), Error);
}

// Merging a megabyte of one letter must not be quadratic: at 10⁶ pairs that would be 10¹² steps, hours instead of a moment.
TEST_CASE("a megabyte of one letter, of spaces, of brackets") {
  for (const char* name : {"bpe", "spm", "wordpiece"})
    for (const char* unit : {"a", " ", "[", "<", "\n", "漢"}) {
      const auto t = tiny(name);
      std::string text;
      while (text.size() < (1u << 20)) text += unit;
      const Ids ids = t->encode(text);
      if (std::string(name) != "wordpiece") CHECK(t->decode(ids) == text);
    }
}

namespace {

using Strings = std::vector<std::string>;

// A byte-level vocabulary of five tokens that is in order until a test spoils one key.
Gguf small_bpe() {
  Gguf g;
  g.set("tokenizer.ggml.model", std::string("gpt2"));
  g.set("tokenizer.ggml.pre", std::string("gpt-2"));
  g.set("tokenizer.ggml.tokens", Strings{"a", "b", "ab", "<|x|>", ""});
  g.set("tokenizer.ggml.token_type", Ids{1, 1, 1, 3, 1});
  g.set("tokenizer.ggml.merges", Strings{"a b", "a b"});
  return g;
}

Gguf small_spm() {
  Gguf g;
  g.set("tokenizer.ggml.model", std::string("llama"));
  g.set("tokenizer.ggml.tokens", Strings{"<unk>", "<0x41>", "\u2581", "a", "\u2581a", "a"});
  g.set("tokenizer.ggml.scores", std::vector<float>{0, 0, -1, -2, -3, -1});
  g.set("tokenizer.ggml.token_type", Ids{2, 6, 1, 1, 1, 1});
  return g;
}

void check_refused(Gguf good, const std::string& key, Gguf::Value value, const char* message) {
  INFO(key);
  CHECK_NOTHROW(Tokenizer::from(good));
  good.set(key, std::move(value));
  CHECK_THROWS_WITH_AS(Tokenizer::from(good), doctest::Contains(message), Error);
}

}  // namespace

TEST_CASE("metadata that cannot be right is refused, naming the key and the value") {
  const Gguf bpe = small_bpe(), spm = small_spm();
  check_refused(bpe, "tokenizer.ggml.model", std::string("rwkv"), "unknown tokenizer.ggml.model = 'rwkv'; known are llama, gpt2, bert");
  check_refused(bpe, "tokenizer.ggml.pre", std::string("nonesuch"), "tokenizer.ggml.pre = 'nonesuch'; known are");
  check_refused(bpe, "tokenizer.ggml.tokens", Strings{}, "tokenizer.ggml.tokens has 0 tokens");
  check_refused(bpe, "tokenizer.ggml.token_type", Ids{1, 1}, "tokenizer.ggml.token_type has 2 items for 5 tokens");
  check_refused(bpe, "tokenizer.ggml.token_type", Ids{1, 1, 1, 7, 1}, "token 3 has type 7");
  check_refused(bpe, "tokenizer.ggml.eos_token_id", uint32_t(5), "tokenizer.ggml.eos_token_id = 5 is outside of the vocabulary of 5");
  check_refused(bpe, "tokenizer.ggml.bos_token_id", int32_t(-2), "tokenizer.ggml.bos_token_id = -2");
  check_refused(bpe, "tokenizer.ggml.add_bos_token", true, "there is no tokenizer.ggml.bos_token_id");
  check_refused(bpe, "tokenizer.ggml.merges", Strings{"ab"}, "item 0 'ab' is not two parts");
  check_refused(bpe, "tokenizer.ggml.merges", Strings{"a b", "ab c"}, "item 1 'ab c': 'c' is not a token");
  check_refused(bpe, "tokenizer.ggml.merges", Strings{"b a"}, "'ba' is not a token");
  check_refused(spm, "tokenizer.ggml.scores", std::vector<float>{0}, "tokenizer.ggml.scores has 1 items for 6 tokens");
  check_refused(spm, "tokenizer.ggml.scores", std::vector<float>{0, 0, NAN, 0, 0, 0}, "token 2 has nan");
  check_refused(spm, "tokenizer.ggml.token_type", Ids{2, 6, 6, 1, 1, 1}, "is a byte by its type");

  Gguf control = small_bpe();
  control.set("tokenizer.ggml.tokens", Strings{"<", "x", "<x", "y", ""});
  control.set("tokenizer.ggml.token_type", Ids{1, 1, 3, 1, 1});
  control.set("tokenizer.ggml.merges", Strings{"< x"});
  CHECK_THROWS_WITH_AS(Tokenizer::from(control), doctest::Contains("item 0 '< x' makes a control token"), Error);
  Gguf no_scores = small_bpe();
  no_scores.set("tokenizer.ggml.model", std::string("llama"));
  CHECK_THROWS_WITH_AS(Tokenizer::from(no_scores), doctest::Contains("tokenizer.ggml.scores is missing"), Error);
  no_scores.set("tokenizer.ggml.model", std::string("bert"));
  CHECK_THROWS_WITH_AS(Tokenizer::from(no_scores), doctest::Contains("tokenizer.ggml.unknown_token_id is missing"), Error);
}

TEST_CASE("odd but valid metadata: absent ids, doubles, empty tokens, missing bytes") {
  Gguf g = small_bpe();
  g.set("tokenizer.ggml.padding_token_id", uint32_t(UINT32_MAX));
  const auto bpe = Tokenizer::from(g);
  CHECK(bpe->vocab().padding == -1);
  CHECK(bpe->encode("abba") == Ids{2, 1, 0});
  CHECK(bpe->decode({4, 0}) == "a");
  CHECK_THROWS_WITH_AS(bpe->encode("c"), doctest::Contains("no tokens for the bytes of 'c'"), Error);

  const auto spm = Tokenizer::from(small_spm());
  CHECK(spm->encode("a") == Ids{4});
  CHECK(spm->encode("aA") == Ids{4, 1});                // A by its byte
  CHECK(spm->encode("ab") == Ids{4, 0});                // b has neither token nor byte: unknown
  CHECK(spm->encode("aa") == Ids{4, 3});                // of the two tokens "a", the first
}
