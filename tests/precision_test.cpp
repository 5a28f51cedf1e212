// Mixed precision against F32: results and gradients of every operation within bounds that follow from the rounding of operands, what
// must not be rounded at all, and the memory it is for.
#include "tests/main.h"

#include "engine/adapter.h"
#include "engine/convert.h"
#include "engine/load.h"
#include "engine/load_encoder.h"
#include "engine/seq2seq_file.h"
#include "ops/precision.h"
#include "ops/quant.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;
using Tensors = std::vector<Tensor>;

namespace {

// |round(x) − x| ≤ u |x|, and |round(a) round(b) − a b| ≤ pair |a b|
constexpr double u = 1.0 / 256, pair = 2 * u + u * u;

struct Run {
  Tensor y;
  Tensors grads;
};

// f and its gradients in `precision`, with dy as the gradient of its result.
Run run(const TensorFn& f, const Tensors& xs, Precision precision, const Tensor& dy = {}) {
  Run r;
  Tensors leaves;
  for (const Tensor& x : xs) leaves.push_back(x.clone().want_grad());
  Tape tape(precision);
  r.y = f(leaves);
  if (!dy) return r;
  REQUIRE(r.y.wants_grad());
  std::copy_n(dy.data(), dy.size(), r.y.grad());
  tape.backward_from_grads();
  for (const Tensor& x : leaves) r.grads.push_back(Tensor::from(x.shape(), {x.grad(), size_t(x.size())}));
  return r;
}

Tensor magnitudes(const Tensor& x) {
  Tensor y = x.clone();
  for (float& v : y.values()) v = std::fabs(v);
  return y;
}

Tensor nearest(const Tensor& x) { return unpack(pack(x, DType::BF16)); }

// |got − want| ≤ factor · scale, number by number, and a hair for sums in another order; some number differs.
void check_within(const Tensor& got, const Tensor& want, const Tensor& scale, double factor, bool differs = true) {
  REQUIRE(got.size() == want.size());
  double worst = 0;
  bool different = false;
  for (int64_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(double(got.data()[i]) - want.data()[i]);
    worst = std::max(worst, error / ((factor + 1e-5) * scale.data()[i] + 1e-30));
    different |= error > 1e-5 * scale.data()[i];
  }
  CHECK(worst <= 1);
  CHECK(different == differs);
}

bool equal(const Tensor& a, const Tensor& b) { return a.size() == b.size() && std::equal(a.data(), a.data() + a.size(), b.data()); }

}  // namespace

TEST_CASE("products round their operands, forward and backward") {
  struct Case {
    std::string name;
    TensorFn f;
    Tensors xs;
    std::vector<bool> exact = {};      // inputs whose gradient is none of a product
  };
  Rng rng(31);
  std::vector<Case> cases;
  for (const int64_t T : {1, 3, 40, 300}) {
    cases.push_back({"linear", [](const Tensors& x) { return linear(x[0], x[1]); }, {randn({T, 37}, rng), randn({21, 37}, rng)}});
    cases.push_back({"linear with bias", [](const Tensors& x) { return linear(x[0], x[1], x[2]); }, {randn({T, 600}, rng), randn({9, 600}, rng), randn({9}, rng)}, {false, false, true}});
  }
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      const auto f = [=](const Tensors& x) { return matmul(x[0], x[1], ta, tb); };
      const Shape a = ta ? Shape{2, 4, 33} : Shape{2, 33, 4};
      cases.push_back({"matmul", f, {randn(a, rng), randn(tb ? Shape{2, 5, 4} : Shape{2, 4, 5}, rng)}});
      cases.push_back({"matmul, one B", f, {randn(a, rng), randn(tb ? Shape{5, 4} : Shape{4, 5}, rng)}});
    }
  cases.push_back({"patch_embedding", [](const Tensors& x) { return patch_embedding(x[0], x[1], x[2], 3); },
                   {randn({2, 2, 6, 9}, rng), randn({5, 18}, rng), randn({5}, rng)}, {false, false, true}});
  for (const Case& c : cases) {
    INFO(c.name, " of ", c.xs[0].shape());
    const Tensor dy = randn(c.f(c.xs).shape(), rng);
    const Run want = run(c.f, c.xs, Precision::f32, dy), got = run(c.f, c.xs, Precision::bf16, dy);
    Tensors sizes;
    for (const Tensor& x : c.xs) sizes.push_back(magnitudes(x));
    const Run scale = run(c.f, sizes, Precision::f32, magnitudes(dy));            // Σ |a b|, of results and gradients
    check_within(got.y, want.y, scale.y, pair);
    for (size_t i = 0; i < c.xs.size(); ++i) {
      INFO("input ", i);
      if (i < c.exact.size() && c.exact[i]) CHECK(equal(got.grads[i], want.grads[i]));
      else check_within(got.grads[i], want.grads[i], scale.grads[i], pair);
    }
    // The same products in F32 of numbers rounded before: no other rounding is there.
    Tensors before;
    for (size_t i = 0; i < c.xs.size(); ++i) before.push_back(i < c.exact.size() && c.exact[i] ? c.xs[i] : nearest(c.xs[i]));
    const Run again = run(c.f, before, Precision::f32, nearest(dy));
    check_within(got.y, again.y, scale.y, 0, false);
    for (size_t i = 0; i < c.xs.size(); ++i)
      if (i >= c.exact.size() || !c.exact[i]) check_within(got.grads[i], again.grads[i], scale.grads[i], 0, false);
  }
}

