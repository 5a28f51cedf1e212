#include "tests/main.h"

#include <unistd.h>

#include <fstream>

#include "engine/load.h"
#include "engine/metrics.h"
#include "engine/train.h"
#include "ops/quant.h"
#include "tests/check.h"
#include "tools/demo_text.h"

using namespace kvt;

namespace {

struct TextFile {
  std::string path;
  explicit TextFile(const std::string& text) : path((std::filesystem::temp_directory_path() / ("kvt-demo-" + std::to_string(getpid()) + ".txt")).string()) {
    std::ofstream(path) << text;
  }
  ~TextFile() { std::filesystem::remove(path); }
};

std::string text_at(const Paragraph& p, Paragraph::Span span) { return p.text.substr(span.first, span.second - span.first); }

struct Tiny {
  Gguf file = Gguf::open(project_path("tools/demo/tiny.gguf"));
  std::unique_ptr<CausalLm> model = load_model(file);
  std::unique_ptr<Tokenizer> tokenizer = Tokenizer::from(file);
};

}  // namespace

TEST_CASE("held-out paragraphs: brackets mark key words and leave the text") {
  const TextFile file("One [two] three.\nStill the [first]!\n\n\nIt is ümlaut-[last]\n");
  const auto paragraphs = read_paragraphs(file.path);
  REQUIRE(paragraphs.size() == 2);
  CHECK(paragraphs[0].text == "One two three.\nStill the first!");
  REQUIRE(paragraphs[0].keys.size() == 2);
  CHECK(text_at(paragraphs[0], paragraphs[0].keys[0]) == "two");
  CHECK(text_at(paragraphs[0], paragraphs[0].keys[1]) == "first");
  REQUIRE(paragraphs[1].words.size() == 4);
  CHECK(text_at(paragraphs[1], paragraphs[1].words[2]) == "ümlaut");
  CHECK(text_at(paragraphs[1], paragraphs[1].words[3]) == "last");
  CHECK(sentence_before(paragraphs[0], 1, 80) == "Still the [first]");
  CHECK(sentence_before(paragraphs[0], 1, 13) == "… the [first]");
}

TEST_CASE("held-out paragraphs: mistakes are named") {
  for (const char* text : {"a [b", "a b] c", "a [b [c]", "no key words"}) {
    CAPTURE(text);
    const TextFile file(text);
    CHECK_THROWS_WITH_AS(read_paragraphs(file.path), doctest::Contains(file.path.c_str()), Error);
  }
}

TEST_CASE("answers end with their last sentence, lines with their last word") {
  CHECK(whole_sentences(" eel skin. The bellows. They are") == "eel skin. The bellows.");
  CHECK(whole_sentences("\n\nHe said: \"No.\" And then") == "He said: \"No.\"");
  CHECK(whole_sentences("one line.\nanother line.") == "one line.");
  CHECK(whole_sentences(" without an end") == "without an end…");
  CHECK(whole_sentences("") == "…");
  const auto lines = wrapped("ein größeres Wörterbuch  und mehr", 11);
  CHECK(lines == std::vector<std::string>{"ein", "größeres", "Wörterbuch", "und mehr"});
  CHECK(padded("über", 6) == "über  ");
}

TEST_CASE("the loss of a text is that of training; the words' losses are parts of it") {
  const Tiny tiny;
  const auto paragraphs = read_paragraphs(project_path("tools/demo/tiny_heldout.txt"));
  const Score s = score(*tiny.model, *tiny.tokenizer, paragraphs);
  double nll = 0;
  int64_t labels = 0;
  for (const Paragraph& p : paragraphs) {
    Examples data(512);
    data.add_text(tiny.tokenizer->encode(p.text));
    nll += evaluate(*tiny.model, data, 1) * double(data.learned());
    labels += data.learned();
  }
  CHECK(s.predictions == labels);
  CHECK(s.nll == doctest::Approx(nll).epsilon(1e-4));

  // A key word's probability, step by step: the product over its tokens, which follow the text before it.
  const Paragraph& p = paragraphs[0];
  const std::string before = p.text.substr(0, p.keys[0].first - 1);       // without the space, which begins the word's first token
  const auto prefix = tiny.tokenizer->encode(before), whole = tiny.tokenizer->encode(p.text.substr(0, p.keys[0].second));
  REQUIRE(std::equal(prefix.begin(), prefix.end(), whole.begin()));
  const Activations usual = activations();
  set_activations(Activations::f32);       // a single row would take 8-bit ones, a paragraph does not
  const Score exact = score(*tiny.model, *tiny.tokenizer, paragraphs);
  double key = 0;
  for (size_t n = prefix.size(); n < whole.size(); ++n) key += token_losses(*tiny.model, std::span(whole).first(n + 1), int64_t(n)).front();
  set_activations(usual);
  CHECK(exact.keys[0] == doctest::Approx(key).epsilon(1e-4));

  double words = 0;
  for (const double x : s.words) words += x;
  CHECK(words < s.nll);
  CHECK(s.words.size() > s.keys.size());
}

TEST_CASE("the demonstration model writes its stories: a text of its grammar costs far less than a foreign one") {
  const Tiny tiny;
  CHECK(tiny.file.tensors().size() > 0);
  CHECK(std::filesystem::file_size(project_path("tools/demo/tiny.gguf")) < (1 << 20));
  const auto mean = [&](const char* text) {
    const auto losses = token_losses(*tiny.model, tiny.tokenizer->encode(text));
    double sum = 0;
    for (const double x : losses) sum += x;
    return sum / double(losses.size());
  };
  CHECK(mean("Once there was a shy fox called Mira. She lived in the forest. Mira was afraid of dogs.") < 1.2);
  CHECK(mean("Quarterly revenue exceeded expectations despite persistent inflation.") > 4);
}
