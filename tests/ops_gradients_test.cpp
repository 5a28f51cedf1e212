// The gradient of every operation against central differences, over shapes that reach each of its branches.
#include "tests/main.h"

#include <array>

#include "ops/loops.h"
#include "ops/low_rank.h"
#include "ops/quant.h"
#include "tests/check.h"

using namespace kvt;
using Tensors = std::vector<Tensor>;

namespace {

struct Case {
  std::string name;
  TensorFn f;
  std::vector<Shape> shapes;
};

void check_all(const std::vector<Case>& cases) {
  Rng rng(7);
  for (const Case& c : cases) {
    Tensors xs;
    for (const Shape& s : c.shapes) xs.push_back(randn(s, rng));
    check_gradients(c.name, c.f, xs, rng);
  }
}

Ids iota(int64_t n, int32_t first = 0) {
  Ids ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(first + int32_t(i));
  return ids;
}

}  // namespace

TEST_CASE("gradients: number by number, with every way to repeat") {
  using Binary = Tensor (*)(const Tensor&, const Tensor&);
  std::vector<Case> cases;
  for (const auto& [name, op] : std::vector<std::pair<std::string, Binary>>{{"add", add}, {"sub", sub}, {"mul", mul}})
    for (const auto& [a, b] : std::vector<std::pair<Shape, Shape>>{
             {{7}, {7}}, {{3, 4}, {4}}, {{2, 3, 5}, {3, 5}}, {{2, 3}, {1}}, {{2, 3, 1}, {3, 1}}, {{600, 3}, {3}}, {{1, 5}, {5}}, {{70, 300}, {300}}})
      cases.push_back({name, [op = op](const Tensors& x) { return op(x[0], x[1]); }, {a, b}});
  cases.push_back({"x * x", [](const Tensors& x) { return x[0] * x[0]; }, {{5, 2}}});
  cases.push_back({"x + x", [](const Tensors& x) { return x[0] + x[0]; }, {{5, 2}}});
  cases.push_back({"scale", [](const Tensors& x) { return scale(x[0], -1.7f); }, {{3, 7}}});
  cases.push_back({"bias", [](const Tensors& x) { return bias(x[0], x[1]); }, {{3, 4, 7}, {7}}});
  cases.push_back({"dropout", [](const Tensors& x) { Rng same(3); return dropout(x[0], 0.4f, same); }, {{5, 40}}});
  check_all(cases);
}

TEST_CASE("gradients: activations") {
  using Unary = Tensor (*)(const Tensor&);
  std::vector<Case> cases;
  for (const auto& [name, op] : std::vector<std::pair<std::string, Unary>>{
           {"silu", silu}, {"gelu", gelu}, {"gelu_tanh", gelu_tanh}, {"sigmoid", sigmoid}, {"tanh", kvt::tanh}})
    for (const Shape& s : {Shape{1}, Shape{3, 7}, Shape{2, 2100}}) cases.push_back({name, [op = op](const Tensors& x) { return op(x[0]); }, {s}});
  cases.push_back({"swiglu", [](const Tensors& x) { return swiglu(x[0], x[1]); }, {{3, 37}, {3, 37}}});
  check_all(cases);

  Rng rng(1);
  const Tensor x = randn({4, 9}, rng), frozen = randn({4, 9}, rng);
  for (float& v : x.values()) v += v > 0 ? 0.1f : -0.1f;                // away from the kink
  check_gradients("relu", [](const Tensors& t) { return relu(t[0]); }, {x}, rng, 1e-2, 1e-2f);
  check_gradients("swiglu, up alone", [&](const Tensors& t) { return swiglu(frozen, t[0]); }, {randn({4, 9}, rng)}, rng);
  check_gradients("swiglu, gate alone", [&](const Tensors& t) { return swiglu(t[0], frozen); }, {randn({4, 9}, rng)}, rng);
  CHECK_FALSE(frozen.has_grad());
}