TEST_CASE("products with weights of every type") {
  Rng rng(32);
  for (const DType type : {DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::Q4_K, DType::Q6_K})
    for (const int64_t T : {1, 20, 300}) {
      INFO(std::string(info(type).name), " T ", T);
      const Tensor w = pack(randn({270, 512}, rng, 0.1f), type), full = unpack(w), x = randn({T, 512}, rng), dy = randn({T, 270}, rng);
      const Run want = run([&](const Tensors& t) { return linear(t[0], full); }, {x}, Precision::f32, dy);
      const Run got = run([&](const Tensors& t) { return linear(t[0], w); }, {x}, Precision::bf16, dy);
      const Tensor sizes = magnitudes(full);
      const Run scale = run([&](const Tensors& t) { return linear(t[0], sizes); }, {magnitudes(x)}, Precision::f32, magnitudes(dy));
      check_within(got.y, want.y, scale.y, pair);
      check_within(got.grads[0], want.grads[0], scale.grads[0], pair);
    }
}

TEST_CASE("attention: that of rounded queries, keys and values") {
  struct Sizes { int64_t B, T, S, H, Hkv, D; AttentionOptions options; };
  const std::vector<Sizes> table = {
      {1, 5, 5, 1, 1, 4, {.causal = true}}, {2, 70, 70, 6, 2, 16, {.causal = true}}, {2, 9, 33, 4, 4, 5, {.scale = 0.7f, .lengths = {33, 12}}},
      {1, 40, 40, 2, 1, 64, {.causal = true, .window = 9}},
  };
  Rng rng(33);
  for (const Sizes& s : table) {
    const TensorFn f = [&](const Tensors& x) { return attention(x[0], x[1], x[2], s.options); };
    const Tensors xs = {randn({s.B, s.T, s.H, s.D}, rng), randn({s.B, s.S, s.Hkv, s.D}, rng), randn({s.B, s.S, s.Hkv, s.D}, rng)};
    const Tensor dy = randn(xs[0].shape(), rng);
    INFO("q ", xs[0].shape());
    const Run got = run(f, xs, Precision::bf16, dy), want = run(f, {nearest(xs[0]), nearest(xs[1]), nearest(xs[2])}, Precision::f32, dy);
    CHECK(equal(got.y, want.y));
    CHECK(equal(got.grads[2], want.grads[2]));
    // Beside that, the result is rounded for backward: delta = ⟨dy, y⟩ moves by at most e = u Σ |dy y| of its row, and through dS = P ⊙ (dy Vᵀ − delta)
    // dq by scale e |K| averaged by P, dk by scale Pᵀ of e |q|. Σ P = 1, so the largest |K| bounds the former, and Σ_rows e |q| the latter.
    const float scale = s.options.scale == 0 ? 1 / std::sqrt(float(s.D)) : s.options.scale;
    double largest_k = 0;
    for (float k : xs[1].values()) largest_k = std::max(largest_k, std::fabs(double(k)) * (1 + u));
    const Tensor bound_q(xs[0].shape()), bound_k = Tensor::zeros(xs[1].shape());
    for (int64_t row = 0; row < s.B * s.T * s.H; ++row) {
      double e = 0;
      for (int64_t d = row * s.D; d < (row + 1) * s.D; ++d) e += u * std::fabs(double(dy.data()[d]) * want.y.data()[d]);
      const int64_t b = row / (s.T * s.H), hk = row % s.H / (s.H / s.Hkv);
      for (int64_t d = 0; d < s.D; ++d) {
        bound_q.data()[row * s.D + d] = float(scale * (e * largest_k + 1e-4));
        for (int64_t j = 0; j < s.S; ++j)
          bound_k.data()[((b * s.S + j) * s.Hkv + hk) * s.D + d] += float(scale * (e * std::fabs(double(xs[0].data()[row * s.D + d])) * (1 + u) + 1e-5));
      }
    }
    check_within(got.grads[0], want.grads[0], bound_q, 1);
    check_within(got.grads[1], want.grads[1], bound_k, 1);
  }
}

