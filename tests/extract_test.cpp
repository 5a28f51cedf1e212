#include "tests/main.h"

#include <sys/wait.h>

#include <csignal>
#include <cstring>

#include "engine/checkpoint.h"
#include "engine/control_vector.h"
#include "engine/fingerprint.h"
#include "engine/both_tasks.h"
#include "engine/rounds.h"
#include "tensor/parallel.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

Tensor times_transposed(const Tensor& a, const Tensor& b) { return matmul(a, b, false, true); }

// U diag(s) Vᵀ
Tensor product(const Svd& x) { return times_transposed(x.u * x.s, x.v); }

double distance_from_identity(const Tensor& q) {
  const Tensor g = matmul(q, q, true);
  double worst = 0;
  for (int64_t i = 0; i < g.dim(0); ++i)
    for (int64_t j = 0; j < g.dim(0); ++j) worst = std::max(worst, std::fabs(double(g.data()[i * g.dim(0) + j]) - (i == j)));
  return worst;
}

double norm(const Tensor& x) {
  double sum = 0;
  for (float v : x.values()) sum += double(v) * v;
  return std::sqrt(sum);
}

// What the single-pass sketch may err by, ‖G − Q X‖, for p = 2 k + 16 columns of Ω and q = 2 p rows of Ψ: the root of the bound on its expected
// square (Tropp et al. 2017, theorem 4.3), from which sums over so many independent numbers hardly stray,
//   E‖G − Q X‖² ≤ (1 + p/(q − p − 1)) min_ρ (1 + ρ/(p − ρ − 1)) Σ_{i>ρ} σ_i²,  ρ < p − 1
double sketch_error(const Tensor& s, int64_t k) {
  const int64_t p = 2 * k + 16, q = 2 * p;
  double least = INFINITY;
  for (int64_t rho = 0; rho < std::min(p - 1, s.size()); ++rho) {
    double tail = 0;
    for (int64_t i = rho; i < s.size(); ++i) tail += double(s.data()[i]) * double(s.data()[i]);
    least = std::min(least, (1 + double(rho) / double(p - rho - 1)) * tail);
  }
  return std::sqrt((1 + double(p) / double(q - p - 1)) * least);
}

// How far ‖Ψ G‖²/q strays from ‖G‖²: its variance is 2 Σ σ⁴ / q. Three deviations, relative.
double energy_error(const Tensor& s, int64_t k) {
  double squares = 0, fourths = 0;
  for (float x : s.values()) squares += double(x) * x, fourths += std::pow(double(x), 4);
  return 3 * std::sqrt(2 * fourths / double(4 * k + 32)) / squares;
}

// A core that is folded into B sums the same products in another order. Of 14 layers each sums at most 66 of them, which may err by 66 u of
// their size, and once more the other way round; u = 2^−24. Activations must not be rounded to 8 bits then: a last bit may decide which way.
constexpr double folded = 14 * 2 * 66 * 0x1p-24;

struct ExactActivations {
  Activations before = activations();
  ExactActivations() { set_activations(Activations::f32); }
  ~ExactActivations() { set_activations(before); }
};

// A matrix with the singular values s.
Tensor with_spectrum(int64_t m, int64_t n, const std::vector<float>& s, Rng& rng) {
  const auto r = int64_t(s.size());
  return times_transposed(qr(randn({m, r}, rng)).q * Tensor::from({r}, s), qr(randn({n, r}, rng)).q);
}

// Text with something to learn: each token follows from the one before, but for one in eight.
Examples some_text(int64_t tokens, int64_t length, uint64_t seed, int32_t vocabulary = 40) {
  Rng rng(seed);
  Ids text = {1};
  while (int64_t(text.size()) < tokens) text.push_back(rng.below(8) ? (text.back() * 7 + 3) % vocabulary : int32_t(rng.below(uint64_t(vocabulary))));
  Examples data(length);
  data.add_text(text);
  return data;
}

const Ids ids = {1, 5, 9, 2, 30, 31, 7, 7};
Tensor logits_of(const CausalLm& model) { return model.logits(model.hidden(ids, 2, 4, {})); }

// A small model, text to learn and to be judged by, and a run of rounds on them.
struct Run {
  Gguf base;
  std::unique_ptr<CausalLm> model;
  std::string id;
  Examples data = some_text(300, 8, 2), held_out = some_text(120, 8, 3);
  CausalTask task, validation;
  std::vector<TargetLayer> layers;
  RoundsOptions options;
  RoundsState state;

  explicit Run(const SmallLlama& small = {}) : base(small.gguf()), model(load_model(base)), id(fingerprint(base)), task(*model, data),
                                               validation(*model, held_out), layers(target_layers(*model, {"all"})) {
    options.k = 2;
    options.rounds = 3;
    options.extract.batch = 4;
  }
  bool go(const RoundsCallbacks& callbacks = {}) { return run_rounds(task, validation, layers, options, state, callbacks); }
  double loss() const { return evaluate(validation, options.train.batch); }
  Gguf file() const { return rounds_file(state, options.core, "llama", id, DType::F32); }
};

}  // namespace

