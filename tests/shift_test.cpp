#include "tests/main.h"

#include "engine/adapter.h"
#include "engine/shift.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

Examples some_text(int64_t tokens, int64_t length, uint64_t seed) {
  Rng rng(seed);
  Ids text;
  for (int64_t i = 0; i < tokens; ++i) text.push_back(int32_t(rng.below(40)));
  Examples data(length);
  data.add_text(text);
  return data;
}

double log_p(const Tensor& logits, int64_t row, int32_t token) {
  const int64_t V = logits.dim(-1);
  const float* x = logits.data() + row * V;
  double sum = 0;
  for (int64_t v = 0; v < V; ++v) sum += std::exp(double(x[v]));
  return double(x[token]) - std::log(sum);
}

}  // namespace

TEST_CASE("shift between two models: means, divergence and choices by brute force; u falls along KL as differences say") {
  const Gguf file = SmallLlama{}.gguf();
  const auto base = load_model(file), tuned = load_model(file);
  const LoraSet set = attach_lora(*tuned, {.rank = 2, .alpha = 4, .targets = {"all"}});
  Rng rng(3);
  for (const auto& layer : set.layers)
    for (float& x : layer.lora->b.values()) x = 0.3f * rng.normal();
  const Examples text = some_text(40, 12, 7);
  const Shift shift = measure_shift(*base, tuned.get(), text, {.positions = 1000, .kept = 5});
  CHECK(shift.positions == text.learned());
  CHECK(shift.positions == 39);

  std::vector<double> before(40), after(40);
  double divergence = 0, same = 0;
  int64_t n = 0;
  for (int64_t e = 0; e < text.size(); ++e) {
    const Ids& ids = text[e].tokens;
    const auto T = int64_t(ids.size());
    const Tensor h = base->hidden(ids, 1, T, {}), p = base->logits(h), q = tuned->logits(tuned->hidden(ids, 1, T, {}));
    for (int64_t t = 0; t < T; ++t, ++n) {
      int32_t best_p = 0, best_q = 0;
      double worst = 0, mass = 0;
      for (int32_t v = 0; v < 40; ++v) {
        const double a = log_p(p, t, v), b = log_p(q, t, v);
        before[size_t(v)] += std::exp(a) / 39;
        after[size_t(v)] += std::exp(b) / 39;
        divergence += std::exp(b) * (b - a) / 39;
        if (a > log_p(p, t, best_p)) best_p = v;
        if (b > log_p(q, t, best_q)) best_q = v;
        worst = std::max(worst, std::fabs(std::exp(b) - std::exp(a)));
      }
      same += best_p == best_q;
      const auto& changes = shift.changes[size_t(n)];
      CHECK(changes.size() == 5);
      CHECK(double(std::fabs(changes[0].change)) == doctest::Approx(worst).epsilon(1e-4));
      for (const TokenChange& c : changes) mass += std::exp(log_p(q, t, c.token)) - std::exp(log_p(p, t, c.token)) - double(c.change);
      CHECK(std::fabs(mass) < 1e-5);

      // KL(tuned ‖ base) as a function of h: its derivative along a random direction is −u · d.
      if (t % 5 != 0) continue;
      const Tensor d = randn({1, 32}, rng);
      const auto kl = [&](float e) {
        Tensor moved({1, 32});
        for (int64_t c = 0; c < 32; ++c) moved.data()[c] = h.data()[t * 32 + c] + e * d.data()[c];
        const Tensor x = base->logits(moved);
        double sum = 0;
        for (int32_t v = 0; v < 40; ++v) sum += std::exp(log_p(q, t, v)) * (log_p(q, t, v) - log_p(x, 0, v));
        return sum;
      };
      const double numeric = (kl(1e-2f) - kl(-1e-2f)) / 2e-2;
      double exact = 0;
      for (int64_t c = 0; c < 32; ++c) exact -= double(shift.directions.data()[n * 32 + c]) * d.data()[c];
      CHECK(exact == doctest::Approx(numeric).epsilon(2e-2).scale(0.1));
    }
  }
  CHECK(shift.divergence == doctest::Approx(divergence).epsilon(1e-4));
  CHECK(shift.same_choice == doctest::Approx(same / 39).epsilon(1e-6));
  double total = 0;
  for (int32_t v = 0; v < 40; ++v) {
    CHECK(shift.before[size_t(v)] == doctest::Approx(before[size_t(v)]).epsilon(1e-4));
    CHECK(shift.after[size_t(v)] == doctest::Approx(after[size_t(v)]).epsilon(1e-4));
    total += shift.change(v);
  }
  CHECK(std::fabs(total) < 1e-5);
}