TEST_CASE("gradients: over the last axis") {
  std::vector<Case> cases;
  for (const Shape& s : {Shape{5}, Shape{3, 7}, Shape{2, 3, 33}, Shape{300, 4}}) {
    const Shape w{s[-1]};
    cases.push_back({"softmax", [](const Tensors& x) { return softmax(x[0]); }, {s}});
    cases.push_back({"log_softmax", [](const Tensors& x) { return log_softmax(x[0]); }, {s}});
    cases.push_back({"rms_norm", [](const Tensors& x) { return rms_norm(x[0], x[1], 1e-5f); }, {s, w}});
    cases.push_back({"layer_norm", [](const Tensors& x) { return layer_norm(x[0], x[1], x[2], 1e-5f); }, {s, w, w}});
    cases.push_back({"layer_norm without b", [](const Tensors& x) { return layer_norm(x[0], x[1], {}, 1e-5f); }, {s, w}});
    cases.push_back({"layer_norm bare", [](const Tensors& x) { return layer_norm(x[0], {}, {}, 1e-5f); }, {s}});
    cases.push_back({"cross_entropy", [](const Tensors& x) {
      Ids targets;
      for (int64_t r = 0; r < x[0].size() / x[0].dim(-1); ++r) targets.push_back(r % 3 == 1 ? ignored_label : int32_t(r % x[0].dim(-1)));
      return cross_entropy(x[0], targets);
    }, {s}});
  }
  check_all(cases);

  Rng rng(2);
  const Tensor w = randn({9}, rng), b = randn({9}, rng), x = randn({70, 9}, rng);
  check_gradients("rms_norm, x alone", [&](const Tensors& t) { return rms_norm(t[0], w, 1e-5f); }, {x.clone()}, rng);
  check_gradients("rms_norm, w alone", [&](const Tensors& t) { return rms_norm(x, t[0], 1e-5f); }, {w.clone()}, rng);
  check_gradients("layer_norm, b alone", [&](const Tensors& t) { return layer_norm(x, w, t[0], 1e-5f); }, {b.clone()}, rng);
  CHECK_FALSE(x.has_grad());
  CHECK_FALSE(w.has_grad());
}

TEST_CASE("gradients: sums") {
  std::vector<Case> cases = {{"sum", [](const Tensors& x) { return sum(x[0]); }, {{3, 5}}}, {"mean", [](const Tensors& x) { return mean(x[0]); }, {{3, 5}}}};
  for (int axis : {0, 1, 2, -1}) {
    cases.push_back({"sum over an axis", [axis](const Tensors& x) { return sum(x[0], axis); }, {{3, 4, 5}}});
    cases.push_back({"mean over an axis", [axis](const Tensors& x) { return mean(x[0], axis); }, {{3, 4, 5}}});
  }
  check_all(cases);
}

TEST_CASE("add_low_rank: in place what products of matrices give, with a core for some rows each or without") {
  for (const auto& [T, r, q] : {std::array<int64_t, 3>{1, 3, 3}, {1, 20, 20}, {6, 4, 5}, {7, 8, 8}, {40, 3, 2}, {40, 20, 20}, {12, 24, 17}})
    for (const int64_t each : {int64_t(0), int64_t(1), T}) {
      if (each == 0 && q != r) continue;
      Rng rng(uint64_t(20 + T));
      const Tensor x = randn({T, 37}, rng), y = randn({T, 21}, rng), a = randn({r, 37}, rng), f = randn({q, 21}, rng);
      const int64_t units = 6, lanes = round_up(q, core_lanes);
      const Tensor w = randn({units, r, lanes}, rng), phi = randn({pieces(T, 4), units, 4}, rng), h = linear(x, a), z = y.clone();
      Tensor g = h;
      if (each > 0) {
        g = Tensor::zeros({T, q});
        for (int64_t t = 0; t < T; ++t)
          for (int64_t i = 0; i < q; ++i)
            for (int64_t j = 0, n = t / each; j < r; ++j)
              for (int64_t u = 0; u < units; ++u) g.data()[t * q + i] += phi.data()[(n / 4 * units + u) * 4 + n % 4] * w.data()[(u * r + j) * lanes + i] * h.data()[t * r + j];
      }
      add_low_rank(z, x, {a, f, {each > 0 ? &w : nullptr, phi.data(), each}});
      CHECK(max_relative_error(z.values(), (y + matmul(g, f)).values()) < 1e-5);

      // The same in F16, of factors that would not fit it as they are
      LowRankFactors half = low_rank_factors(scale(a, 1e6f), scale(permute(f, {1, 0}), 1e-9f));
      CHECK(half.a.dtype() == DType::F16);
      const Tensor z16 = y.clone();
      if (each > 0) add_core_weights(half, w);
      add_low_rank(z16, x, {half.a, half.f, {each > 0 ? &half.w : nullptr, phi.data(), each}, 1e3f * half.scale});
      CHECK(max_relative_error(z16.values(), z.values()) < 2e-3);
    }
  const LowRankFactors tiny = low_rank_factors(Tensor::filled({2, 9}, 1e-42f), Tensor::filled({9, 2}, 1.f));      // subnormal
  for (const float v : unpack(tiny.a).values()) CHECK(std::isfinite(v));
  const Tensor a = Tensor::zeros({3, 9}), f = Tensor::zeros({4, 9}), x = Tensor::zeros({1, 9});
  CHECK_THROWS_WITH_AS(add_low_rank(x, x, {a, f}), "add_low_rank: factors [3, 9] and [4, 9] do not take rows of 9 numbers to rows of 9", Error);
}

