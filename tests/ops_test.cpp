// Operations: values and gradients against PyTorch's, properties, errors, and independence of the number of threads.
#include "tests/main.h"

#include <cstring>
#include <map>

#include "engine/gguf.h"
#include "ops/quant.h"
#include "tensor/parallel.h"
#include "tests/check.h"

using namespace kvt;
using Tensors = std::vector<Tensor>;

namespace {

Tensor attend(const Tensors& x, bool causal, std::vector<int32_t> lengths = {}) {
  AttentionOptions o;
  o.causal = causal, o.lengths = std::move(lengths);
  return attention(x[0], x[1], x[2], o);
}

Tensor turn(const Tensor& x, RopeOptions::Pairing pairing) {
  RopeOptions o;
  o.pairing = pairing, o.base = 100;
  return rope(x, Ids{0, 1, 2, 3, 4}, o);
}

// What tests/golden/make_ops.py computed under the same names
const std::map<std::string, TensorFn> golden = {
    {"relu", [](const Tensors& x) { return relu(x[0]); }},
    {"silu", [](const Tensors& x) { return silu(x[0]); }},
    {"gelu", [](const Tensors& x) { return gelu(x[0]); }},
    {"gelu_tanh", [](const Tensors& x) { return gelu_tanh(x[0]); }},
    {"sigmoid", [](const Tensors& x) { return sigmoid(x[0]); }},
    {"tanh", [](const Tensors& x) { return kvt::tanh(x[0]); }},
    {"softmax", [](const Tensors& x) { return softmax(x[0]); }},
    {"log_softmax", [](const Tensors& x) { return log_softmax(x[0]); }},
    {"swiglu", [](const Tensors& x) { return swiglu(x[0], x[1]); }},
    {"rms_norm", [](const Tensors& x) { return rms_norm(x[0], x[1], 1e-5f); }},
    {"layer_norm", [](const Tensors& x) { return layer_norm(x[0], x[1], x[2], 1e-5f); }},
    {"mul_repeated", [](const Tensors& x) { return x[0] * x[1]; }},
    {"mean_axis", [](const Tensors& x) { return mean(x[0], 1); }},
    {"cross_entropy", [](const Tensors& x) { return cross_entropy(x[0], Ids{3, ignored_label, 0, 12, ignored_label}); }},
    {"matmul", [](const Tensors& x) { return matmul(x[0], x[1]); }},
    {"linear", [](const Tensors& x) { return linear(x[0], x[1], x[2]); }},
    {"embedding", [](const Tensors& x) { return embedding(Ids{3, 0, 3, 1, 3, 5}, {2, 3}, x[0]); }},
    {"patch_embedding", [](const Tensors& x) { return patch_embedding(x[0], x[1], x[2], 3); }},
    {"permute", [](const Tensors& x) { return permute(x[0], {2, 0, 1}); }},
    {"attention_full", [](const Tensors& x) { return attend(x, false); }},
    {"attention_causal", [](const Tensors& x) { return attend(x, true); }},
    {"attention_gqa", [](const Tensors& x) { return attend(x, true); }},
    {"attention_cached", [](const Tensors& x) { return attend(x, true); }},
    {"attention_padded", [](const Tensors& x) { return attend(x, false, {7, 3}); }},
    {"attention_blocks", [](const Tensors& x) { return attend(x, true); }},
    {"rope_interleaved", [](const Tensors& x) { return turn(x[0], RopeOptions::interleaved); }},
    {"rope_halves", [](const Tensors& x) { return turn(x[0], RopeOptions::halves); }},
};

bool same_bits(const Tensor& a, const Tensor& b) { return a.bytes() == b.bytes() && std::memcmp(a.raw(), b.raw(), size_t(a.bytes())) == 0; }

}  // namespace