TEST_CASE("QR: orthonormal columns, triangular R, their product; also without full rank") {
  Rng rng(1);
  for (const Shape& shape : {Shape{7, 7}, Shape{40, 9}, Shape{5, 1}, Shape{30, 6}}) {
    Tensor a = randn(shape, rng);
    if (shape[1] == 6) a = matmul(randn({30, 2}, rng), randn({2, 6}, rng));
    const auto [q, r] = qr(a);
    CHECK(distance_from_identity(q) < 1e-6);
    CHECK(max_relative_error(matmul(q, r).values(), a.values()) < 1e-6);
    for (int64_t i = 0; i < r.dim(0); ++i)
      for (int64_t j = 0; j < i; ++j) CHECK(r.data()[i * r.dim(1) + j] == 0);
  }
  CHECK(distance_from_identity(qr(Tensor::zeros({4, 3})).q) == 0);
  // By hand: columns (3, 4) and (1, 2) give R = [−5, −2.2; 0, ±0.4]
  const Tensor r = qr(Tensor::from({2, 2}, std::vector<float>{3, 1, 4, 2})).r;
  CHECK(r.data()[0] == doctest::Approx(-5));
  CHECK(r.data()[1] == doctest::Approx(-2.2));
  CHECK(std::fabs(r.data()[3]) == doctest::Approx(0.4));
  CHECK_THROWS_WITH_AS(qr(Tensor::zeros({3, 4})), "qr: expected at least as many rows as columns, got [3, 4]", Error);
}

TEST_CASE("SVD: known singular values, orthonormal vectors, wide, tall, rank-deficient, badly scaled") {
  Rng rng(2);
  // [[3, 0], [4, 5]] has singular values √45 and √5.
  const Svd known = svd(Tensor::from({2, 2}, std::vector<float>{3, 0, 4, 5}));
  CHECK(known.s.data()[0] == doctest::Approx(std::sqrt(45.0)));
  CHECK(known.s.data()[1] == doctest::Approx(std::sqrt(5.0)));
  const std::vector<float> spectrum = {100, 7, 7, 1, 1e-3f};
  for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{{5, 5}, {33, 5}, {5, 40}, {20, 30}}) {
    const Tensor a = with_spectrum(m, n, spectrum, rng);
    const Svd x = svd(a);
    REQUIRE(x.rank() == std::min(m, n));
    for (size_t i = 0; i < spectrum.size(); ++i) CHECK(x.s.data()[i] == doctest::Approx(spectrum[i]).epsilon(1e-4).scale(0.1));
    for (int64_t i = 5; i < x.rank(); ++i) CHECK(x.s.data()[i] < 1e-4);
    CHECK(max_relative_error(product(x).values(), a.values()) < 1e-6);
    const Svd first = x.leading(4);
    CHECK(distance_from_identity(first.u) < 1e-5);
    CHECK(distance_from_identity(first.v) < 1e-5);
  }
  const Svd zero = svd(Tensor::zeros({3, 2}));
  CHECK(zero.s.data()[0] == 0);
  CHECK(norm(product(zero)) == 0);
}

TEST_CASE("leading singular triplets of a large matrix, of any type") {
  Rng rng(3);
  std::vector<float> spectrum;
  for (int i = 0; i < 64; ++i) spectrum.push_back(std::pow(0.9f, float(i)));
  const Tensor a = with_spectrum(96, 64, spectrum, rng);
  const Svd want = svd(a).leading(4), got = leading_svd(a, 4, rng);
  REQUIRE(got.rank() == 4);
  CHECK(max_relative_error(got.s.values(), want.s.values()) < 1e-3);
  CHECK(max_relative_error(product(got).values(), product(want).values()) < 2e-2);
  const Tensor packed = pack(a, DType::Q8_0);
  CHECK(max_relative_error(leading_svd(packed, 4, rng).s.values(), svd(unpack(packed)).leading(4).s.values()) < 1e-3);
  CHECK(leading_svd(a, 64, rng).rank() == 64);
}

TEST_CASE("least squares: the residual is orthogonal to A") {
  Rng rng(4);
  const Tensor a = randn({20, 6}, rng), b = randn({20, 3}, rng), x = least_squares(a, b);
  CHECK(norm(matmul(a, matmul(a, x) - b, true)) < 1e-4);
  CHECK_THROWS_AS(least_squares(Tensor::zeros({4, 2}), b), Error);
}