TEST_CASE("activation functions: results as in F32, gradients at rounded arguments") {
  // |f'(round(x)) − f'(x)| ≤ u |x| sup |f''|
  struct Case { std::string name; Tensor (*f)(const Tensor&); double curvature; };
  Rng rng(34);
  for (const Case& one : std::vector<Case>{{"silu", silu, 0.5}, {"gelu", gelu, 0.798}, {"gelu_tanh", gelu_tanh, 0.80}, {"sigmoid", sigmoid, 0.0963}, {"tanh", kvt::tanh, 0.770}}) {
    const std::string& name = one.name;
    const auto f = one.f;
    const double curvature = one.curvature;
    INFO(name);
    const Tensors xs = {randn({7, 300}, rng, 2)};
    const Tensor dy = randn({7, 300}, rng), scale = magnitudes(xs[0]);
    for (int64_t i = 0; i < scale.size(); ++i) scale.data()[i] = scale.data()[i] * std::fabs(dy.data()[i]) + 1e-3f;
    const TensorFn apply = [f = f](const Tensors& x) { return f(x[0]); };
    const Run want = run(apply, xs, Precision::f32, dy), got = run(apply, xs, Precision::bf16, dy);
    CHECK(equal(got.y, want.y));
    check_within(got.grads[0], want.grads[0], scale, u * curvature);
  }

  // dgate = dy up silu'(gate), dup = dy silu(gate);  |silu'| ≤ 1.1, |silu''| ≤ ½
  const Tensors xs = {randn({7, 300}, rng, 2), randn({7, 300}, rng)};
  const Tensor dy = randn({7, 300}, rng), bound_gate(dy.shape()), bound_up(dy.shape());
  for (int64_t i = 0; i < dy.size(); ++i) {
    const double d = std::fabs(double(dy.data()[i])), gate = std::fabs(double(xs[0].data()[i])), up = std::fabs(double(xs[1].data()[i]));
    bound_gate.data()[i] = float(d * up * (1.1 + (1 + u) * 0.5 * gate)) + 1e-3f;
    bound_up.data()[i] = float(d * 1.1 * gate) + 1e-3f;
  }
  const auto gated = [](const Tensors& x) { return swiglu(x[0], x[1]); };
  const Run want = run(gated, xs, Precision::f32, dy), got = run(gated, xs, Precision::bf16, dy);
  CHECK(equal(got.y, want.y));
  check_within(got.grads[0], want.grads[0], bound_gate, u);
  check_within(got.grads[1], want.grads[1], bound_up, u);

  const auto product = [](const Tensors& x) { return x[0] * x[1]; };
  const Run times = run(product, xs, Precision::f32, dy), times16 = run(product, xs, Precision::bf16, dy);
  CHECK(equal(times16.y, times.y));
  for (int i : {0, 1}) check_within(times16.grads[size_t(i)], times.grads[size_t(i)], magnitudes(times.grads[size_t(i)]), u);
}

