// Fusion against its formula on two models run apart, and all that goes through it: cache, sessions, training, search, files.
#include "tests/main.h"

#include "engine/adapter.h"
#include "engine/convert.h"
#include "engine/fingerprint.h"
#include "engine/fusion.h"
#include "engine/generate.h"
#include "engine/metrics.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

constexpr const char* causal[] = {"llama", "qwen2", "qwen3", "gpt2", "phi3", "gemma3"};
const Ids ids = {1, 5, 9, 2, 30, 31, 7, 7};
const Fusion residual{Fusion::Form::residual, 0.7f}, extrapolating{Fusion::Form::extrapolating, 0.5f};

LoraSet some_lora(CausalLm& model, const LoraOptions& options) {
  LoraSet set = attach_lora(model, options);
  Rng rng(options.seed);
  for (const auto& layer : set.layers)
    for (float& x : layer.lora->b.values()) x = 0.1f * rng.normal();
  return set;
}
LoraOptions from_block(int64_t first, std::vector<std::string> targets = {"all"}) {
  return {.rank = 4, .alpha = 6, .targets = std::move(targets), .first_layer = first, .last_layer = -1, .seed = 3};
}

// A published model of a few thousand random weights.
std::shared_ptr<CausalLm> golden_model(const std::string& architecture) {
  return load_model(convert(PublishedModel::open(project_path("tests/golden/" + architecture + "/model.safetensors")), {"", DType::F32}));
}
std::shared_ptr<CausalLm> llama(const SmallLlama& small = {}) { return load_model(small.gguf()); }
Tensor logits_of(const CausalLm& model, const Ids& of = ids, int64_t B = 2) { return model.logits(model.hidden(of, B, int64_t(of.size()) / B, {})); }

// The formulas as the method has them, from the scores of two separate models.
Tensor fused_by_formula(const Tensor& base, const Tensor& adapted, const Fusion& f) {
  Tensor z(base.shape());
  for (int64_t i = 0; i < z.size(); ++i) {
    const double b = base.data()[i], a = adapted.data()[i], x = f.value;
    z.data()[i] = float(f.form == Fusion::Form::residual ? (b + x * a) / (1 + x) : a + x * (a - b));
  }
  return z;
}

}  // namespace

TEST_CASE("fused scores are the formula on two separate passes: every architecture, blocks below the first adapted one run once") {
  for (const std::string architecture : causal) {
    const auto base = golden_model(architecture);
    const Tensor before = logits_of(*base);
    for (const int64_t first : {0, 1})
      for (const Fusion& fusion : {residual, extrapolating, Fusion{Fusion::Form::residual, 0}}) {
        INFO(architecture, ", adapted from block ", first, ", weight ", fusion.weight());
        const std::shared_ptr<CausalLm> model = golden_model(architecture);
        some_lora(*model, from_block(first));
        const Tensor adapted = logits_of(*model);
        CHECK(max_relative_error(adapted.values(), before.values()) > 1e-3);
        const Fused fused(model, fusion);
        CHECK(fused.twins_from() == first);
        CHECK(max_relative_error(logits_of(fused).values(), fused_by_formula(before, adapted, fusion).values()) < 1e-5);
      }
  }
}

TEST_CASE("an adapted output matrix: states of both go through it") {
  for (const auto& targets : {std::vector<std::string>{"output"}, std::vector<std::string>{"all", "output"}}) {
    const auto model = llama({.tied = false});
    const Tensor before = logits_of(*model);
    some_lora(*model, from_block(1, targets));
    const Tensor adapted = logits_of(*model);
    const Fused fused(model, residual);
    CHECK(fused.twins_from() == (targets.size() == 1 ? 2 : 1));
    const Tensor want = fused_by_formula(before, adapted, residual);
    CHECK(max_relative_error(logits_of(fused).values(), want.values()) < 1e-5);
    const Ids labels = {5, 9, 2, ignored_label, 31, 7, 7, 1};
    CHECK(fused.loss(fused.hidden(ids, 2, 4, {}), labels).item() == doctest::Approx(double(cross_entropy(want, labels).item())).epsilon(1e-5));
  }
}

TEST_CASE("adapters of the base are on both sides: fusion on top of a LoRA-tuned base") {
  const auto tuned = llama(), both = llama();
  some_lora(*tuned, from_block(0));
  const Tensor base = logits_of(*tuned);
  for (const auto& layer : some_lora(*both, from_block(0)).layers) layer.lora->of_base = true;
  LoraOptions second = from_block(1);
  second.seed = 9;
  some_lora(*both, second);
  const Tensor adapted = logits_of(*both);
  const Fused fused(both, extrapolating);
  CHECK(fused.twins_from() == 1);
  CHECK(max_relative_error(logits_of(fused).values(), fused_by_formula(base, adapted, extrapolating).values()) < 1e-5);
}

