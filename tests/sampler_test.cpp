#include "tests/main.h"

#include <cmath>
#include <map>

#include "engine/generate.h"

using namespace kvt;

static const std::vector<float> scores = {1.f, 3.f, 2.f, 3.f, -1.f};

static std::map<int32_t, double> frequencies(SamplerOptions options, const std::vector<float>& logits, const std::vector<int32_t>& recent = {}) {
  Sampler sampler(options);
  std::map<int32_t, double> f;
  for (int i = 0; i < 20000; ++i) f[sampler(logits, recent)] += 1 / 20000.0;
  return f;
}

TEST_CASE("greedy takes the highest score, the lower id of two") {
  Sampler greedy({.temperature = 0});
  CHECK(greedy(scores, {}) == 1);
  CHECK(greedy(std::vector<float>{-INFINITY, NAN, -5.f}, {}) == 2);
  CHECK_THROWS_WITH_AS(greedy(std::vector<float>{NAN, INFINITY}, {}), "sampler: none of 2 scores is finite", Error);
}

TEST_CASE("unfiltered sampling follows the softmax at its temperature") {
  for (const float temperature : {0.5f, 1.f, 2.f}) {
    double total = 0;
    for (const float s : scores) total += std::exp(double(s) / temperature);
    auto f = frequencies({.temperature = temperature, .top_k = 0, .top_p = 1, .min_p = 0}, scores);
    for (int32_t i = 0; i < int32_t(scores.size()); ++i)
      CHECK(f[i] == doctest::Approx(std::exp(double(scores[size_t(i)]) / temperature) / total).epsilon(0.1).scale(0.1));
  }
}

TEST_CASE("top-k, top-p and min-p keep what they say") {
  const SamplerOptions all{.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0};
  SamplerOptions o = all;
  o.top_k = 2;
  CHECK(frequencies(o, scores).size() == 2);
  o = all;
  o.top_p = 0.5f;         // the two best hold 0.397 each
  CHECK(frequencies(o, scores).size() == 2);
  o.top_p = 0.39f;
  CHECK(frequencies(o, scores).size() == 1);
  o = all;
  o.min_p = 0.3f;         // e^(2 − 3) = 0.37 stays, e^(1 − 3) = 0.14 goes
  auto f = frequencies(o, scores);
  CHECK(f.size() == 3);
  CHECK(f.count(2) == 1);
}

TEST_CASE("the repetition penalty reaches recent tokens, and only those") {
  SamplerOptions o{.temperature = 0, .repeat_penalty = 2.f, .repeat_last = 2};
  Sampler s(o);
  CHECK(s(scores, std::vector<int32_t>{1, 3}) == 2);
  CHECK(s(scores, std::vector<int32_t>{1, 0, 0}) == 1);
  CHECK(s(std::vector<float>{-1.f, -1.5f}, std::vector<int32_t>{0}) == 1);
}

TEST_CASE("the same seed draws the same tokens; options out of range are refused") {
  Sampler a({.seed = 5}), b({.seed = 5}), c({.seed = 6});
  bool differs = false;
  for (int i = 0; i < 100; ++i) {
    const int32_t x = a(scores, {});
    CHECK(x == b(scores, {}));
    differs |= x != c(scores, {});
  }
  CHECK(differs);
  CHECK_THROWS_AS(Sampler({.temperature = -1}), Error);
  CHECK_THROWS_AS(Sampler({.top_k = -1}), Error);
  CHECK_THROWS_AS(Sampler({.top_p = 0}), Error);
  CHECK_THROWS_AS(Sampler({.min_p = 1}), Error);
  CHECK_THROWS_AS(Sampler({.repeat_penalty = 0}), Error);
}

TEST_CASE("a stream shows whole characters only, and nothing is lost") {
  const std::string text = "aé€🦙z";
  Utf8Stream stream;
  std::string seen;
  for (const char c : text) {
    const std::string now = stream.push({&c, 1});
    CHECK((now.empty() || (static_cast<unsigned char>(now[0]) & 0xC0) != 0x80));
    seen += now;
  }
  CHECK(seen == text);
  CHECK(stream.push("\xF0\x9F").empty());
  CHECK(stream.finish() == "\xF0\x9F");
  CHECK(stream.push("\xFF\x80\x80\x80\x80").size() == 5);     // not UTF-8: nothing to wait for
}