TEST_CASE("the sketch of a sum of outer products finds its leading directions in one pass") {
  Rng rng(5);
  constexpr int64_t out = 300, in = 200, tokens = 64, k = 4;
  std::vector<float> spectrum;
  for (int64_t i = 0; i < tokens; ++i) spectrum.push_back(i < k ? float(10 - i) : 0.3f / float(i));
  const Tensor dy = qr(randn({out, tokens}, rng)).q * Tensor::from({tokens}, spectrum), x = qr(randn({in, tokens}, rng)).q;
  const Tensor g = times_transposed(dy, x);
  TestMatrices tests(k, 7);
  GradientSketch sketch(out, in, tests);
  CHECK(sketch.bytes() < g.bytes() * 3 / 5);
  const Tensor rows = permute(x, {1, 0}), drows = permute(dy, {1, 0});
  for (int64_t t = 0; t < tokens; t += 16) sketch.add(slice(rows, 0, t, t + 16), slice(drows, 0, t, t + 16).data());
  const Svd got = sketch.leading(k), want = svd(g).leading(k);
  CHECK(max_relative_error(got.s.values(), want.s.values()) < 1e-3);
  CHECK(norm(product(got) - product(want)) < 0.02 * norm(g));      // all but the k first values are small: nearly exact
  CHECK(distance_from_identity(got.u) < 1e-5);
  CHECK(distance_from_identity(got.v) < 1e-5);
  CHECK(std::fabs(sketch.energy() / (norm(g) * norm(g)) - 1) < energy_error(svd(g).s, k));

  GradientSketch exact(20, 30, tests);         // smaller than its sketch
  const Tensor small_dy = randn({5, 20}, rng), small_x = randn({5, 30}, rng), small = matmul(small_dy, small_x, true);
  exact.add(small_x, small_dy.data());
  CHECK(exact.bytes() == small.bytes());
  CHECK(max_relative_error(product(exact.leading(20)).values(), small.values()) < 1e-5);
  CHECK(exact.energy() == doctest::Approx(norm(small) * norm(small)));
}

TEST_CASE("extracted gradients are those of the weights: sketched, recomputed, in any batches, over quantized weights") {
  const SmallLlama wide{.layers = 1, .channels = 128, .hidden = 256};
  const SmallLlama quantized{.layers = 1, .channels = 128, .hidden = 256, .matrices = DType::Q4_1};
  for (const SmallLlama& small : {wide, quantized}) {
    Run run(small);
    const Gguf floats = model_file(run.base, *run.model, DType::F32);
    const auto model = load_model(floats);
    const TrainedSet weights = all_weights(*model);
    {
      Tape tape;
      const Batch all = run.data.batch([&] { std::vector<int64_t> i; for (int64_t n = 0; n < run.data.size(); ++n) i.push_back(n); return i; }());
      tape.backward(model->loss(model->hidden(all.tokens, all.B, all.T, {}), all.labels));
    }
    std::vector<Tensor> exact;
    std::vector<Svd> whole;
    for (const TargetLayer& layer : run.layers) {
      const auto found = std::find_if(weights.begin(), weights.end(), [&](const Trained& t) { return t.name == layer.name + ".weight"; });
      REQUIRE(found != weights.end());
      exact.push_back(Tensor::from(found->tensor.shape(), {found->tensor.grad(), size_t(found->tensor.size())}));
      whole.push_back(svd(exact.back()));
    }
    for (const auto& way : std::vector<std::pair<int64_t, bool>>{{1, false}, {5, true}, {64, false}}) {
      const int64_t batch = way.first;
      double loss = 0;
      const auto gradients = extract_gradients(run.task, run.layers, {.k = 4, .batch = batch, .recompute = way.second, .seed = 1}, {}, {}, &loss);
      REQUIRE(gradients.size() == run.layers.size());
      CHECK(loss == doctest::Approx(evaluate(run.task, 7)).epsilon(small.matrices == DType::F32 ? 1e-5 : 1e-2));
      for (size_t i = 0; i < gradients.size(); ++i) {
        INFO(run.layers[i].name, ", batches of ", batch);
        const Tensor& g = exact[i];
        const Svd want = whole[i].leading(4);
        const Svd& got = gradients[i].svd;
        // Weyl: singular values differ by no more than the matrices do; and to rank k (Tropp et al., proposition 6.1) ‖G − [Q X]_k‖ ≤ ‖G − [G]_k‖ + 2 ‖G − Q X‖.
        // Unlike these bounds, results may not exceed the best rank 4, either.
        const double error = sketch_error(whole[i].s, 4);
        CHECK(error < norm(g));
        for (int64_t j = 0; j < 4; ++j) CHECK(std::fabs(double(got.s.data()[j]) - double(want.s.data()[j])) < error);
        CHECK(norm(product(got) - g) < norm(product(want) - g) + 2 * error);
        CHECK(norm(product(got) - g) > 0.999 * norm(product(want) - g));
        CHECK(std::fabs(gradients[i].energy / (norm(g) * norm(g)) - 1) < energy_error(whole[i].s, 4));
      }
    }
    for (const TargetLayer& layer : run.layers) CHECK(layer.linear->adapters.empty());
  }
}

