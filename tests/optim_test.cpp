#include "tests/main.h"

#include "engine/data.h"
#include "engine/fingerprint.h"
#include "engine/optim.h"
#include "tensor/parallel.h"
#include "tests/check.h"

using namespace kvt;

TEST_CASE("AdamW takes the steps that PyTorch's takes") {
  // torch.optim.AdamW(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1) on these gradients, torch 2.13
  const std::vector<std::vector<float>> gradients = {{.1f, -.2f, .3f, 0}, {1, .5f, -.25f, 1e-3f}, {-2, 0, 4, 1e-3f}};
  const std::vector<std::vector<float>> want = {{0.8900000f, -1.8800000f, 0.3950000f, 0.0000000f},
                                                {0.8003912f, -1.9054215f, 0.3872378f, -0.0744126f},
                                                {0.8214726f, -1.9205507f, 0.3194998f, -0.1595137f}};
  AdamW adamw;
  adamw.weight_decay = 0.1f;
  const Tensor w = Tensor::from({4}, std::vector<float>{1, -2, .5f, 0});
  const auto moments = AdamW::moments(w.shape());
  for (size_t t = 0; t < gradients.size(); ++t) {
    std::copy_n(gradients[t].data(), 4, w.grad());
    adamw(w, moments, int64_t(t) + 1, 0.1f, true);
    for (size_t i = 0; i < 4; ++i) CHECK(w.data()[i] == doctest::Approx(want[t][i]).epsilon(2e-6));
  }
}

TEST_CASE("AdamW without decay: the first step is the learning rate, whatever the gradient's size") {
  const Tensor w = Tensor::from({2}, std::vector<float>{3, 3}), untouched = Tensor::filled({1}, 2.f);
  w.grad()[0] = 1e-4f;
  w.grad()[1] = -1e4f;
  const AdamW adamw;
  adamw(w, AdamW::moments({2}), 1, 0.5f, false);
  CHECK(w.data()[0] == doctest::Approx(2.5).epsilon(1e-3));
  CHECK(w.data()[1] == doctest::Approx(3.5).epsilon(1e-3));
  adamw(untouched, AdamW::moments({1}), 1, 0.5f, true);      // no gradient, no step
  CHECK(untouched.item() == 2.f);
  CHECK_THROWS_AS(adamw(w, AdamW::moments({3}), 1, 0.5f, false), Error);
}

TEST_CASE("schedules: warm-up rises to the peak, then constant, a line or half a cosine") {
  Schedule s{Schedule::Kind::constant, 2.f, 4, 12};
  CHECK(s(1) == 0.5f);
  CHECK(s(4) == 2.f);
  CHECK(s(12) == 2.f);
  s.kind = Schedule::Kind::linear;
  CHECK(s(5) == 2.f);
  CHECK(s(9) == doctest::Approx(1.0));
  CHECK(s(12) == doctest::Approx(0.25));
  s.kind = Schedule::Kind::cosine;
  CHECK(s(3) == 1.5f);
  CHECK(s(7) == doctest::Approx(1 + std::sqrt(0.5)));        // a quarter of the way: 2 (1 + cos π/4)/2
  CHECK(s(9) == doctest::Approx(1.0));
  CHECK_THROWS_AS(s(13), Error);
  CHECK_THROWS_WITH_AS(schedule_kind("cubic"), "schedule: no 'cubic', there are constant, linear and cosine", Error);
}

TEST_CASE("the gradient's norm is that of all tensors together, with the same bits for any number of threads") {
  Rng rng(3);
  const std::vector<Tensor> weights = {Tensor({100000}), Tensor({3}), Tensor({50000})};
  double want = 0;
  for (size_t i : {size_t(0), size_t(2)})
    for (int64_t j = 0; j < weights[i].size(); ++j) {
      weights[i].grad()[j] = rng.normal();
      want += double(weights[i].grad()[j]) * weights[i].grad()[j];
    }
  const double norm = gradient_norm(weights);
  CHECK(norm == doctest::Approx(std::sqrt(want)).epsilon(1e-12));
  for (int threads : {1, 3, 4}) {
    ThreadPool pool({.threads = threads});
    const ThreadPool::Use use(pool);
    CHECK(gradient_norm(weights) == norm);
  }
  const float first = weights[0].grad()[0];
  clip_gradients(weights, norm, norm + 1);
  CHECK(weights[0].grad()[0] == first);
  clip_gradients(weights, norm, 1);
  CHECK(gradient_norm(weights) == doctest::Approx(1).epsilon(1e-6));
  CHECK_FALSE(weights[1].has_grad());
}

