#include "tests/main.h"

#include "ops/quant.h"
#include "tests/check.h"

using namespace kvt;

static Ids some_targets(int64_t rows, int64_t vocabulary, Rng& rng) {
  Ids targets;
  for (int64_t r = 0; r < rows; ++r) targets.push_back(rng.below(4) == 0 ? ignored_label : int32_t(rng.below(uint64_t(vocabulary))));
  targets[0] = 0;
  targets.back() = int32_t(vocabulary) - 1;
  return targets;
}

// More rows than one chunk, not a multiple of it, some without target, under an upstream gradient other than 1.
TEST_CASE("linear_cross_entropy is cross_entropy of linear, in value and gradients") {
  Rng rng(1);
  for (int64_t rows : {3, 64, 150, 200}) {
    const int64_t C = 24, V = 77;
    const Ids targets = some_targets(rows, V, rng);
    const Tensor x = randn({1, rows, C}, rng), w = randn({V, C}, rng), x2 = x.clone(), w2 = w.clone();
    for (const Tensor& t : {x, w, x2, w2}) t.want_grad();
    Tape tape;
    const Tensor got = linear_cross_entropy(x, w, targets);
    tape.backward(scale(got, 3));
    const Tensor want = cross_entropy(linear(x2, w2), targets);
    tape.backward(scale(want, 3));
    CHECK(got.item() == doctest::Approx(want.item()).epsilon(1e-6));
    CHECK(max_relative_error({x.grad(), size_t(x.size())}, {x2.grad(), size_t(x2.size())}) < 1e-5);
    CHECK(max_relative_error({w.grad(), size_t(w.size())}, {w2.grad(), size_t(w2.size())}) < 1e-5);
  }
}

TEST_CASE("linear_cross_entropy: gradients by finite differences") {
  Rng rng(2);
  const Ids targets = some_targets(70, 11, rng);
  check_gradients("linear_cross_entropy", [&](const std::vector<Tensor>& in) { return linear_cross_entropy(in[0], in[1], targets); },
                  {randn({70, 8}, rng), randn({11, 8}, rng)}, rng);
}

TEST_CASE("linear_cross_entropy: quantized weights, frozen weights, rows without targets") {
  Rng rng(3);
  const Tensor x = randn({5, 32}, rng), w = randn({20, 32}, rng), q = pack(w, DType::Q8_0);
  const Ids targets = {1, ignored_label, 19, 0, ignored_label};
  x.want_grad();
  {
    Tape tape;
    tape.backward(linear_cross_entropy(x, q, targets));
  }
  const Tensor x2 = x.clone();
  x2.want_grad();
  {
    Tape tape;
    tape.backward(linear_cross_entropy(x2, unpack(q), targets));
  }
  CHECK(max_relative_error({x.grad(), 160}, {x2.grad(), 160}) < 1e-4);
  for (int64_t row : {1, 4})
    for (int64_t i = 0; i < 32; ++i) CHECK(x2.grad()[row * 32 + i] == 0.f);
  CHECK(linear_cross_entropy(x, w, Ids(5, ignored_label)).item() == 0.f);
  CHECK_THROWS_WITH_AS(linear_cross_entropy(x, w, Ids{0, 1, 20, 3, 4}), "linear_cross_entropy: target 20 of row 2 lies outside of 0 … 19", Error);
  CHECK_THROWS_AS(linear_cross_entropy(x, w, Ids{0, 1}), Error);
  CHECK_THROWS_AS(linear_cross_entropy(randn({5, 31}, rng), w, Ids(5, 0)), Error);
}