TEST_CASE("one round agrees with PyTorch: singular triplets, the loss at every step, the step chosen, the logits") {
  const Gguf base = Gguf::open(project_path("tests/golden/llama_untied.gguf")), golden = Gguf::open(project_path("tests/golden/extract.gguf"));
  const auto model = load_model(base);
  const auto ints = [&](const char* name) {
    const Tensor t = base.tensor(name);
    Ids values(size_t(t.size()));
    std::memcpy(values.data(), t.raw(), size_t(t.bytes()));
    return values;
  };
  const Ids tokens = ints("golden.ids"), labels = ints("golden.labels");
  const int64_t T = base.tensor("golden.ids").dim(1), k = golden.integer("golden.k");
  Examples data(T);
  for (int64_t b = 0; b < 2; ++b) data.add({{tokens.begin() + b * T, tokens.begin() + (b + 1) * T}, {labels.begin() + b * T, labels.begin() + (b + 1) * T}});
  const CausalTask task(*model, data);
  const auto layers = target_layers(*model, {"all"});

  const auto gradients = extract_gradients(task, layers, {.k = k, .batch = 1, .recompute = false, .seed = 0});
  for (size_t i = 0; i < layers.size(); ++i) {
    INFO(layers[i].name);
    const Svd want{golden.tensor(layers[i].name + ".u"), golden.tensor(layers[i].name + ".s"), golden.tensor(layers[i].name + ".v")};
    CHECK(max_relative_error(gradients[i].svd.s.values(), want.s.values()) < 1e-4);
    CHECK(max_relative_error(product(gradients[i].svd).values(), product(want).values()) < 1e-3);
  }

  RoundsOptions options;
  options.k = k;
  options.rounds = 1;
  options.eta = 0.25f;
  RoundsState state;
  const Tensor etas = golden.tensor("golden.etas"), losses = golden.tensor("golden.losses");
  int64_t trials = 0;
  RoundsCallbacks callbacks;
  callbacks.trial = [&](float eta, double loss) {
    const auto at = std::find(etas.data(), etas.data() + etas.size(), eta);
    REQUIRE(at != etas.data() + etas.size());
    CHECK(loss == doctest::Approx(losses.data()[at - etas.data()]).epsilon(1e-4));
    ++trials;
  };
  REQUIRE(run_rounds(task, task, layers, options, state, callbacks));
  CHECK(trials >= 3);
  CHECK(state.losses[0] == doctest::Approx(golden.tensor("golden.loss").item()).epsilon(1e-5));
  const auto best = std::min_element(losses.data(), losses.data() + losses.size()) - losses.data();
  CHECK(state.etas == std::vector<float>{etas.data()[best]});
  CHECK(state.losses[1] == doctest::Approx(losses.data()[best]).epsilon(1e-4));
  CHECK(max_relative_error(model->logits(model->hidden(tokens, 2, T, {})).values(), golden.tensor("golden.logits").values()) < 1e-3);
}

TEST_CASE("the line search doubles and halves to the least, and says when nothing helps") {
  int calls = 0;
  const auto valley = [&](double at) {
    return [&calls, at](float eta) { ++calls; return std::fabs(std::log2(double(eta)) - at); };
  };
  CHECK(line_search(valley(3), 10, 1).eta == 8);
  CHECK(line_search(valley(-2), 10, 1).eta == 0.25f);
  CHECK(line_search(valley(0), 10, 1).eta == 1);
  calls = 0;
  CHECK(line_search(valley(-3), 0.5, 1).loss == 0);      // the first three steps are no better than none
  CHECK(calls == 5);
  const Step none = line_search([](float) { return 2.0; }, 1, 1);
  CHECK(none.eta == 0);
  CHECK(none.loss == 1);
  const auto explodes = [](float eta) { return eta > 0.1f ? std::nan("") : double(eta); };
  CHECK(line_search(explodes, 1, 1).eta == 1.f / 256);
  CHECK(line_search(explodes, 1, 1, 2).eta == 0);
  calls = 0;
  CHECK(line_search(valley(0), 10, 1, 8, [] { return true; }).eta == 0);
  CHECK(calls == 0);
}

TEST_CASE("the diagonal and the dense core: gradients, and folded into a LoRA they compute the same") {
  Rng rng(6);
  const Tensor x = randn({3, 5}, rng), y = randn({3, 7}, rng), a = randn({2, 5}, rng), b = randn({7, 2}, rng);
  for (const Shape& shape : {Shape{2}, Shape{2, 2}}) {
    const Tensor c = randn(shape, rng);
    check_gradients("core", [&](const std::vector<Tensor>& in) { return Core(a, b, in[0], 2)(in[1], y.clone()); }, {c, x.clone()}, rng);
    const Core core(a, b, c, 2);
    CHECK(max_relative_error((*core.folded())(x, y.clone()).values(), core(x, y.clone()).values()) < 1e-5);
    CHECK(max_relative_error(y.values(), core(x, y.clone()).values()) > 0.1);
  }
}

