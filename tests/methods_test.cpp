// Methods of adaptation beside LoRA and KVT: IA3, AdapterDrop, the probe of a language model.
#include "tests/main.h"

#include <cstring>

#include "engine/fingerprint.h"
#include "engine/fusion.h"
#include "engine/ia3.h"
#include "engine/convert.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

const Ids ids = {1, 5, 9, 2, 30, 31, 7, 7};
Tensor logits_of(const CausalLm& model) { return model.logits(model.hidden(ids, 2, 4, {})); }
bool equal(const Tensor& a, const Tensor& b) { return std::equal(a.data(), a.data() + a.size(), b.data()); }

struct Base {
  Gguf file;
  std::unique_ptr<CausalLm> model;
  std::string id;
  explicit Base(const SmallLlama& small = {}) : file(small.gguf()), model(load_model(file)), id(fingerprint(file)) {}
};

// Factors that are not one.
Ia3Set some_ia3(Model& model, uint64_t seed) {
  Ia3Set set = attach_ia3(model);
  Rng rng(seed);
  for (const auto& layer : set.layers)
    for (float& x : layer.factors->l.values()) x = 0.5f + float(rng.uniform());
  return set;
}

LoraSet some_lora(Model& model, std::vector<std::string> targets, int64_t first = 0) {
  LoraSet set = attach_lora(model, {.rank = 4, .alpha = 6, .targets = std::move(targets), .first_layer = first, .last_layer = -1, .seed = 3});
  Rng rng(8);
  for (const auto& layer : set.layers)
    for (float& x : layer.lora->b.values()) x = 0.1f * rng.normal();
  return set;
}

Ids ints(const Gguf& file, const char* name) {
  const Tensor t = file.tensor(name);
  Ids values(size_t(t.size()));
  std::memcpy(values.data(), t.raw(), size_t(t.bytes()));
  return values;
}

std::span<const float> gradient(const Tensor& x) { return {x.grad(), size_t(x.size())}; }

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("IA3: gradients of factors on the output, on a part of it, and on the input") {
  Rng rng(1);
  const Tensor w = randn({7, 5}, rng), b = randn({7}, rng), x = randn({3, 5}, rng);
  const auto layer = [&](Rescale::Side side, const Tensor& l) {
    Linear linear(5, 7, true);
    linear.weight.tensor = w;
    linear.bias.tensor = b;
    linear.adapters.push_back(std::make_shared<Rescale>(side, l));
    return linear;
  };
  for (const auto& [side, n] : {std::pair{Rescale::Side::output, 7}, {Rescale::Side::output, 4}, {Rescale::Side::input, 5}})
    check_gradients("ia3", [&, s = side](const std::vector<Tensor>& in) { return layer(s, in[0])(in[1]); }, {rand_uniform({n}, rng, 0.5f, 1.5f), x.clone()}, rng);
  // By hand: of the last two of seven numbers, and of x.
  const Tensor plain = linear(x, w, b), part = layer(Rescale::Side::output, Tensor::filled({2}, 3))(x), in = layer(Rescale::Side::input, Tensor::filled({5}, 2))(x);
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t i = 0; i < 7; ++i) {
      const float y = plain.data()[r * 7 + i];
      CHECK(part.data()[r * 7 + i] == doctest::Approx(i < 5 ? y : 3 * y));
      CHECK(in.data()[r * 7 + i] == doctest::Approx(2 * (y - b.data()[i]) + b.data()[i]).epsilon(1e-4));
    }
}

TEST_CASE("IA3 and the probe of a tied output agree with PyTorch: scores, loss, gradients") {
  const Gguf base = Gguf::open(project_path("tests/golden/llama_tied.gguf")), golden = Gguf::open(project_path("tests/golden/methods.gguf"));
  const Ids tokens = ints(base, "golden.ids"), labels = ints(base, "golden.labels");
  const int64_t T = base.tensor("golden.ids").dim(1);
  const auto compare = [&](const CausalLm& model, const std::string& what) {
    CHECK(max_relative_error(model.logits(model.hidden(tokens, 2, T, {})).values(), golden.tensor(what + ".logits").values()) < 1e-4);
    Tape tape;
    const Tensor loss = model.loss(model.hidden(tokens, 2, T, {}), labels);
    CHECK(loss.item() == doctest::Approx(golden.tensor(what + ".loss").item()).epsilon(1e-5));
    tape.backward(loss);
  };
  {
    const auto model = load_model(base);
    const Ia3Set set = attach_ia3(*model);
    REQUIRE(set.layers.size() == 6);
    for (const Trained& t : trained_factors(set)) {
      INFO(t.name);
      CHECK(!t.decay);
      const Tensor want = golden.tensor(t.name);
      REQUIRE(want.shape() == t.tensor.shape());
      std::copy_n(want.data(), want.size(), t.tensor.data());
    }
    compare(*model, "ia3");
    for (const auto& layer : set.layers) {
      INFO(layer.name);
      CHECK(max_relative_error(gradient(layer.factors->l), golden.tensor("ia3.grad." + layer.name).values()) < 1e-3);
    }
  }
  const auto model = load_model(base);
  const Tensor a = golden.tensor("probe.a"), b = golden.tensor("probe.b");
  const auto scale = float(golden.real("golden.scale"));
  const LoraSet set = attach_lora(*model, {.rank = a.dim(0), .alpha = scale * float(a.dim(0)), .targets = {"output"}});
  REQUIRE(set.layers.size() == 1);
  CHECK(set.layers[0].name == "output");
  std::copy_n(a.data(), a.size(), set.layers[0].lora->a.data());
  std::copy_n(b.data(), b.size(), set.layers[0].lora->b.data());
  compare(*model, "probe");
  CHECK(max_relative_error(gradient(set.layers[0].lora->a), golden.tensor("probe.grad.a").values()) < 1e-3);
  CHECK(max_relative_error(gradient(set.layers[0].lora->b), golden.tensor("probe.grad.b").values()) < 1e-3);
}