TEST_CASE("values and gradients are PyTorch's") {
  const Gguf file = Gguf::open(project_path("tests/golden/ops.gguf"));
  const auto& names = file.array<std::string>("golden.cases");
  CHECK(names.size() == golden.size());
  for (const std::string& name : names) {
    INFO(name);
    REQUIRE(golden.contains(name));
    Tensors xs;
    while (const Tensor x = file.find_tensor(name + ".in" + std::to_string(xs.size()))) xs.push_back(x.clone().want_grad());
    REQUIRE_FALSE(xs.empty());
    Tape tape;
    const Tensor y = golden.at(name)(xs), u = file.tensor(name + ".u"), want = file.tensor(name + ".out");
    CHECK(y.shape() == want.shape());
    CHECK(max_relative_error(y.values(), want.values()) < 2e-6);
    std::copy_n(u.data(), y.size(), y.grad());
    tape.backward_from_grads();
    for (size_t i = 0; i < xs.size(); ++i)
      CHECK(max_relative_error({xs[i].grad(), size_t(xs[i].size())}, file.tensor(name + ".grad" + std::to_string(i)).values()) < 4e-6);
  }
}

TEST_CASE("softmax: rows sum to one, shifts change nothing, rows of −∞ are zeros, large numbers do not overflow") {
  Rng rng(1);
  const Tensor x = randn({6, 100}, rng, 4.f), y = softmax(x), shifted = softmax(x + Tensor::filled({1}, 64.f)), l = log_softmax(x);
  CHECK(max_relative_error(shifted.values(), y.values()) < 2e-5);      // the shift itself rounds x to 2⁻¹⁸
  for (int r = 0; r < 6; ++r) {
    double total = 0;
    for (int j = 0; j < 100; ++j) total += double(y.data()[r * 100 + j]);
    CHECK(total == doctest::Approx(1).epsilon(1e-6));
  }
  for (int64_t i = 0; i < y.size(); ++i) CHECK(std::exp(double(l.data()[i])) == doctest::Approx(double(y.data()[i])).epsilon(1e-5));

  const Tensor edge = softmax(Tensor::from({3, 2}, std::vector<float>{-INFINITY, -INFINITY, 1e30f, -1e30f, -INFINITY, 3}));
  const float want[] = {0, 0, 1, 0, 0, 1};
  for (int i = 0; i < 6; ++i) CHECK(edge.data()[i] == want[i]);
}

TEST_CASE("cross_entropy: exact where probability is certain, zero where all is ignored, and what it refuses") {
  const Tensor x = Tensor::from({2, 3}, std::vector<float>{1000, 0, 0, 5, 5, 5}).want_grad();
  CHECK(cross_entropy(x, Ids{0, ignored_label}).item() == 0.f);
  CHECK(cross_entropy(x, Ids{1, ignored_label}).item() == 1000.f);
  CHECK(cross_entropy(x, Ids{-1, 2}, -1).item() == doctest::Approx(std::log(3.0)));
  {
    Tape tape;
    const Tensor loss = cross_entropy(x, Ids{ignored_label, ignored_label});
    CHECK(loss.item() == 0.f);
    tape.backward(loss);
  }
  for (int i = 0; i < 6; ++i) CHECK(x.grad()[i] == 0.f);
  CHECK_THROWS_WITH_AS(cross_entropy(x, Ids{0, 3}), "cross_entropy: target 3 of row 1 outside [0, 3)", Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, Ids{-2, 0}), "cross_entropy: target -2 of row 0 outside [0, 3)", Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, Ids{0}), "cross_entropy: 1 targets for logits [2, 3]", Error);
}

TEST_CASE("rope keeps lengths, and products depend on the distance of positions alone") {
  Rng rng(5);
  const Tensor q = randn({1, 1, 2, 64}, rng), k = randn({1, 1, 2, 64}, rng);
  for (const auto pairing : {RopeOptions::interleaved, RopeOptions::halves}) {
    RopeOptions o;
    o.pairing = pairing;
    const auto dot = [](const Tensor& a, const Tensor& b) {
      double total = 0;
      for (int64_t i = 0; i < a.size(); ++i) total += double(a.data()[i]) * b.data()[i];
      return total;
    };
    const auto at = [&](const Tensor& x, int32_t position) { return rope(x, Ids{position}, o); };
    CHECK(dot(at(q, 1000), at(q, 1000)) == doctest::Approx(dot(q, q)).epsilon(1e-6));
    const double near = dot(at(q, 7), at(k, 3));
    CHECK(dot(at(q, 100004), at(k, 100000)) == doctest::Approx(near).epsilon(1e-5));
    CHECK(std::fabs(dot(at(q, 8), at(k, 3)) - near) > 1e-3);
    CHECK(same_bits(at(q, 0), q));
  }
}