TEST_CASE("text is cut into windows that predict every token but the first exactly once") {
  for (int n : {2, 9, 10, 11, 12, 31}) {
    Examples data(5);
    Ids text(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) text[size_t(i)] = 100 + i;
    data.add_text(text);
    CHECK(data.learned() == n - 1);
    int32_t next = 101;
    for (int64_t i = 0; i < data.size(); ++i) {
      const Example& e = data[i];
      REQUIRE(e.tokens.size() == e.labels.size());
      CHECK(e.tokens.size() <= 5);
      for (size_t t = 0; t < e.tokens.size(); ++t, ++next) {
        CHECK(e.labels[t] == next);
        CHECK(e.tokens[t] == next - 1);
      }
    }
    CHECK(next == 100 + n);
  }
}

TEST_CASE("pairs learn the completion and its end, and nothing of the prompt") {
  const int32_t none = ignored_label;
  Examples data(6);
  data.add_pair(Ids{1, 2, 3}, Ids{4, 5}, 9);
  CHECK(data[0].tokens == Ids{1, 2, 3, 4, 5});
  CHECK(data[0].labels == Ids{none, none, 4, 5, 9});
  data.add_pair(Ids{1, 2, 3}, Ids{4, 5, 6, 7, 8}, 9);        // cut to six tokens
  CHECK(data[1].tokens == Ids{1, 2, 3, 4, 5, 6});
  CHECK(data[1].labels == Ids{none, none, 4, 5, 6, 7});
  data.add_pair(Ids{1, 2, 3, 4, 5, 6, 7}, Ids{8}, 9);        // nothing left to learn
  CHECK(data.size() == 2);
  CHECK(data.truncated() == 2);
  CHECK(data.dropped() == 1);
  CHECK(data.learned() == 7);

  const Batch b = data.batch(std::vector<int64_t>{1, 0});
  CHECK(b.B == 2);
  CHECK(b.T == 6);
  CHECK(b.tokens == Ids{1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 0});
  CHECK(b.labels == Ids{none, none, 4, 5, 6, 7, none, none, 4, 5, 9, none});
  CHECK(b.learned == 7);
}

TEST_CASE("splitting keeps order and loses nothing") {
  Examples data(1);
  data.add_text(Ids{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
  const uint64_t whole = data.fingerprint();
  const Examples part = data.split(0.25);
  CHECK(data.size() == 7);
  CHECK(part.size() == 3);
  CHECK(part[0].tokens == Ids{7});
  CHECK(data.learned() + part.learned() == 10);
  CHECK(data.fingerprint() != whole);
  CHECK_THROWS_AS(data.split(1), Error);
}

TEST_CASE("every epoch visits every example once, in an order of its own, that a position restores") {
  BatchOrder order(10, 4, 7), again(10, 4, 7), other(10, 4, 8);
  CHECK(order.batches() == 3);
  std::vector<std::vector<int64_t>> epochs(3);
  for (auto& epoch : epochs) {
    for (int i = 0; i < 3; ++i) {
      const auto batch = order.next();
      CHECK(batch.size() == (i < 2 ? 4u : 2u));
      epoch.insert(epoch.end(), batch.begin(), batch.end());
    }
    auto sorted = epoch;
    std::sort(sorted.begin(), sorted.end());
    CHECK(sorted == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  }
  CHECK(epochs[0] != epochs[1]);
  CHECK(epochs[1] != epochs[2]);
  CHECK(other.next() != again.next());
  again.seek({1, 4});
  CHECK(again.next() == std::vector<int64_t>(epochs[1].begin() + 4, epochs[1].begin() + 8));
  CHECK_THROWS_AS(again.seek({0, 10}), Error);
}

TEST_CASE("hashes tell order, length and every byte apart") {
  const auto of = [](std::initializer_list<std::string_view> parts) {
    Hash64 hash;
    for (auto p : parts) hash.add(p);
    return hash.value();
  };
  CHECK(of({"ab", "c"}) == of({"ab", "c"}));
  CHECK(of({"ab", "c"}) != of({"a", "bc"}));
  CHECK(of({"a", "b"}) != of({"b", "a"}));
  CHECK(of({"0123456789abcdef"}) != of({"0123456789abcdeg"}));
  CHECK(of({std::string_view("\0", 1)}) != of({std::string_view("\0\0", 2)}));
  CHECK(hex(0x0123456789abcdef) == "0123456789abcdef");
}