TEST_CASE("rounds lower the validation loss, add k to the rank each, and leave the base as it was; every core, any base") {
  for (DType type : {DType::F32, DType::Q4_1})
    for (CoreForm core : {CoreForm::extracted, CoreForm::spectral, CoreForm::dense}) {
      INFO(info(type).name, ", ", name(core));
      const ExactActivations exact;
      Run run({.matrices = type});
      run.options.core = core;
      run.options.train.steps = 30;
      run.options.train.lr = core == CoreForm::spectral ? 2e-2f : 1e-2f;
      std::string before;
      run.model->each_parameter([&](const std::string&, Parameter& p) { if (p) before.append(reinterpret_cast<const char*>(p.tensor.raw()), size_t(p.tensor.bytes())); });
      int64_t rounds = 0;
      RoundsCallbacks callbacks;
      callbacks.round = [&](const RoundReport& r) {
        ++rounds;
        CHECK(r.round == rounds);
        CHECK(r.loss < r.before);
        CHECK(r.rank == 2 * rounds);
        CHECK(r.energy > 0.3);
        CHECK(r.energy <= 1.001);
      };
      REQUIRE(run.go(callbacks));
      REQUIRE(run.state.rounds() == 3);
      CHECK(rounds == 3);
      CHECK(run.state.extractions == 3);
      CHECK(run.state.losses.back() < run.state.losses.front() - 0.05);
      CHECK(run.loss() == doctest::Approx(run.state.losses.back()).epsilon(folded));
      CHECK(run.state.set.layers.size() == 14);
      for (const auto& layer : run.state.set.layers) CHECK(layer.lora->rank() == 6);
      CHECK(run.state.singular.size() == 3 * 14 * 2);
      std::string after;
      run.model->each_parameter([&](const std::string&, Parameter& p) { if (p) after.append(reinterpret_cast<const char*>(p.tensor.raw()), size_t(p.tensor.bytes())); });
      CHECK(before == after);

      // As a file it is an ordinary LoRA.
      const TemporaryFolder folder;
      run.file().write(folder / "k.gguf");
      const Gguf file = Gguf::open(folder / "k.gguf");
      CHECK(file.string("kvt.core") == name(core));
      CHECK(file.integer("kvt.k") == 2);
      CHECK(file.integer("kvt.rounds") == 3);
      CHECK(file.array<float>("kvt.etas") == run.state.etas);
      CHECK(file.array<double>("kvt.losses") == run.state.losses);
      CHECK(file.tensor("blk.1.ffn_down.weight.lora_a").shape() == Shape{6, 64});
      Run plain({.matrices = type});
      load_adapter(*plain.model, file, 1, plain.id);
      const Tensor got = logits_of(*plain.model), want = logits_of(*run.model);
      CHECK(std::equal(got.data(), got.data() + got.size(), want.data()));
    }
}

TEST_CASE("other bases are other methods: LoRA-XS, LoRA restarted, LoRA from the weight's or the gradient's directions") {
  struct Case { CoreForm core; Basis basis; int64_t rounds; };
  for (const Case& c : {Case{CoreForm::dense, Basis::weight, 1}, Case{CoreForm::lora, Basis::random, 3}, Case{CoreForm::lora, Basis::weight, 1},
                        Case{CoreForm::lora, Basis::gradient, 1}}) {
    INFO(name(c.core), " of basis ", int(c.basis));
    const ExactActivations exact;
    Run run({.matrices = DType::Q4_1});
    run.options.core = c.core;
    run.options.basis = c.basis;
    run.options.rounds = c.rounds;
    run.options.train.steps = 45;
    run.options.train.lr = 1e-2f;
    run.options.k = 4;
    REQUIRE(run.go());
    CHECK(run.state.rounds() == c.rounds);
    CHECK(run.state.losses.back() < run.state.losses.front() - 0.05);
    CHECK(run.loss() == doctest::Approx(run.state.losses.back()).epsilon(folded));
    CHECK(run.state.set.layers[0].lora->rank() == 4 * c.rounds);
    if (c.core != CoreForm::dense) continue;
    // ΔW of LoRA-XS lies in the span of the weight's own directions: rows of A are σ_i v_i.
    const TargetLayer& layer = run.layers[0];
    Rng rng(0);
    const Svd w = svd(unpack(layer.linear->weight)).leading(4);
    const Tensor a = run.state.set.layers[0].lora->a, inside = matmul(matmul(a, w.v), w.v, false, true);
    CHECK(norm(a - inside) < 0.1 * norm(a));
    CHECK(norm(a) == doctest::Approx(norm(w.s)).epsilon(1e-2));
  }
  Run run;
  run.options.basis = Basis::weight;
  CHECK_THROWS_WITH_AS(run.go(), "kvt: the extracted core is made of gradients", Error);
}

TEST_CASE("automatic k: few directions where few hold the energy; a step that does not help ends the rounds without a trace") {
  Rng rng(8);
  LayerGradient two;
  two.svd = {Tensor(), Tensor::from({3}, std::vector<float>{3, 1, 0.1f}), Tensor()};
  two.energy = 10.01;
  CHECK(directions_holding({two}, 0.9 * 0.99) == 1);
  CHECK(directions_holding({two}, 0.95) == 2);
  CHECK(directions_holding({two}, 1) == 3);

  Run run;
  run.options.k = 0;
  run.options.rounds = 2;
  REQUIRE(run.go());
  CHECK(run.state.k >= 1);
  CHECK(run.state.k <= automatic_k_most);
  CHECK(run.state.losses.back() < run.state.losses.front());
  CHECK(run.state.set.layers[0].lora->rank() == std::min<int64_t>(run.state.k, 32) * 2);

  // Judged by text whose every token is the opposite of what is learned, no step helps.
  Run stuck;
  const Tensor before = logits_of(*stuck.model);
  struct Opposite : Task {
    const Task& task;
    explicit Opposite(const Task& t) : task(t) {}
    int64_t size() const override { return task.size(); }
    Extent extent(std::span<const int64_t> indices) const override { return task.extent(indices); }
    Tensor loss(std::span<const int64_t> indices, const Pass& pass) const override { return scale(task.loss(indices, pass), -1); }
  };
  const Opposite opposite(stuck.task);
  REQUIRE(run_rounds(stuck.task, opposite, stuck.layers, stuck.options, stuck.state, {}));
  CHECK(stuck.state.rounds() == 0);
  CHECK(stuck.state.finished);
  CHECK(stuck.state.set.layers.empty());
  const Tensor after = logits_of(*stuck.model);
  CHECK(std::equal(before.data(), before.data() + before.size(), after.data()));
}