TEST_CASE("rope: partial dimensions, factors and linear scaling") {
  Rng rng(6);
  const Tensor x = randn({1, 2, 1, 8}, rng);
  RopeOptions o;
  o.dims = 4, o.base = 16, o.factors = Tensor::from({2}, std::vector<float>{1, 8}), o.freq_scale = 0.5f;
  const Tensor y = rope(x, Ids{0, 3}, o);
  const double angles[] = {3 * 0.5, 3 * 0.25 / 8 * 0.5};               // base^(−2i/4) = 1, 1/4
  for (int i = 0; i < 2; ++i) {
    const double a = x.data()[8 + 2 * i], b = x.data()[9 + 2 * i];
    CHECK(y.data()[8 + 2 * i] == doctest::Approx(a * std::cos(angles[i]) - b * std::sin(angles[i])));
    CHECK(y.data()[9 + 2 * i] == doctest::Approx(a * std::sin(angles[i]) + b * std::cos(angles[i])));
  }
  for (int i = 4; i < 8; ++i) CHECK(y.data()[8 + i] == x.data()[8 + i]);
  o.factors.data()[1] = 1;                                             // other factors in the same memory
  CHECK(rope(x, Ids{0, 3}, o).data()[10] != y.data()[10]);
}

TEST_CASE("dropout: its rate, its scale, and the same mask in backward") {
  Rng rng(9);
  const Tensor x = Tensor::filled({100, 100}, 2.f).want_grad();
  Tape tape;
  const Tensor y = dropout(x, 0.3f, rng);
  int64_t dropped = 0;
  for (const float v : y.values()) {
    dropped += v == 0;
    CHECK((v == 0 || v == doctest::Approx(2 / 0.7)));
  }
  CHECK(std::fabs(double(dropped) / 10000 - 0.3) < 0.02);              // 4 standard deviations
  tape.backward(sum(y));
  bool same = true;
  for (int64_t i = 0; i < x.size(); ++i) same &= (y.data()[i] == 0) == (x.grad()[i] == 0) && (y.data()[i] == 0 || x.grad()[i] == y.data()[i] / 2);
  CHECK(same);
  const Rng::State state = rng.state();
  CHECK(dropout(x, 0, rng).same(x));
  CHECK(rng.state() == state);
  CHECK_THROWS_WITH_AS(dropout(x, 1, rng), "dropout: probability 1 outside [0, 1)", Error);
}

TEST_CASE("reshape shares numbers and gradient, permute undoes itself, slices of a concatenation are its parts") {
  Rng rng(4);
  const Tensor x = randn({3, 4, 2}, rng).want_grad();
  {
    Tape tape;
    const Tensor y = reshape(x, {6, 4});
    CHECK(y.data() == x.data());
    tape.backward(sum(scale(y, 3)) + sum(x));
    for (int64_t i = 0; i < x.size(); ++i) CHECK(x.grad()[i] == 4.f);
  }
  CHECK(same_bits(permute(permute(x, {2, 0, 1}), {1, 2, 0}), x));
  const Tensor a = randn({3, 1, 2}, rng), both = concat(Tensors{x, a}, 1);
  CHECK(both.shape() == Shape{3, 5, 2});
  CHECK(same_bits(slice(both, 1, 0, 4), x));
  CHECK(same_bits(slice(both, 1, 4, 5), a));
  CHECK(slice(x, 1, 2, 2).size() == 0);
}

