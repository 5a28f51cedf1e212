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