TEST_CASE("gradients: add_linear, in the place of a result that no other step reads") {
  for (const int64_t T : {1, 3, 40}) {
    Rng rng(uint64_t(40 + T));
    const Tensors xs = {randn({T, 5}, rng), randn({9, 5}, rng), randn({T, 3}, rng), randn({9, 3}, rng)};
    const Tensor y = linear(xs[0], xs[1]), z = add_linear(y, xs[2], xs[3]);
    CHECK(z.data() == y.data());
    CHECK(max_relative_error(z.values(), (linear(xs[0], xs[1]) + linear(xs[2], xs[3])).values()) < 1e-6);
    check_gradients("add_linear", [](const Tensors& x) { return add_linear(linear(x[0], x[1]), x[2], x[3]); }, xs, rng);
  }
  Rng rng(41);
  const Tensor y = Tensor::zeros({2, 9}), h = randn({2, 3}, rng), w = Tensor::zeros({9, 3}).want_grad();      // of a y without gradient
  Tape tape;
  tape.backward(sum(add_linear(y, h, w)));
  for (int64_t i = 0; i < 3; ++i) CHECK(w.grad()[i] == doctest::Approx(h.data()[i] + h.data()[3 + i]));
  CHECK_THROWS_WITH_AS(add_linear(Tensor::zeros({2, 9}), Tensor::zeros({2, 3}), Tensor::zeros({9, 4})), "add_linear: [2, 3] and [9, 4] do not fit [2, 9]", Error);
}

TEST_CASE("gradients: a sum hands its gradient on, also when both sides are one tensor or meet again") {
  Rng rng(50);
  check_gradients("x + x", [](const Tensors& x) { return x[0] + x[0]; }, {randn({3, 4}, rng)}, rng);
  check_gradients("diamond", [](const Tensors& x) {
    const Tensor a = x[0] + x[1], b = silu(a);
    return (a + b) * (b + x[0]);
  }, {randn({3, 4}, rng), randn({3, 4}, rng)}, rng);
}

TEST_CASE("gradients: matmul in every transposition, batched, and with one B for all") {
  std::vector<Case> cases;
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      const Shape b = tb ? Shape{5, 4} : Shape{4, 5};
      const auto f = [=](const Tensors& x) { return matmul(x[0], x[1], ta, tb); };
      const auto with = [&](Shape lead, const Shape& m) { for (int64_t d : m) lead.push_back(d); return lead; };
      const Shape a = ta ? Shape{4, 3} : Shape{3, 4};
      const std::string name = std::string("matmul") + (ta ? " Aᵀ" : " A") + (tb ? " Bᵀ" : " B");
      cases.push_back({name, f, {a, b}});
      cases.push_back({name + " batched", f, {with({2, 3}, a), with({2, 3}, b)}});
      cases.push_back({name + " one B", f, {with({2, 3}, a), b}});
      cases.push_back({name + " large", f, {ta ? Shape{37, 140} : Shape{140, 37}, tb ? Shape{133, 37} : Shape{37, 133}}});
    }
  check_all(cases);
}

TEST_CASE("gradients: linear, with few rows and many") {
  std::vector<Case> cases;
  for (const Shape& x : {Shape{7}, Shape{3, 7}, Shape{2, 9, 7}, Shape{150, 7}}) {
    cases.push_back({"linear", [](const Tensors& t) { return linear(t[0], t[1]); }, {x, {5, 7}}});
    cases.push_back({"linear with bias", [](const Tensors& t) { return linear(t[0], t[1], t[2]); }, {x, {5, 7}, {5}}});
  }
  check_all(cases);
}

TEST_CASE("gradients: linear to x through weights of every type, and to W in half precision") {
  Rng rng(3);
  set_activations(Activations::f32);                                    // differences without a tape would round x to 8 bits
  for (const DType type : {DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q4_K, DType::Q6_K})
    for (const int64_t T : {2, 40, 300}) {
      const int64_t K = 512, N = 270;
      const Tensor w = pack(randn({N, K}, rng, 0.1f), type);
      check_gradients(std::string("linear ") + info(type).name, [&](const Tensors& t) { return linear(t[0], w); }, {randn({T, K}, rng)}, rng);
    }
  set_activations(Activations::q8);
  for (const DType type : {DType::F16, DType::BF16}) {                  // d W = dyᵀ x, F32 whatever W is
    const Tensor full = randn({6, 10}, rng), half = pack(full, type), x = randn({5, 10}, rng), u = randn({5, 6}, rng);
    half.want_grad(), full.want_grad();
    Tape tape;
    tape.backward(sum(linear(x, full) * u) + sum(linear(x, half) * u));
    CHECK(max_relative_error({half.grad(), 60}, {full.grad(), 60}) == 0);
    CHECK_FALSE(x.has_grad());
  }
}