TEST_CASE("portions of the data in turns; validation data learned at the step found without them") {
  Run whole, part, learned;
  whole.options.rounds = 1;
  REQUIRE(whole.go());
  // 300 tokens in windows of 8 are 38 examples; three portions of about 100 labels: rounds see every third example.
  part.options.portion = 100;
  struct Watched : Task {
    const Task& task;
    mutable std::vector<std::vector<int64_t>> seen;
    explicit Watched(const Task& t) : task(t) {}
    int64_t size() const override { return task.size(); }
    Extent extent(std::span<const int64_t> indices) const override { return task.extent(indices); }
    Tensor loss(std::span<const int64_t> indices, const Pass& pass) const override {
      for (const int64_t i : indices) seen.back().push_back(i);
      return task.loss(indices, pass);
    }
  };
  const Watched watched(part.task);
  watched.seen.emplace_back();
  RoundsCallbacks callbacks;
  callbacks.round = [&](const RoundReport&) { watched.seen.emplace_back(); };
  REQUIRE(run_rounds(watched, part.validation, part.layers, part.options, part.state, callbacks));
  REQUIRE(part.state.rounds() == 3);
  CHECK(part.state.extractions == doctest::Approx(1));
  for (size_t r = 0; r < 3; ++r) {
    REQUIRE(watched.seen[r].size() >= 12);
    for (size_t j = 0; j < watched.seen[r].size(); ++j) CHECK(watched.seen[r][j] == int64_t(r + 3 * j));
  }
  CHECK(part.state.losses.back() < part.state.losses.front());

  // The same step as without, in the directions of both texts' mean gradient.
  learned.options.rounds = 1;
  learned.options.learn_validation = true;
  double found = 0;
  callbacks.round = [&](const RoundReport& r) { found = r.loss; };
  REQUIRE(run_rounds(learned.task, learned.validation, learned.layers, learned.options, learned.state, callbacks));
  CHECK(learned.state.etas == whole.state.etas);
  CHECK(found == whole.state.losses[1]);
  CHECK(learned.state.losses[1] == doctest::Approx(learned.loss()));
  CHECK(learned.state.losses[1] < found);
  Run both;
  Examples texts = both.data;
  for (int64_t i = 0; i < both.held_out.size(); ++i) texts.add(both.held_out[i]);
  const CausalTask task(*both.model, texts);
  const auto gradients = extract_gradients(task, both.layers, {.k = 2, .batch = 4, .seed = 1});
  for (size_t i = 0; i < both.layers.size(); ++i) {
    INFO(both.layers[i].name);
    const Svd& g = gradients[i].svd;
    const Lora& lora = *learned.state.set.layers[i].lora;
    const Tensor want = scale(product(g), -learned.state.etas[0] / g.s.data()[0]), got = matmul(lora.b, lora.a);
    CHECK(max_relative_error(got.values(), want.values()) < 1e-4);
  }
  Run trained;
  trained.options.core = CoreForm::dense;
  trained.options.learn_validation = true;
  CHECK_THROWS_WITH_AS(trained.go(), "kvt: a trained core does not learn validation data", Error);
}

TEST_CASE("two tasks as one: loss and gradient of any batch are those of one task with the examples of both") {
  Run run;
  Examples texts = run.data;
  for (int64_t i = 0; i < run.held_out.size(); ++i) texts.add(run.held_out[i]);
  const CausalTask one(*run.model, texts);
  const BothTasks both(run.task, run.validation);
  CHECK(both.size() == one.size());
  const LoraSet set = attach_lora(*run.model, {.rank = 2, .seed = 3});
  const int64_t n = run.task.size();
  for (const std::vector<int64_t>& batch : {std::vector<int64_t>{0, 1}, {n, n + 1}, {0, n, 2, n + 1, n + 2}}) {
    CHECK(both.extent(batch).labels == one.extent(batch).labels);
    CHECK(both.extent(batch).tokens == one.extent(batch).tokens);
    std::vector<std::vector<float>> gradients;
    double losses[2];
    for (const Task* task : {static_cast<const Task*>(&one), static_cast<const Task*>(&both)}) {
      Tape tape;
      const Tensor loss = task->loss(batch, {});
      losses[gradients.size()] = loss.item();
      tape.backward(loss);
      const Tensor& b = set.layers[0].lora->b;
      gradients.emplace_back(b.grad(), b.grad() + b.size());
      for (const auto& layer : set.layers) layer.lora->a.drop_grad(), layer.lora->b.drop_grad();
    }
    CHECK(losses[1] == doctest::Approx(losses[0]));
    CHECK(max_relative_error(gradients[1], gradients[0]) < 1e-4);
  }
}