TEST_CASE("IA3: new factors change nothing; files keep them; scales go from the base on; what does not fit is refused") {
  const TemporaryFolder folder;
  Base trained, plain;
  const Tensor before = logits_of(*plain.model);
  {
    Base fresh;
    CHECK(attach_ia3(*fresh.model, 1, 1).layers.size() == 3);
    CHECK(equal(logits_of(*fresh.model), before));
  }
  const Ia3Set set = some_ia3(*trained.model, 4);
  const Tensor want = logits_of(*trained.model);
  CHECK(max_relative_error(before.values(), want.values()) > 0.1);
  ia3_file(set, "llama", trained.id).write(folder / "a.gguf");
  const Gguf file = Gguf::open(folder / "a.gguf");
  CHECK(file.string("adapter.type") == "ia3");
  CHECK(file.tensor("blk.0.attn_k.weight.ia3_out").shape() == Shape{16});
  CHECK(file.tensor("blk.1.ffn_down.weight.ia3_in").shape() == Shape{64});
  {
    Base loaded;
    load_ia3(*loaded.model, file, 1, loaded.id);
    CHECK(equal(logits_of(*loaded.model), want));
  }
  {
    Base none;
    load_ia3(*none.model, file, 0, none.id);
    CHECK(equal(logits_of(*none.model), before));
  }
  {
    Base half;
    const Ia3Set read = load_ia3(*half.model, file, 0.5f, half.id);
    CHECK(read.layers[0].factors->l.data()[3] == doctest::Approx(0.5 + 0.5 * set.layers[0].factors->l.data()[3]));
  }
  const auto message = [&](const std::function<void(Gguf&)>& change) {
    Gguf other = file;
    change(other);
    return error_of([&] { load_ia3(*plain.model, other, 1, plain.id); });
  };
  CHECK(message([](Gguf& f) { f.set("kvt.base.fingerprint", std::string("0")); }).find("trained on another base model") != std::string::npos);
  CHECK(message([](Gguf& f) { f.set("adapter.type", std::string("lora")); }).find("no adapter of type 'ia3'") != std::string::npos);
  CHECK(message([](Gguf& f) { f.add("blk.7.attn_k.weight.ia3_out", Tensor::zeros({16})); }).find("no linear layer 'blk.7.attn_k'") != std::string::npos);
  CHECK(message([](Gguf& f) { f.add("blk.0.attn_q.weight.ia3_out", Tensor::zeros({33})); }).find("does not fit weights [32, 32]") != std::string::npos);
  CHECK(message([](Gguf& f) { f.add("blk.0.attn_q.weight.ia3_in", Tensor::zeros({31})); }).find("does not fit weights [32, 32]") != std::string::npos);
  CHECK(message([](Gguf& f) { f.add("blk.0.attn_q.weight.lora_a", Tensor::zeros({31})); }).find("holds no factors") != std::string::npos);
  CHECK(equal(logits_of(*plain.model), before));      // no layer has changed
}