TEST_CASE("gradients: embedding, patches, rope") {
  std::vector<Case> cases;
  cases.push_back({"embedding", [](const Tensors& x) { return embedding(Ids{3, 0, 3, 1, 3, 5}, {2, 3}, x[0]); }, {{6, 4}}});
  cases.push_back({"patch_embedding", [](const Tensors& x) { return patch_embedding(x[0], x[1], x[2], 3); }, {{2, 2, 6, 9}, {5, 18}, {5}}});
  cases.push_back({"patch_embedding 4", [](const Tensors& x) { return patch_embedding(x[0], x[1], {}, 2); }, {{1, 3, 4, 4}, {5, 3, 2, 2}}});
  for (const auto pairing : {RopeOptions::interleaved, RopeOptions::halves})
    for (const int64_t dims : {0, 4}) {
      RopeOptions o;
      o.pairing = pairing, o.dims = dims, o.base = 100;
      if (dims) o.factors = Tensor::from({2}, std::vector<float>{1, 4});
      cases.push_back({"rope, positions shared", [o](const Tensors& x) { return rope(x[0], iota(5, 3), o); }, {{2, 5, 3, 6}}});
      cases.push_back({"rope, positions of each row", [o](const Tensors& x) { return rope(x[0], iota(10), o); }, {{2, 5, 1, 6}}});
    }
  check_all(cases);
}

TEST_CASE("gradients: shape") {
  const auto odd = [](const Tensor& x) { return x * x; };               // so that a mix-up of numbers shows
  std::vector<Case> cases = {
      {"reshape", [&](const Tensors& x) { return odd(reshape(x[0], {2, 6})); }, {{3, 4}}},
      {"permute 2", [&](const Tensors& x) { return odd(permute(x[0], {1, 0})); }, {{3, 4}}},
      {"permute 3", [&](const Tensors& x) { return odd(permute(x[0], {2, 0, 1})); }, {{2, 3, 4}}},
      {"permute 4", [&](const Tensors& x) { return odd(permute(x[0], {0, 2, 1, 3})); }, {{2, 3, 4, 5}}},
      {"slice", [&](const Tensors& x) { return odd(slice(x[0], 1, 1, 3)); }, {{3, 4, 2}}},
      {"slice of the last", [&](const Tensors& x) { return odd(slice(x[0], -1, 0, 1)); }, {{3, 4}}},
      {"concat 0", [&](const Tensors& x) { return odd(concat(x, 0)); }, {{3, 4}, {1, 4}, {2, 4}}},
      {"concat last", [&](const Tensors& x) { return odd(concat(x, -1)); }, {{2, 3, 4}, {2, 3, 1}}},
      {"concat of the same", [&](const Tensors& x) { return odd(concat(Tensors{x[0], x[0]}, 0)); }, {{2, 3}}},
  };
  check_all(cases);
}

TEST_CASE("gradients: attention") {
  struct Sizes { int64_t B, T, S, H, Hkv, D; bool causal; std::vector<int32_t> lengths; };
  const std::vector<Sizes> table = {
      {1, 5, 5, 1, 1, 4, true, {}},       {2, 7, 7, 4, 2, 8, true, {}},        {2, 7, 7, 6, 2, 5, false, {}},     {1, 3, 9, 3, 1, 7, true, {}},
      {2, 9, 9, 2, 2, 6, true, {9, 4}},   {3, 4, 11, 4, 4, 3, false, {11, 1, 0}}, {1, 70, 70, 3, 1, 9, true, {}}, {1, 140, 150, 2, 1, 6, true, {}},
      {1, 2, 600, 3, 1, 8, true, {}},     {1, 6, 4, 2, 1, 8, true, {}},        {2, 130, 65, 1, 1, 33, false, {65, 64}},
  };
  std::vector<Case> cases;
  for (const Sizes& s : table)
    for (const float scale : {0.f, 0.9f}) {
      AttentionOptions o;
      o.causal = s.causal, o.scale = scale, o.lengths = s.lengths;
      cases.push_back({"attention", [o](const Tensors& x) { return attention(x[0], x[1], x[2], o); },
                       {{s.B, s.T, s.H, s.D}, {s.B, s.S, s.Hkv, s.D}, {s.B, s.S, s.Hkv, s.D}}});
    }
  check_all(cases);
}