TEST_CASE("refining: a last round of fixed length, on all that is learned; cancelled and gone on, the same; where it helps nothing it leaves nothing") {
  const auto options = [](Run& run) {
    run.options.rounds = 1;
    run.options.refine = 8;
    run.options.refine_rank = 3;
    run.options.train.lr = 1e-2f;
  };
  Run run;
  options(run);
  run.options.learn_validation = true;
  std::vector<float> first_round;
  std::vector<RoundReport> reports;
  int64_t steps = 0;
  RoundsCallbacks callbacks;
  callbacks.save = [&](const RoundsState& s) {
    if (s.rounds() == 1) first_round.assign(s.set.layers[0].lora->a.data(), s.set.layers[0].lora->a.data() + s.set.layers[0].lora->a.size());
  };
  callbacks.round = [&](const RoundReport& r) { reports.push_back(r); };
  callbacks.training.step = [&](const StepReport& r) { steps = r.step; CHECK(r.steps == 8); };
  callbacks.training.validation = [](const ValidationReport&) { FAIL("validation text is learned, and chooses nothing"); };
  REQUIRE(run.go(callbacks));
  REQUIRE(reports.size() == 2);
  CHECK(steps == 8);
  CHECK(reports[1].rank == 5);
  CHECK(reports[1].k == 3);
  CHECK(run.state.finished);
  CHECK(run.state.etas[1] == 1);
  CHECK(run.state.losses[2] < run.state.losses[1]);
  CHECK(run.loss() == doctest::Approx(run.state.losses[2]));
  CHECK(run.state.extractions == doctest::Approx(1 + double(run.held_out.learned()) / double(run.data.learned())));
  const Tensor& a = run.state.set.layers[0].lora->a;
  CHECK(a.dim(0) == 5);
  CHECK(std::equal(first_round.begin(), first_round.end(), a.data()));      // earlier rounds stay as they were

  Run again;
  options(again);
  again.options.learn_validation = true;
  bool stop = false;
  RoundsCallbacks stopping;
  stopping.cancelled = [&] { return stop; };
  stopping.training.step = [&](const StepReport& r) { stop = r.step == 4; };
  CHECK(!again.go(stopping));
  CHECK(again.state.rounds() == 1);
  CHECK(again.state.set.layers[0].lora->rank() == 2);
  stop = false;
  stopping.training.step = {};
  REQUIRE(again.go(stopping));
  CHECK(std::equal(a.data(), a.data() + a.size(), again.state.set.layers[0].lora->a.data()));

  // Kept from training, validation text chooses the step; here none of them.
  Run kept;
  options(kept);
  kept.options.train.lr = 0.5f;
  REQUIRE(kept.go());
  CHECK(kept.state.finished);
  CHECK(kept.state.rounds() == 1);
  CHECK(kept.state.set.layers[0].lora->rank() == 2);
  CHECK(kept.loss() == doctest::Approx(kept.state.losses[1]));
  // Cut before, the rounds' sum keeps what it is cut to, and refining its own rank; the loss is that of what is left.
  Run cut;
  options(cut);
  cut.options.learn_validation = true;
  cut.options.mean_rank = 4;
  REQUIRE(cut.go());
  int64_t rank = 0;
  for (const auto& layer : cut.state.set.layers) rank += layer.lora->rank();
  CHECK(rank == 4 * int64_t(cut.layers.size()));
  CHECK(cut.loss() == doctest::Approx(cut.state.losses[2]));
  CHECK(cut.state.losses[2] < cut.state.losses[0]);
  Run better;
  options(better);
  REQUIRE(better.go());
  CHECK(better.state.rounds() == 2);
  CHECK(better.state.losses[2] < better.state.losses[1]);
  Run spectral;
  options(spectral);
  spectral.options.core = CoreForm::spectral;
  CHECK_THROWS_WITH_AS(spectral.go(), "kvt: rounds of trained cores are not refined", Error);
}

TEST_CASE("rounds on top of another adapter leave that one alone") {
  Run run;
  LoraSet other = attach_lora(*run.model, {.rank = 2, .alpha = 4, .targets = {"attn_q"}, .first_layer = 0, .last_layer = -1, .seed = 3});
  Rng rng(1);
  for (const auto& layer : other.layers)
    for (float& b : layer.lora->b.values()) b = 0.1f * rng.normal();
  const double base = run.loss();
  run.options.rounds = 1;
  REQUIRE(run.go());
  CHECK(run.state.losses[0] == doctest::Approx(base));
  CHECK(run.state.losses[1] < base);
  Run loaded;
  for (const auto& [name, lora] : other.layers)
    for (const TargetLayer& layer : loaded.layers)
      if (layer.name == name) layer.linear->adapters.push_back(lora);
  load_adapter(*loaded.model, run.file(), 1, loaded.id);
  CHECK(loaded.loss() == doctest::Approx(run.state.losses[1]));
}