TEST_CASE("IA3 on every architecture: keys, values and hidden layer, over quantized weights, merged, and beside a LoRA") {
  for (const std::string architecture : {"llama", "qwen2", "qwen3", "gpt2", "phi3", "gemma3"}) {
    INFO(architecture);
    const Gguf file = convert(PublishedModel::open(project_path("tests/golden/" + architecture + "/model.safetensors")), {"", DType::F32});
    const auto model = load_model(file);
    const LmConfig c = model->config();
    const Tensor before = logits_of(*model);
    const Ia3Set set = some_ia3(*model, 5);
    const bool fused = architecture == "gpt2" || architecture == "phi3";
    CHECK(int64_t(set.layers.size()) == c.layers * (fused ? 2 : 3));
    int64_t numbers = 0;
    for (const auto& layer : set.layers) numbers += layer.factors->l.size();
    CHECK(numbers == c.layers * (2 * c.kv_heads * c.head_size + c.hidden));      // as the paper counts them
    some_lora(*model, {"ffn_down"});             // behind the factors: it sees the layer's own x
    const Tensor want = logits_of(*model);
    CHECK(max_relative_error(before.values(), want.values()) > 1e-2);
    const Gguf merged = merged_model(file, *model, {});
    CHECK(max_relative_error(logits_of(*load_model(merged)).values(), want.values()) < 1e-4);
    for (const Gguf::Entry& e : merged.tensors()) CHECK(e.tensor.shape() == file.tensor(e.name).shape());

    // Only the adapted half of twins is rescaled.
    const std::shared_ptr<CausalLm> again = load_model(file);
    const Ia3Set same = some_ia3(*again, 5);
    const Tensor adapted = logits_of(*again);
    const Fused fusion(again, {Fusion::Form::residual, 1});
    const Tensor mixed = logits_of(fusion);
    for (int64_t i = 0; i < mixed.size(); ++i)
      REQUIRE(mixed.data()[i] == doctest::Approx(0.5 * (double(before.data()[i]) + double(adapted.data()[i]))).epsilon(1e-3).scale(1));
  }
  for (const DType type : {DType::Q4_1, DType::Q8_0, DType::F16}) {
    const std::string name = info(type).name;
    INFO(name);
    Base base({.matrices = type}), floats({.matrices = type});
    some_ia3(*base.model, 6);
    // The same factors on the same weights as F32
    const Gguf unpacked = model_file(floats.file, *floats.model, DType::F32);
    const auto exact = load_model(unpacked);
    some_ia3(*exact, 6);
    set_activations(Activations::f32);
    CHECK(max_relative_error(logits_of(*base.model).values(), logits_of(*exact).values()) < 1e-4);
    set_activations(Activations::q8);
  }
}

TEST_CASE("AdapterDrop: below the first adapted block nothing is recorded for backward, and a fused pass runs once") {
  // Says whether the output of its layer takes part in backward.
  struct Spy : Adapter {
    bool* wants;
    explicit Spy(bool* w) : wants(w) {}
    Tensor operator()(const Tensor&, const Tensor& y) const override {
      *wants = y.wants_grad();
      return y;
    }
  };
  for (const bool recompute : {false, true}) {
    Base base({.layers = 4, .matrices = DType::Q8_0});
    std::vector<std::array<bool, 1>> wants(4);
    std::vector<TargetLayer> last = target_layers(*base.model, {"ffn_down"});
    for (size_t i = 0; i < 4; ++i) last[i].linear->adapters.push_back(std::make_shared<Spy>(wants[i].data()));
    const LoraSet set = attach_lora(*base.model, {.rank = 2, .alpha = 4, .targets = {"all"}, .first_layer = 2});
    CHECK(set.layers.size() == 2 * 7);
    Tape tape;
    const Tensor loss = base.model->loss(base.model->hidden(ids, 2, 4, {.cache = nullptr, .recompute = recompute}), ids);
    CHECK(!wants[0][0]);
    CHECK(!wants[1][0]);
    CHECK(wants[2][0]);
    CHECK(wants[3][0]);
    tape.backward(loss);
    CHECK(set.layers[0].lora->b.has_grad());
  }
  const std::shared_ptr<CausalLm> model = load_model(SmallLlama{.layers = 4}.gguf());
  some_lora(*model, {"all"}, 2);
  CHECK(Fused(model, {}).twins_from() == 2);
}

TEST_CASE("the probe of a tied output: merged it is a matrix of its own; stored, fused, over quantized weights") {
  const TemporaryFolder folder;
  for (const DType type : {DType::F32, DType::Q8_0}) {
    set_activations(Activations::f32);
    Base base({.matrices = type}), plain({.matrices = type});
    const Tensor before = logits_of(*plain.model);
    const LoraSet set = some_lora(*base.model, {"output"});
    const Tensor want = logits_of(*base.model);
    CHECK(max_relative_error(before.values(), want.values()) > 1e-2);
    adapter_file(set, "llama", base.id, DType::F32).write(folder / "p.gguf");
    const auto read = load_adapter(*plain.model, Gguf::open(folder / "p.gguf"), 1, plain.id);
    CHECK(equal(logits_of(*plain.model), want));
    CHECK(plain.model->config().tied_output);
    const Gguf merged = merged_model(base.file, *base.model, {});
    CHECK(merged.tensor("output.weight").dtype() == type);
    CHECK(merged.tensors().size() == base.file.tensors().size() + 1);
    const auto apart = load_model(merged);
    CHECK(!apart->config().tied_output);
    CHECK(max_relative_error(logits_of(*apart).values(), want.values()) < (type == DType::F32 ? 1e-5 : 3e-2));
    const std::shared_ptr<CausalLm> shared = std::move(plain.model);
    const Fused fused(shared, {Fusion::Form::residual, 1});
    CHECK(fused.twins_from() == shared->layers());
    const Tensor mixed = logits_of(fused);
    for (int64_t i = 0; i < mixed.size(); ++i) REQUIRE(mixed.data()[i] == doctest::Approx(0.5 * (before.data()[i] + want.data()[i])).epsilon(1e-3).scale(1));
  }
  set_activations(Activations::q8);
}