TEST_CASE("all else is F32 to the bit: sums, norms, softmax, loss, rotations, what moves numbers") {
  struct Case { std::string name; TensorFn f; std::vector<Shape> shapes; };
  RopeOptions turned;
  turned.pairing = RopeOptions::halves;
  const std::vector<Case> cases = {
      {"add", [](const Tensors& x) { return x[0] + x[1]; }, {{3, 5, 8}, {5, 8}}},
      {"sub", [](const Tensors& x) { return x[0] - x[1]; }, {{3, 8}, {3, 8}}},
      {"scale", [](const Tensors& x) { return scale(x[0], -1.7f); }, {{3, 7}}},
      {"bias", [](const Tensors& x) { return bias(x[0], x[1]); }, {{3, 4, 7}, {7}}},
      {"relu", [](const Tensors& x) { return relu(x[0]); }, {{5, 40}}},
      {"dropout", [](const Tensors& x) { Rng same(3); return dropout(x[0], 0.4f, same); }, {{5, 40}}},
      {"softmax", [](const Tensors& x) { return softmax(x[0]); }, {{3, 33}}},
      {"log_softmax", [](const Tensors& x) { return log_softmax(x[0]); }, {{3, 33}}},
      {"rms_norm", [](const Tensors& x) { return rms_norm(x[0], x[1], 1e-5f); }, {{30, 33}, {33}}},
      {"layer_norm", [](const Tensors& x) { return layer_norm(x[0], x[1], x[2], 1e-5f); }, {{30, 33}, {33}, {33}}},
      {"cross_entropy", [](const Tensors& x) { return cross_entropy(x[0], Ids{3, ignored_label, 0}); }, {{3, 9}}},
      {"sum", [](const Tensors& x) { return sum(x[0], 1); }, {{3, 4, 5}}},
      {"mean", [](const Tensors& x) { return mean(x[0]); }, {{3, 4, 5}}},
      {"rope", [&](const Tensors& x) { return rope(x[0], Ids{3, 4, 5}, turned); }, {{2, 3, 2, 8}}},
      {"embedding", [](const Tensors& x) { return embedding(Ids{3, 0, 3, 5}, {4}, x[0]); }, {{6, 4}}},
      {"permute", [](const Tensors& x) { return permute(x[0], {2, 0, 1}); }, {{2, 3, 4}}},
      {"slice", [](const Tensors& x) { return slice(x[0], 1, 1, 3); }, {{3, 4}}},
      {"concat", [](const Tensors& x) { return concat(x, 0); }, {{3, 4}, {1, 4}}},
  };
  Rng rng(35);
  for (const Case& c : cases) {
    INFO(c.name);
    Tensors xs;
    for (const Shape& s : c.shapes) xs.push_back(randn(s, rng));
    const Tensor dy = randn(c.f(xs).shape(), rng);
    const Run want = run(c.f, xs, Precision::f32, dy), got = run(c.f, xs, Precision::bf16, dy);
    CHECK(equal(got.y, want.y));
    for (size_t i = 0; i < xs.size(); ++i) CHECK(equal(got.grads[i], want.grads[i]));
  }
}