TEST_CASE("wrong shapes are refused by name") {
  const Tensor a({2, 3}), b({4, 5}), c({3}), q({1, 2, 4, 6});
  Rng rng(0);
  CHECK_THROWS_WITH_AS(a + b, "add: [4, 5] is neither [2, 3] nor its trailing axes nor one element", Error);
  CHECK_THROWS_WITH_AS(mul(c, a), "mul: [2, 3] is neither [3] nor its trailing axes nor one element", Error);
  CHECK_THROWS_WITH_AS(bias(b, c), "bias: [3] does not fit the last axis of [4, 5]", Error);
  CHECK_THROWS_WITH_AS(swiglu(a, b), "swiglu: gate [2, 3] but up [4, 5]", Error);
  CHECK_THROWS_WITH_AS(matmul(a, b), "matmul: [2, 3] does not multiply [4, 5]", Error);
  CHECK_THROWS_WITH_AS(matmul(a, b, true, false), "matmul: [2, 3]ᵀ does not multiply [4, 5]", Error);
  CHECK_THROWS_WITH_AS(matmul(c, b), "matmul: expected matrices, got [3] and [4, 5]", Error);
  CHECK_THROWS_WITH_AS(linear(a, b), "linear: weights [4, 5] do not fit the last axis of [2, 3]", Error);
  CHECK_THROWS_WITH_AS(linear(a, a, c), "linear: bias [3] for weights [2, 3]", Error);
  CHECK_THROWS_WITH_AS(rms_norm(b, c, 1e-5f), "rms_norm: weights [3] do not fit the last axis of [4, 5]", Error);
  CHECK_THROWS_WITH_AS(layer_norm(a, c, Tensor({2}), 1e-5f), "layer_norm: offset [2] does not fit the last axis of [2, 3]", Error);
  CHECK_THROWS_WITH_AS(embedding(Ids{1, 4}, {2}, b), "embedding: id 4 at position 1 outside a vocabulary of 4", Error);
  CHECK_THROWS_WITH_AS(embedding(Ids{-1}, {1}, b), "embedding: id -1 at position 0 outside a vocabulary of 4", Error);
  CHECK_THROWS_WITH_AS(embedding(Ids{1}, {2}, b), "embedding: 1 ids for shape [2]", Error);
  CHECK_THROWS_WITH_AS(sum(a, 2), "sum: no axis 2 in [2, 3]", Error);
  CHECK_THROWS_WITH_AS(mean(Tensor({0})), "mean: of no numbers, [0]", Error);
  CHECK_THROWS_WITH_AS(reshape(a, {4}), "reshape: [2, 3] has not the elements of [4]", Error);
  CHECK_THROWS_WITH_AS(permute(a, {0, 0}), "permute: axis 0 is given twice or is none of [2, 3]", Error);
  CHECK_THROWS_WITH_AS(permute(a, {0}), "permute: 1 axes for [2, 3]", Error);
  CHECK_THROWS_WITH_AS(slice(a, 1, 2, 4), "slice: [2, 4) of axis 1 of [2, 3]", Error);
  CHECK_THROWS_WITH_AS(concat(Tensors{a, b}, 0), "concat: [4, 5] beside [2, 3] along axis 0", Error);
  CHECK_THROWS_WITH_AS(concat(Tensors{}, 0), "concat: no parts", Error);
  CHECK_THROWS_WITH_AS(rope(a, Ids{0}, {}), "rope: expected [B, T, H, D], got [2, 3]", Error);
  CHECK_THROWS_WITH_AS(rope(q, Ids{0}, {}), "rope: 1 positions for [1, 2, 4, 6]", Error);
  CHECK_THROWS_WITH_AS(patch_embedding(q, b, {}, 4), "patch_embedding: patches of 4 do not tile images [1, 2, 4, 6]", Error);
  CHECK_THROWS_WITH_AS(attention(q, Tensor({1, 2, 3, 6}), Tensor({1, 2, 3, 6}), {}), "attention: 4 query heads do not share 3 key heads evenly", Error);
  CHECK_THROWS_WITH_AS(attend({q, q, q}, false, {3}), "attention: length 3 of 2 keys", Error);
  CHECK_THROWS_WITH_AS(attend({q, q, Tensor({1, 3, 4, 6})}, false), "attention: q [1, 2, 4, 6], k [1, 2, 4, 6], v [1, 3, 4, 6] do not fit", Error);
}

