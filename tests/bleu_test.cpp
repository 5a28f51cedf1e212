#include "tests/main.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/bleu.h"
#include "tests/check.h"

using namespace kvt;
using nlohmann::json;

namespace {

json goldens() {
  std::ifstream in(project_path("tests/golden/bleu.json"));
  return json::parse(in);
}

// The rules of tests/golden/make_bleu.py.
struct Lcg {
  uint64_t s;
  uint64_t below(uint64_t n) {
    s = s * 6364136223846793005u + 1442695040888963407u;
    return (s >> 33) % n;
  }
};

using Lines = std::vector<std::string>;

Lines split(const std::string& text, char at) {
  Lines parts(1);
  for (char c : text) {
    if (c == at) parts.emplace_back();
    else parts.back() += c;
  }
  return parts;
}

std::string join(const Lines& words) {
  std::string line;
  for (size_t i = 0; i < words.size(); ++i) line += (i ? " " : "") + words[i];
  return line;
}

Lines make(const std::string& rule, const Lines& lines, Lcg r) {
  Lines out;
  if (rule == "rotated") {
    const auto k = 1 + r.below(lines.size() - 1);
    for (size_t i = 0; i < lines.size(); ++i) out.push_back(lines[(i + k) % lines.size()]);
    return out;
  }
  for (const std::string& line : lines) {
    Lines words = split(line, ' '), kept;
    if (rule == "shuffled") {
      for (size_t i = words.size() - 1; i > 0; --i) std::swap(words[i], words[r.below(i + 1)]);
      kept = words;
    } else if (rule == "truncated") {
      words.resize(r.below(words.size() + 1));
      kept = words;
    } else {
      for (const std::string& w : words) {
        const auto kind = r.below(15);
        if (kind == 0) continue;
        kept.push_back(w);
        if (kind == 1) kept.push_back(w);
        if (kind == 2) {
          const Lines other = split(lines[r.below(lines.size())], ' ');
          kept.back() = other[r.below(other.size())];
        }
      }
    }
    out.push_back(join(kept));
  }
  return out;
}

}  // namespace

TEST_CASE("BLEU equals sacrebleu on newstest2014, shuffled, truncated, perturbed and rotated") {
  const std::filesystem::path folder = data_path("mt-wmt-newstest-en-de");
  if (!have_data(folder / "newstest2014.de")) return;
  const json golden = goldens();
  REQUIRE(golden.at("cases").size() > 50);
  for (const json& c : golden.at("cases")) {
    INFO(c.dump());
    std::ifstream in(folder / ("newstest2014." + c.at("language").get<std::string>()));
    Lines references;
    for (std::string line; int64_t(references.size()) < c.at("lines").get<int64_t>() && std::getline(in, line);) references.push_back(line);
    BleuOptions options;
    options.smoothing = bleu_smoothing(c.at("smooth"));
    if (!c.at("value").is_null()) options.value = c.at("value").get<double>();
    options.effective_order = c.at("effective");
    const BleuScore s = bleu(make(c.at("case"), references, {c.at("seed").get<uint64_t>()}), references, options);
    CHECK(s.score == doctest::Approx(c.at("score").get<double>()).epsilon(1e-9));
    for (size_t n = 0; n < 4; ++n) CHECK(s.precisions[n] == doctest::Approx(c.at("precisions")[n].get<double>()).epsilon(1e-9));
    CHECK(s.brevity_penalty == doctest::Approx(c.at("bp").get<double>()).epsilon(1e-9));
    CHECK(s.hypothesis_length == c.at("hypothesis_length").get<int64_t>());
    CHECK(s.reference_length == c.at("reference_length").get<int64_t>());
    const std::string signature = c.at("signature"), version = golden.at("sacrebleu");
    CHECK(bleu_signature(options, version) == signature);
    CHECK("BLEU = " + s.text() == c.at("text").get<std::string>());
  }
}

TEST_CASE("words of mteval-v13a") {
  const json golden = goldens();
  REQUIRE(golden.at("tokens").size() >= 20);
  for (const json& c : golden.at("tokens")) {
    INFO(c.dump());
    CHECK(tokenize_13a(c[0].get<std::string>()) == c[1].get<Lines>());
  }
}

TEST_CASE("BLEU by hand: two of three words, one of two pairs") {
  // p = 3/4, 2/3, 1/2 and, for the order without a match, 1/(2 · 1)
  const BleuScore s = bleu(Lines{"a b c x"}, Lines{"a b c d"});
  CHECK(s.score == doctest::Approx(100 * std::pow(0.75 * 2 / 3 * 0.5 * 0.5, 0.25)));
  CHECK(bleu(Lines{"a b"}, Lines{"a b c d"}).brevity_penalty == doctest::Approx(std::exp(-1.0)));
  CHECK(bleu(Lines{"a a a a"}, Lines{"a b c d"}).matched[0] == 1);       // clipped
  CHECK(bleu(Lines{""}, Lines{"a"}).score == 0);
}

TEST_CASE("BLEU and F1 refuse what cannot be scored") {
  CHECK_THROWS_WITH_AS(bleu(Lines{"a"}, Lines{"a", "b"}), "bleu: 1 hypotheses for 2 references", std::exception);
  CHECK_THROWS_WITH_AS(bleu(Lines{}, Lines{}), "bleu: no lines", std::exception);
  CHECK_THROWS_WITH_AS(bleu_smoothing("linear"), "bleu: smoothing 'linear' is not known; known: none, floor, add-k, exp", std::exception);
  BleuOptions negative;
  negative.value = -1;
  CHECK_THROWS_AS(bleu(Lines{"a"}, Lines{"a"}, negative), std::exception);
  CHECK_THROWS_AS(f1(std::vector<int32_t>{0}, std::vector<int32_t>{3}, 3), std::exception);
  CHECK_THROWS_AS(f1(std::vector<int32_t>{}, std::vector<int32_t>{}, 3), std::exception);
}

TEST_CASE("F1 of classes, macro and micro") {
  // class 0: 1 hit, 2 predicted, 1 actual: 2/3;  class 1: 1 hit, 1 predicted, 3 actual: 1/2;  class 2: 0 of 1;  class 3 does not occur
  const F1 s = f1(std::vector<int32_t>{0, 0, 1, 2}, std::vector<int32_t>{0, 1, 1, 1}, 4);
  CHECK(s.classes[0] == doctest::Approx(2.0 / 3));
  CHECK(s.classes[1] == doctest::Approx(0.5));
  CHECK(s.classes[2] == 0);
  CHECK(s.macro == doctest::Approx((2.0 / 3 + 0.5) / 3));
  CHECK(s.micro == doctest::Approx(0.5));
}