TEST_CASE("with a cache: the same scores, and the shared blocks' keys and values are there once") {
  for (const std::string architecture : causal)
    for (const int64_t first : {0, 1}) {
      INFO(architecture, ", adapted from block ", first);
      const std::shared_ptr<CausalLm> model = golden_model(architecture);
      some_lora(*model, from_block(first));
      const int64_t alone = model->make_cache(12, DType::F16).bytes(), L = model->layers();
      const Fused fused(model, residual);
      CHECK(fused.make_cache(12, DType::F16).bytes() * L == alone * (2 * L - first));
      const Tensor whole = logits_of(fused, ids, 1);
      const int64_t V = whole.dim(2);
      KvCache cache = fused.make_cache(12, DType::F32);
      int64_t at = 0;
      for (const int64_t n : {3, 1, 2, 1, 1}) {
        const Tensor part = fused.logits(fused.hidden(std::span(ids).subspan(size_t(at), size_t(n)), 1, n, {.cache = &cache}));
        CHECK(max_relative_error(part.values(), {whole.data() + at * V, size_t(n * V)}) < 1e-5);
        at += n;
      }
      cache.truncate(4);
      const Tensor again = fused.logits(fused.hidden(std::span(ids).subspan(4), 1, 4, {.cache = &cache}));
      CHECK(max_relative_error(again.values(), {whole.data() + 4 * V, size_t(4 * V)}) < 1e-5);
    }
}

TEST_CASE("a session writes with fused scores what reading everything anew gives") {
  const auto model = llama();
  some_lora(*model, from_block(1));
  const Fused fused(model, extrapolating);
  Session session(fused, {.context = 32, .cache = DType::F32, .batch = 3});
  Ids text = ids;
  std::span<const float> z = session.evaluate(ids);
  for (int step = 0; step < 8; ++step) {
    const Tensor whole = logits_of(fused, text, 1);
    const std::span<const float> last(whole.data() + (int64_t(text.size()) - 1) * 40, 40);
    CHECK(max_relative_error(z, last) < 1e-5);
    text.push_back(int32_t(std::max_element(z.begin(), z.end()) - z.begin()));
    z = session.evaluate({&text.back(), 1});
  }
}

TEST_CASE("training through the fused scores: gradients, with and without recomputing") {
  const auto model = llama();
  const LoraSet set = some_lora(*model, from_block(1, {"attn_q", "ffn_down"}));
  const Fused fused(model, residual);
  const Ids labels = {5, 9, 2, ignored_label, 31, 7, 7, 1};
  Rng rng(4);
  std::vector<Tensor> factors;
  for (const auto& layer : set.layers) factors.insert(factors.end(), {layer.lora->a, layer.lora->b});
  for (const bool recompute : {false, true}) {
    for (const Tensor& x : factors) x.drop_grad();
    check_gradients("fused loss", [&](const std::vector<Tensor>& xs) {
      for (size_t i = 0; i < set.layers.size(); ++i) set.layers[i].lora->a = xs[2 * i], set.layers[i].lora->b = xs[2 * i + 1];
      return fused.loss(fused.hidden(ids, 2, 4, {.recompute = recompute}), labels);
    }, factors, rng);
  }
}

TEST_CASE("the grid search's losses are those of each fused model on its own") {
  const auto model = llama();
  const Tensor scores = logits_of(*model);
  some_lora(*model, from_block(1));
  Examples data(5);
  data.add_text(Ids{3, 8, 1, 39, 20, 4, 4, 17, 30, 2, 9, 11, 6});
  data.add_pair(Ids{4, 5}, Ids{6, 7}, 1);
  const std::vector<Fusion> grid = fusion_grid();
  CHECK(grid.size() == 11);
  const std::vector<FusionLoss> losses = fusion_losses(model, data, 2, grid);
  REQUIRE(losses.size() == grid.size());
  double least = INFINITY;
  for (size_t i = 0; i < grid.size(); ++i) {
    if (i > 0) CHECK(grid[i].weight() > grid[i - 1].weight());
    CHECK(losses[i].loss == doctest::Approx(evaluate(Fused(model, grid[i]), data, 3)).epsilon(1e-5));
    least = std::min(least, losses[i].loss);
  }
  CHECK(best_fusion(losses).loss == least);
  CHECK(fusion_losses(model, data, 2, grid, [] { return true; }).empty());
  CHECK_THROWS_WITH_AS(fusion_losses(llama(), data, 2, grid), "fusion: the model has no adapter to be fused with its base", Error);
}

TEST_CASE("fusion in an adapter's file") {
  const Gguf base = SmallLlama().gguf();
  const std::shared_ptr<CausalLm> model = load_model(base);
  LoraSet set = some_lora(*model, from_block(1));
  const std::string id = fingerprint(base);
  CHECK_FALSE(load_adapter(*llama(), adapter_file(set, "llama", id, DType::F32), 1, id).fusion);
  for (const Fusion& fusion : {residual, extrapolating}) {
    set.fusion = fusion;
    const auto read = load_adapter(*llama(), adapter_file(set, "llama", id, DType::F32), 1, id).fusion;
    REQUIRE(read);
    CHECK(read->form == fusion.form);
    CHECK(read->value == fusion.value);
  }
  Gguf file = adapter_file(set, "llama", id, DType::F32);
  file.set(fusion_gamma_key, -1.f);
  CHECK_THROWS_WITH_AS(read_fusion(file), ": kvt.fusion.gamma is -1, expected 0 or more", Error);
  file.set(fusion_lambda_key, 1.f);
  CHECK_THROWS_WITH_AS(read_fusion(file), ": both kvt.fusion.lambda and kvt.fusion.gamma", Error);
  CHECK_THROWS_AS((Fusion{Fusion::Form::residual, NAN}).weight(), Error);
}