TEST_CASE("rounds killed and resumed, or cancelled and gone on, end with the same bytes; a checkpoint of another run is refused") {
  const TemporaryFolder folder;
  ThreadPool one({.threads = 1});           // a forked child has no other threads
  const ThreadPool::Use use(one);
  const std::string checkpoint = folder / "checkpoint.gguf";
  const auto save = [&](Run& run) {
    return [&](const RoundsState& s) {
      Gguf file = rounds_file(s, run.options.core, "llama", run.id, DType::F32);
      set_identity(file, {run.id, {{"k", "2"}}});
      file.write(checkpoint);
    };
  };
  Run whole({.matrices = DType::Q8_0});
  REQUIRE(whole.go());
  whole.file().write(folder / "whole.gguf");
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    try {
      Run run({.matrices = DType::Q8_0});
      RoundsCallbacks callbacks;
      callbacks.save = save(run);
      callbacks.trial = [&](float, double) { if (run.state.rounds() == 1) std::raise(SIGKILL); };
      run.go(callbacks);
    } catch (...) {}
    _exit(1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  REQUIRE(WTERMSIG(status) == SIGKILL);
  {
    Run run({.matrices = DType::Q8_0});
    const Gguf file = Gguf::open(checkpoint, Gguf::Access::read);
    require_identity(file, {run.id, {{"k", "2"}}});
    CHECK_THROWS_AS(require_identity(file, {run.id, {{"k", "3"}}}), Error);
    run.state = read_rounds(*run.model, file, run.layers, run.id);
    CHECK(run.state.rounds() == 1);
    REQUIRE(run.go());
    CHECK(run.state.extractions == 3);
    CHECK(run.state.etas == whole.state.etas);
    run.file().write(folder / "resumed.gguf");
    CHECK(bytes_of(folder / "resumed.gguf") == bytes_of(folder / "whole.gguf"));
    Run elsewhere;
    CHECK_THROWS_AS(read_rounds(*elsewhere.model, file, elsewhere.layers, elsewhere.id), Error);
  }
  Run run({.matrices = DType::Q8_0});
  bool stop = false;
  RoundsCallbacks callbacks;
  callbacks.cancelled = [&] { return stop; };
  callbacks.trial = [&](float, double) { stop = run.state.rounds() == 2; };
  callbacks.save = save(run);
  CHECK(!run.go(callbacks));
  CHECK(run.state.rounds() == 2);
  CHECK(run.state.set.layers[0].lora->rank() == 4);
  CHECK(run.loss() == doctest::Approx(run.state.losses[2]));
}

TEST_CASE("a control vector: llama.cpp's keys; it is the mean change of the residual stream, and moves the logits the way the adapter does") {
  Run run({.layers = 3});
  run.options.rounds = 2;
  REQUIRE(run.go());
  const auto scores = [](Run& r) { return r.model->logits(r.model->hidden(r.held_out[0].tokens, 1, int64_t(r.held_out[0].tokens.size()), {})); };
  const Tensor adapted = scores(run);
  const Gguf file = control_vector(*run.model, run.state.set, run.data);
  const Tensor again = scores(run);
  CHECK(std::equal(adapted.data(), adapted.data() + adapted.size(), again.data()));      // the model is as it was
  CHECK(file.string("general.architecture") == "controlvector");
  CHECK(file.string("controlvector.model_hint") == "llama");
  CHECK(std::get<int32_t>(*file.find("controlvector.layer_count")) == 2);
  CHECK(file.tensors().size() == 2);
  CHECK(file.tensor("direction.1").shape() == Shape{32});

  // What direction.1 + direction.2 sum to, from the final states before their norm: h = Σ over blocks of what they add.
  struct Offset : Adapter {
    Tensor d;
    explicit Offset(Tensor direction) : d(std::move(direction)) {}
    Tensor operator()(const Tensor&, const Tensor& y) const override { return y + d; }
  };
  Run steered({.layers = 3}), plain({.layers = 3});
  for (const TargetLayer& layer : steered.layers)
    for (const char* l : {"1", "2"})
      if (layer.name == std::string("blk.") + l + ".ffn_down") layer.linear->adapters.push_back(std::make_shared<Offset>(file.tensor(std::string("direction.") + l)));
  const Tensor before = scores(plain), moved = scores(steered) - before, wanted = adapted - before;
  const Tensor mean_moved = mean(moved.view({moved.size() / 40, 40}), 0), mean_wanted = mean(wanted.view({wanted.size() / 40, 40}), 0);
  // The cosine of two directions in 40 dimensions that have nothing to do with one another is 0 ± 1/√40: here more than three deviations of it.
  CHECK(double(sum(mean_moved * mean_wanted).item()) > 3 / std::sqrt(40.0) * norm(mean_moved) * norm(mean_wanted));

  // An adapter of the last block alone changes what that block adds, and nothing before it.
  Run last({.layers = 3});
  last.layers = target_layers(*last.model, {"ffn_down"}, 2, 2);
  last.options.rounds = 1;
  REQUIRE(last.go());
  const Gguf late = control_vector(*last.model, last.state.set, last.data);
  CHECK(norm(late.tensor("direction.1")) == 0);
  CHECK(norm(late.tensor("direction.2")) > 1e-3);
  CHECK_THROWS_AS(control_vector(*Run({.layers = 1}).model, {}, run.data), Error);
}