TEST_CASE("empty tensors pass through") {
  const Tensor none({0, 3}), w = Tensor::filled({3}, 1.f), m = Tensor::filled({2, 3}, 1.f);
  CHECK(softmax(none).size() == 0);
  CHECK(rms_norm(none, w, 1e-5f).size() == 0);
  CHECK(linear(none, m).shape() == Shape{0, 2});
  CHECK((none + w).size() == 0);
  CHECK(sum(none).item() == 0.f);
  CHECK(attention(Tensor({0, 1, 1, 4}), Tensor({0, 1, 1, 4}), Tensor({0, 1, 1, 4}), {}).size() == 0);
}

TEST_CASE("nothing is recorded, and no gradient made, for inputs that want none") {
  Rng rng(2);
  const Tensor x = randn({2, 3}, rng), w = randn({3}, rng).want_grad();
  CHECK_FALSE((x * w).wants_grad());                                   // no tape
  Tape tape;
  CHECK_FALSE(silu(x).wants_grad());
  const Tensor y = sum(x * w);
  CHECK(y.wants_grad());
  tape.backward(y);
  CHECK(w.has_grad());
  CHECK_FALSE(x.has_grad());
}

TEST_CASE("results do not depend on the number of threads, to the bit") {
  Rng rng(8);
  const Tensor x = randn({2, 150, 192}, rng), w = randn({500, 192}, rng), b = randn({500}, rng), n = randn({192}, rng), back = randn({192, 500}, rng);
  const Tensor quantized = pack(w, DType::Q4_0), half = pack(w, DType::F16);
  Ids targets, positions;
  for (int32_t i = 0; i < 300; ++i) targets.push_back(i % 4 ? (i * 7) % 192 : ignored_label);
  for (int32_t i = 0; i < 150; ++i) positions.push_back(i);

  // A little network through every kind of splitting; gives the loss and all gradients.
  const auto run = [&](int threads) {
    ThreadPool pool({.threads = threads});
    const ThreadPool::Use use(pool);
    Tensors leaves;
    for (const Tensor& t : {x, w, b, n, back}) leaves.push_back(t.clone().want_grad());
    Tape tape;
    const Tensor h = layer_norm(rms_norm(leaves[0], leaves[3], 1e-5f), leaves[3], leaves[3], 1e-5f);
    const Tensor hidden = gelu(linear(h, leaves[1], leaves[2])) * leaves[2] + linear(h, quantized) + linear(h, half);
    const Tensor heads = rope(reshape(linear(hidden, leaves[4]), {2, 150, 6, 32}), positions, {});
    const Tensor o = reshape(attend({heads, slice(heads, 2, 0, 2), slice(heads, 2, 2, 4)}, true, {150, 77}), {2, 150, 192});
    const Tensor loss = cross_entropy(softmax(o) + matmul(matmul(o, leaves[4]), leaves[4], false, true), targets);
    tape.backward(loss);
    Tensors results{loss};
    for (const Tensor& t : leaves) results.push_back(Tensor::from(t.shape(), {t.grad(), size_t(t.size())}));
    const Tape::Pause pause;
    const Tensor row = slice(reshape(x, {300, 192}), 0, 0, 1), cached = reshape(concat(Tensors{x, x, x}, 1), {1, 900, 6, 32});
    for (const Tensor& weights : {w, quantized, half}) results.push_back(linear(row, weights));
    results.push_back(attend({slice(cached, 1, 0, 1), slice(cached, 2, 0, 2), slice(cached, 2, 2, 4)}, true));    // keys in parts
    results.push_back(sum(concat(Tensors{x, x, x}, 0)));
    results.push_back(mean(x, 1));
    return results;
  };
  const Tensors one = run(1);
  for (int threads : {2, 3}) {
    const Tensors more = run(threads);
    REQUIRE(more.size() == one.size());
    for (size_t i = 0; i < one.size(); ++i) {
      INFO("threads ", threads, ", result ", i);
      CHECK(same_bits(one[i], more[i]));
    }
  }
}