namespace {

// The gradient of every parameter of `model` that has one, in `precision`, and the loss.
struct ModelRun {
  float loss;
  std::map<std::string, std::vector<float>> grads;
};

ModelRun run_model(Model& model, const std::function<Tensor()>& loss, Precision precision) {
  model.each_parameter([](const std::string&, Parameter& p) { if (p) p.tensor.drop_grad(); });
  Tape tape(precision);
  const Tensor l = loss();
  ModelRun r{l.item(), {}};
  tape.backward(l);
  model.each_parameter([&](const std::string& name, Parameter& p) {
    if (p && p.tensor.has_grad()) r.grads[name].assign(p.tensor.grad(), p.tensor.grad() + p.tensor.size());
  });
  return r;
}

double distance(std::span<const float> a, std::span<const float> b) {
  double total = 0;
  for (size_t i = 0; i < a.size(); ++i) total += (double(a[i]) - (b.empty() ? 0 : b[i])) * (double(a[i]) - (b.empty() ? 0 : b[i]));
  return std::sqrt(total);
}

// Roundings are independent, so along a path of n products errors of u each add up to √n u in the norm, twice that for both operands.
// `products` lie one behind the other in the forward pass; backward goes as many back. Norms that scale small results up do so with their
// errors, by `growth`.
void check_model(const std::string& name, Model& model, int products, const std::function<Tensor()>& loss, double growth = 1) {
  const ModelRun want = run_model(model, loss, Precision::f32), got = run_model(model, loss, Precision::bf16);
  const double tolerance = growth * 2 * u * std::sqrt(2.0 * products);
  INFO(name, ": loss ", got.loss, " for ", want.loss, ", tolerance ", tolerance);
  CHECK(got.loss != want.loss);
  CHECK(std::fabs(got.loss - want.loss) <= tolerance * std::fabs(want.loss));
  CHECK(got.grads.size() > 4);
  REQUIRE(got.grads.size() == want.grads.size());
  for (const auto& one : want.grads) {
    const std::string& parameter = one.first;
    const auto& g = one.second;
    if (parameter.ends_with("attn_k.bias") || parameter.ends_with("attention.k.bias")) continue;      // cancels in the softmax: rounding alone
    const double error = distance(got.grads.at(parameter), g), size = distance(g, {});
    INFO(parameter, ": ", error / size);
    CHECK(error > 0);
    CHECK(error <= tolerance * size);
  }
}

Gguf converted(const std::string& architecture) {
  return convert(PublishedModel::open(project_path("tests/golden/" + architecture + "/model.safetensors")), {"", DType::F32});
}

}  // namespace

TEST_CASE("every architecture: loss and the gradient of every weight") {
  const Ids ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8}, labels = {1, 4, 1, 5, 9, ignored_label, 6, 5, 3, 5, 8, ignored_label};
  for (const std::string architecture : {"llama", "qwen2", "qwen3", "gpt2", "phi3", "gemma3"}) {
    const Gguf gguf = converted(architecture);
    const auto model = load_model(gguf);
    all_weights(*model);
    for (const bool recompute : {false, true})
      check_model(architecture, *model, int(5 * model->layers() + 1), [&] { return model->loss(model->hidden(ids, 2, 6, {.recompute = recompute}), labels); },
                  architecture == "gemma3" ? 2 : 1);          // it has six norms a block
  }
  {
    Gguf gguf = converted("bert");
    gguf.set("bert.pooling_type", uint32_t(1));
    const auto model = load_bert(gguf);
    all_weights(*model);
    Rng rng(36);
    const Ids lengths = {6, 4};
    const Tensor direction = randn({2, model->config().channels}, rng);
    check_model("bert", *model, int(5 * model->layers()) + 1, [&] { return sum(model->pooled(model->hidden(ids, lengths, 6), lengths) * direction); });
  }
  {
    const Gguf gguf = converted("vit");
    const auto model = load_vit(gguf);
    all_weights(*model);
    Rng rng(37);
    const VitConfig& c = model->config();
    const Tensor images = randn({3, c.image_channels, c.image_size, c.image_size}, rng);
    check_model("vit", *model, int(5 * model->layers()) + 2, [&] { return cross_entropy(model->logits(images), Ids{0, 2, 1}); });
  }
  for (const char* file : {"pre", "post", "shared"}) {
    const Gguf gguf = Gguf::open(project_path(std::string("tests/golden/seq2seq_") + file + ".gguf"), Gguf::Access::read);
    const auto model = load_seq2seq(gguf);
    all_weights(*model);
    const auto& source = gguf.array<int32_t>("golden.source");
    const auto &target = gguf.array<int32_t>("golden.target"), &lengths = gguf.array<int32_t>("golden.lengths"), &answers = gguf.array<int32_t>("golden.labels");
    const Seq2SeqConfig& c = model->config();
    check_model(std::string("seq2seq ") + file, *model, int(5 * c.encoder_layers + 8 * c.decoder_layers + 1), [&] {
      return model->loss(model->decode(target, 4, model->encode(source, lengths, 5)), answers, 0.1f);
    });
  }
}