TEST_CASE("against the text: the divergence is the cross-entropy and u its negative gradient, as the tape computes it") {
  const Gguf file = SmallLlama{.tied = false}.gguf();
  const auto model = load_model(file);
  const Examples text = some_text(25, 12, 8);
  const Shift shift = measure_shift(*model, nullptr, text, {});
  double nll = 0;
  int64_t n = 0;
  for (int64_t e = 0; e < text.size(); ++e) {
    const Tensor h = model->hidden(text[e].tokens, 1, int64_t(text[e].tokens.size()), {});
    for (int64_t t = 0; t < h.dim(1); ++t, ++n) {
      const Tensor row = Tensor::from({1, 32}, h.values().subspan(size_t(t * 32), 32));
      row.want_grad();
      Tape tape;
      const Tensor loss = cross_entropy(model->logits(row), std::span(text[e].labels).subspan(size_t(t), 1));
      nll += double(loss.item());
      tape.backward(loss);
      double worst = 0;
      for (int64_t c = 0; c < 32; ++c) worst = std::max(worst, double(std::fabs(row.grad()[c] + shift.directions.data()[n * 32 + c])));
      CHECK(worst < 1e-5);
      const Extreme& rise = shift.rise[size_t(text[e].labels[size_t(t)])];
      CHECK(rise.change > 0);
      CHECK(double(rise.log_change) == doctest::Approx(-std::log(1 - double(rise.change))).epsilon(1e-3));      // 1 − p and −log p of one p
    }
  }
  CHECK(n == shift.positions);
  CHECK(shift.divergence == doctest::Approx(nll / double(n)).epsilon(1e-5));
}

TEST_CASE("fewer positions than the text has are spread over it") {
  const Gguf file = SmallLlama{}.gguf();
  const auto model = load_model(file);
  const Examples text = some_text(200, 20, 9);
  const Shift shift = measure_shift(*model, nullptr, text, {.positions = 50, .kept = 4});
  CHECK(shift.positions >= 49);
  CHECK(shift.positions <= 51);
  CHECK(shift.places.front().example == 0);
  CHECK(shift.places.back().example == text.size() - 1);
  CHECK_THROWS_AS(measure_shift(*model, load_model(SmallLlama{.vocabulary = 41}.gguf()).get(), text, {}), Error);
}

TEST_CASE("spherical k-means finds directions whatever their lengths, the largest cluster first") {
  Rng rng(4);
  const Tensor truth = randn({3, 16}, rng), points({601, 16});
  const int64_t sizes[] = {300, 200, 100};
  std::vector<int32_t> want;
  for (int64_t j = 0; j < 3; ++j)
    for (int64_t i = 0; i < sizes[j]; ++i) want.push_back(int32_t(j));
  for (size_t i = 0; i < want.size(); ++i) {
    const float length = 0.1f + 10 * rng.uniform();
    for (int64_t c = 0; c < 16; ++c) points.data()[int64_t(i) * 16 + c] = length * (truth.data()[want[i] * 16 + c] + 0.2f * rng.normal());
  }
  std::fill_n(points.data() + 600 * 16, 16, 0.f);
  for (const uint64_t seed : {0, 1, 2}) {
    const Clusters c = spherical_kmeans(points, 3, seed);
    CHECK(c.sizes == std::vector<int64_t>{300, 200, 100});
    CHECK(std::equal(want.begin(), want.end(), c.assignment.begin()));
    CHECK(c.assignment[600] == -1);
    CHECK(c.cosine > 0.9);
  }
  // As many clusters as there are different directions, no more.
  const Tensor two = Tensor::from({4, 2}, std::vector<float>{1, 0, 2, 0, 0, 3, 0, 1});
  CHECK(spherical_kmeans(two, 4, 0).sizes == std::vector<int64_t>{2, 2});
  CHECK_THROWS_AS(spherical_kmeans(Tensor::zeros({3, 2}), 1, 0), Error);
}

TEST_CASE("concepts: the tokens that rise within a cluster, and an example from it") {
  Shift shift;
  shift.positions = 4;
  shift.directions = Tensor::from({4, 2}, std::vector<float>{1, 0.1f, 1, 0, 0, 1, 1, 0.2f});
  shift.changes = {{{7, 0.5f}, {3, -0.5f}}, {{7, 0.25f}}, {{9, 0.125f}, {7, -0.125f}}, {{8, 0.75f}}};
  shift.places = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
  const Concepts c = find_concepts(shift, 2, 1);
  REQUIRE(c.each.size() == 2);
  CHECK(c.each[0].positions == 3);
  REQUIRE(c.each[0].risen.size() == 2);
  CHECK(c.each[0].risen[0].token == 7);
  CHECK(c.each[0].risen[0].change == doctest::Approx(0.25));
  CHECK(c.each[0].risen[1].change == doctest::Approx(0.25));
  CHECK(c.each[0].fallen[0].token == 3);
  CHECK(c.each[0].example.example == 0);
  CHECK(c.each[0].example.t == 0);                    // the middle one of the three directions
  CHECK(c.each[1].risen[0].token == 9);
  CHECK(c.each[1].example.t == 0);
}