TEST_CASE("what a forward pass keeps for backward is what it must, in both precisions; and peak memory falls") {
  const int64_t B = 4, T = 32, L = 12, C = 64, hidden = 160, heads = 4, kv_heads = 2, D = C / heads, r = 4;
  const Gguf base = SmallLlama{.layers = L, .channels = C, .hidden = hidden, .heads = heads, .kv_heads = kv_heads, .tied = true, .matrices = DType::Q8_0}.gguf();
  const auto model = load_model(base);
  const LoraSet set = attach_lora(*model, {.rank = r, .alpha = 8});
  Ids ids(size_t(B * T)), labels(size_t(B * T));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i * 7 % 40), labels[i] = int32_t(i * 5 % 40);

  Examples examples(T);
  for (int64_t b = 0; b < B; ++b) examples.add({{ids.begin() + b * T, ids.begin() + (b + 1) * T}, {labels.begin() + b * T, labels.begin() + (b + 1) * T}});

  // Of each token and block: two states for the norms and the softmax's sums as F32; what attention reads and gives,
  // what the gate reads, and what LoRA's second products do.
  const int64_t f32 = L * (2 * C + heads), operands = L * (2 * heads * D + 2 * kv_heads * D + 2 * hidden + 7 * r);
  // The first norm's input wants no gradient: its result is kept instead. The last norm keeps its input, too, and the loss dx.
  const int64_t first = C, last = 2 * C;
  std::map<Precision, int64_t> peak;
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    INFO(std::string(name(precision)));
    const auto step = [&](bool measure) {
      for (const auto& layer : set.layers) layer.lora->a.drop_grad(), layer.lora->b.drop_grad();
      const int64_t before = Storage::use().now;
      Storage::reset_use();
      Tape tape(precision);
      const Tensor loss = model->loss(model->hidden(ids, B, T, {}), labels);
      const auto kept = double(Storage::use().now - before);
      const auto must = double(B * T * (4 * (f32 - first + last) + (precision == Precision::bf16 ? 2 : 4) * (operands + first)));
      if (measure) CHECK(kept == doctest::Approx(must).epsilon(0.002));
      tape.backward(loss);
      if (measure) peak[precision] = Storage::use().most - before;
    };
    step(false);                                     // tables and scratch memory that stay
    step(true);
    TrainOptions options;
    options.batch = B;
    options.precision = precision;
    int64_t trained = 0, adapted = 0;
    for (const auto& layer : set.layers) trained += layer.lora->a.size() + layer.lora->b.size(), adapted += layer.lora->b.dim(0);
    const CausalTask task(*model, examples);
    TrainedSet all;
    for (const auto& layer : set.layers) all.push_back({"a", layer.lora->a}), all.push_back({"b", layer.lora->b});
    const TrainingMemory tried = try_memory(task, all, options, false);
    CHECK(tried.trained == 4 * trained);
    CHECK(tried.activations + tried.work + tried.gradients == doctest::Approx(double(peak[precision])).epsilon(0.02));
    for (const Trained& t : all) CHECK(!t.tensor.has_grad());
    const double planned = double(training_bytes(model->config(), trained, adapted, options, T, false)) - 3.0 * 4 * double(trained);      // but for weights and moments
    CHECK(double(peak[precision]) == doctest::Approx(planned).epsilon(0.15));
  }
  MESSAGE("peak F32 ", peak[Precision::f32], " bytes, BF16 ", peak[Precision::bf16]);
  CHECK(double(peak[Precision::bf16]) < 0.7 * double(peak[Precision::f32]));
}
