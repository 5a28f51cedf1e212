// Knowledge extraction and generated cores: against PyTorch (tests/golden/make_kvt.py), finite differences, and on whole models.
#include "tests/main.h"

#include "engine/adapted.h"
#include "engine/classify.h"
#include "engine/convert.h"
#include "engine/fingerprint.h"
#include "engine/kvt_adapter.h"
#include "engine/load.h"
#include "engine/load_encoder.h"
#include "models/fusion.h"
#include "models/knowledge.h"
#include "models/kvt.h"
#include "tests/check.h"
#include "tests/small_bert.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

using Tensors = std::vector<Tensor>;

const Gguf& golden() {
  static const Gguf file = Gguf::open(project_path("tests/golden/kvt.gguf"));
  return file;
}
Tensor golden(const std::string& name) { return golden().tensor(name).clone(); }

template <class M>
void load_golden(M& module, const std::string& prefix) {
  each<Parameter>(module, [&](const std::string& name, Parameter& p) {
    p.tensor = golden(prefix + name);
    REQUIRE(p.tensor.shape() == p.shape);
    p.tensor.want_grad();
  });
}

void check_grad(const Tensor& x, const std::string& name) {
  INFO(name);
  REQUIRE(x.has_grad());
  CHECK(max_relative_error({x.grad(), size_t(x.size())}, golden(name).values()) < 1e-4);
}

KvtConfig golden_config(const std::string& levels) {
  const auto has = [&](char c) { return levels != "none" && levels.find(c) != std::string::npos; };
  return {.channels = 16, .vectors = 3, .size = 4, .columns = 3, .hidden = 7, .layers = 2,
          .concept_level = has('c'), .sentence_level = has('s'), .word_level = has('w')};
}

AdapterPass pass_with(const Kvt& kvt, const Tensor& phi) {
  AdapterPass pass;
  pass.made = phi;
  if (!Tape::current()) pass.lanes = Kvt::lanes(phi);
  pass.maker = &kvt;
  return pass;
}

// Every linear layer in the blocks of `model` with a core of its own; B and W_2 random unless `fresh`.
std::shared_ptr<Kvt> attach(Model& model, int64_t channels, KvtConfig levels = {}, bool fresh = false, int64_t first_block = 0) {
  std::vector<Linear*> linears;
  model.each_linear([&](const std::string& name, Linear& linear) {
    if (name.starts_with("blk.") && std::stoll(name.substr(4)) >= first_block) linears.push_back(&linear);
  });
  KvtConfig c = levels;
  c.channels = channels, c.vectors = 3, c.size = 4, c.columns = 5, c.hidden = 6, c.layers = int64_t(linears.size());
  const auto kvt = std::make_shared<Kvt>(c);
  Rng rng(8);
  kvt->init(rng);
  if (!fresh && c.generated())
    for (float& x : kvt->mlp_down.weight.tensor.values()) x = 0.5f * rng.normal();
  for (size_t i = 0; i < linears.size(); ++i) {
    const auto core = GeneratedCore::init(kvt, int64_t(i), linears[i]->weight.shape[1], linears[i]->weight.shape[0], 1, rng);
    if (!fresh)
      for (float& x : core->b.values()) x = 0.2f * rng.normal();
    linears[i]->adapters.push_back(core);
  }
  return kvt;
}

const Ids ids = {1, 5, 9, 2, 30, 31, 7, 7};
std::shared_ptr<CausalLm> llama(const SmallLlama& small = {}) { return load_model(small.gguf()); }
Tensor logits_of(const CausalLm& model, const Ids& of = ids, int64_t B = 2) { return model.logits(model.hidden(of, B, int64_t(of.size()) / B, {})); }

}  // namespace

TEST_CASE("knowledge extraction: K, G and every gradient are PyTorch's") {
  KnowledgeExtractor dke({.channels = 16, .vectors = 3, .size = 4});
  load_golden(dke, "dke.");
  const Tensor h = golden("dke.h").want_grad();
  CHECK(dke.config().keep() == 0.5f);
  {
    Tape tape;
    const auto [f, g] = dke.features(h, golden("dke.mask"));
    const Tensor k = dke.knowledge(f);
    CHECK(max_relative_error(k.values(), golden("dke.K").values()) < 1e-5);
    CHECK(max_relative_error(g.values(), golden("dke.G").values()) < 1e-5);
    tape.backward(sum(k * golden("dke.u")) + scale(mean(g), 0.1f));
  }
  each<Parameter>(dke, [](const std::string& name, Parameter& p) { check_grad(p, "dke.grad." + name); });
  check_grad(h, "dke.grad.h");

  const auto [f, g] = dke.features(h);
  CHECK(max_relative_error(g.values(), golden("dke.plain_G").values()) < 1e-5);
  CHECK(max_relative_error(dke.knowledge(f).values(), golden("dke.plain_K").values()) < 1e-5);
  const auto zeros = std::count(g.values().begin(), g.values().end(), 0.f);
  CHECK(zeros > 0);
  CHECK(zeros < g.size());
}

TEST_CASE("knowledge extraction: sampled masks, several texts, sizes from the width") {
  CHECK(KnowledgeConfig::for_channels(576).size == 6);
  CHECK(KnowledgeConfig::for_channels(64).vectors == 4);
  CHECK((KnowledgeConfig{.channels = 1024, .vectors = 8, .size = 4}).keep() == 0.0625f);
  KnowledgeExtractor dke({.channels = 64, .vectors = 4, .size = 4});
  Rng rng(3);
  dke.init(rng);
  const Tensor mask = dke.sample_mask(500, rng);
  int64_t kept = 0;
  for (const float x : mask.values()) {
    CHECK((x == 0 || x == 4));                             // p = √(4/64)
    kept += x > 0;
  }
  CHECK(double(kept) / double(mask.size()) == doctest::Approx(0.25).epsilon(0.03));

  const Tensor a = dke.features(randn({5, 64}, rng)).f, b = dke.features(randn({3, 64}, rng)).f;
  const Tensor parts[] = {a, b}, swapped[] = {b, a};
  const Tensor both = dke.knowledge(concat(parts, 0));
  CHECK(both.shape() == Shape{4, 4});
  CHECK(max_relative_error(dke.knowledge(concat(swapped, 0)).values(), both.values()) < 1e-5);
  CHECK(max_relative_error(dke.knowledge(a).values(), both.values()) > 1e-3);
  CHECK_THROWS_WITH_AS(dke.features(Tensor::zeros({3, 32})), "knowledge: hidden states [3, 32], expected [T, 64]", Error);
}

TEST_CASE("generated cores: α, cores, outputs and every gradient are PyTorch's, each level alone, all, none") {
  for (const std::string levels : {"csw", "c", "s", "w", "none"}) {
    INFO(levels);
    const auto kvt = std::make_shared<Kvt>(golden_config(levels));
    load_golden(*kvt, "lka.");
    GeneratedCore core;
    core.kvt = kvt, core.layer = 1, core.scale = 1.5f;
    core.a = golden("lka.a").want_grad();
    core.b = golden("lka.b").want_grad();
    const std::string prefix = "lka." + levels + ".";
    {
      Tape tape;
      const Tensor phi = kvt->hidden({.embedding = golden("lka.emb")}), cores[] = {kvt->cores(phi, 0), kvt->cores(phi, 1)};
      CHECK(max_relative_error(concat(cores, 1).values(), golden(prefix + "cores").values()) < 1e-5);
      const AdapterPass::Scope scope(pass_with(*kvt, phi));
      const Tensor y = core(golden("lka.x"), golden("lka.base"));
      CHECK(max_relative_error(y.values(), golden(prefix + "y").values()) < 1e-5);
      tape.backward(sum(y * golden("lka.u")));
    }
    each<Parameter>(*kvt, [&](const std::string& name, Parameter& p) {
      if (levels == "c" && name == "alpha.weight") CHECK_FALSE(p.tensor.has_grad());       // no embedding asks
      else if (p.tensor.has_grad() || levels != "none") check_grad(p, prefix + "grad." + name);
    });
    check_grad(core.a, prefix + "grad.a");
    check_grad(core.b, prefix + "grad.b");

    core.freeze();                                         // the way of inference: factors in F16
    const AdapterPass::Scope scope(pass_with(*kvt, kvt->hidden({.embedding = golden("lka.emb")})));
    CHECK(max_relative_error(core(golden("lka.x"), golden("lka.base")).values(), golden(prefix + "y").values()) < 1e-3);
  }
}

TEST_CASE("relevance depends on the input at sentence and word level, and sums to one") {
  Kvt kvt(golden_config("csw"));
  load_golden(kvt, "lka.");
  const Tensor emb = rms_norm(golden("lka.emb"), Tensor::filled({16}, 1.f), 1e-6f), query = kvt.alpha(emb);
  CHECK(max_relative_error(kvt.relevance(query).values(), golden("lka.alpha_word").values()) < 1e-5);
  CHECK(max_relative_error(kvt.relevance(prefix_mean(query)).values(), golden("lka.alpha_sentence").values()) < 1e-5);
  CHECK(max_relative_error(kvt.relevance({}).values(), golden("lka.alpha_concept").values()) < 1e-5);
  const Tensor alpha = kvt.relevance(query);
  for (int64_t i = 0; i < 10; ++i) CHECK(alpha.data()[3 * i] + alpha.data()[3 * i + 1] + alpha.data()[3 * i + 2] == doctest::Approx(1));
  CHECK(max_relative_error({alpha.data(), 3}, {alpha.data() + 3, 3}) > 1e-2);
}

TEST_CASE("gradients: products with cores that are shared or not, running means") {
  Rng rng(6);
  for (const int64_t N : {1, 2, 6})
    check_gradients("core_product", [](const Tensors& x) { return core_product(x[0], 2, x[1]); }, {randn({N, 2 * 4}, rng), randn({2, 3, 4}, rng)}, rng);
  check_gradients("prefix_mean", [](const Tensors& x) { return prefix_mean(x[0], Tensor::filled({3}, 2.f), 4); }, {randn({2, 5, 3}, rng)}, rng);
  CHECK_THROWS_AS(core_product(Tensor::zeros({4, 8}), 2, Tensor::zeros({6, 4})), Error);
  CHECK_THROWS_AS(core_product(Tensor::zeros({1, 24}), 2, Tensor::zeros({6, 4})), Error);
}

TEST_CASE("on llama: a fresh one changes nothing; levels are switched off one by one; nothing looks ahead; weights of any type") {
  const auto plain = llama();
  const Tensor before = logits_of(*plain);
  const auto fresh = llama();
  CHECK(max_relative_error(logits_of(KvtLm(fresh, attach(*fresh, 32, {}, true))).values(), before.values()) < 1e-6);
  CHECK_THROWS_WITH_AS(logits_of(*fresh), "kvt: the cores of this pass have not been made", Error);

  std::vector<Tensor> seen = {before};
  for (const auto& [c, s, w] : {std::tuple{true, true, true}, {false, true, true}, {true, false, true}, {true, true, false}, {false, false, false}}) {
    KvtConfig levels;
    levels.concept_level = c, levels.sentence_level = s, levels.word_level = w;
    const auto model = llama();
    const KvtLm lm(model, attach(*model, 32, levels));
    const Tensor z = logits_of(lm);
    for (const Tensor& other : seen) CHECK(max_relative_error(z.values(), other.values()) > 1e-3);
    seen.push_back(z);
    Ids changed = ids;
    changed[3] = 17;                                       // the last token of the first text
    CHECK(max_relative_error({logits_of(lm, changed).data(), 3 * 40}, {z.data(), 3 * 40}) < 1e-6);
  }
  const auto packed = llama({.matrices = DType::Q8_0}), exact = llama();
  const Tensor low = logits_of(KvtLm(packed, attach(*packed, 32))), high = logits_of(KvtLm(exact, attach(*exact, 32)));
  CHECK(max_relative_error(low.values(), high.values()) < 5e-2);
  CHECK(max_relative_error(high.values(), before.values()) > 0.1);
}

TEST_CASE("on llama: cached and fused, alone and both; with recomputed activations the gradients are the same") {
  const auto model = llama();
  const auto kvt = attach(*model, 32, {}, false, 1);
  const auto lm = std::make_shared<KvtLm>(model, kvt);
  const Fused fused(lm, {Fusion::Form::residual, 0.7f});
  CHECK(fused.twins_from() == 1);
  const Tensor base = logits_of(*llama()), adapted = logits_of(*lm);
  CHECK(max_relative_error(logits_of(fused).values(), scale(base + scale(adapted, 0.7f), 1 / 1.7f).values()) < 1e-5);
  for (const CausalLm* each : {static_cast<const CausalLm*>(lm.get()), static_cast<const CausalLm*>(&fused)}) {
    const Tensor whole = logits_of(*each, ids, 1);
    KvCache cache = each->make_cache(10, DType::F32);
    int64_t at = 0;
    for (const int64_t n : {3, 1, 2, 1, 1}) {
      const Tensor part = each->logits(each->hidden(std::span(ids).subspan(size_t(at), size_t(n)), 1, n, {.cache = &cache}));
      CHECK(max_relative_error(part.values(), {whole.data() + at * 40, size_t(n * 40)}) < 1e-5);
      at += n;
    }
    cache.truncate(4);
    const Tensor again = each->logits(each->hidden(std::span(ids).subspan(4), 1, 4, {.cache = &cache}));
    CHECK(max_relative_error(again.values(), {whole.data() + 4 * 40, 4 * 40}) < 1e-5);
  }
  std::vector<std::vector<float>> gradients;
  const Ids labels = {5, 9, 2, ignored_label, 31, 7, 7, 1};
  for (const bool recompute : {false, true}) {
    gradients.emplace_back();
    Tape tape;
    tape.backward(fused.loss(fused.hidden(ids, 2, 4, {.recompute = recompute}), labels));
    each<Parameter>(*kvt, [&](const std::string& name, Parameter& p) {
      INFO(name);
      REQUIRE(p.tensor.has_grad());
      gradients.back().insert(gradients.back().end(), p.tensor.grad(), p.tensor.grad() + p.tensor.size());
      p.tensor.drop_grad();
    });
  }
  CHECK(max_relative_error(gradients[1], gradients[0]) < 1e-5);
}

TEST_CASE("on the ViT: a core for each patch, one for each image") {
  const auto load = [] { return load_vit(convert(PublishedModel::open(project_path("tests/golden/vit/model.safetensors")), {"", DType::F32})); };
  const auto plain = load(), model = load();
  const VitConfig& c = plain->config();
  const int64_t tokens = c.patches() + c.cls_token;
  Rng rng(2);
  const Tensor images = randn({2, c.image_channels, c.image_size, c.image_size}, rng), emb = randn({2, tokens, c.channels}, rng);
  const Tensor before = plain->logits(images);
  for (const bool word : {true, false}) {
    const auto adapted = load();
    KvtConfig levels;
    levels.concept_level = false, levels.word_level = word;
    const auto kvt = attach(*adapted, c.channels, levels);
    const Tensor phi = kvt->hidden({.embedding = emb, .causal = false});
    CHECK(phi.dim(0) == (word ? 2 * tokens : 2));
    const AdapterPass::Scope scope(pass_with(*kvt, phi));
    CHECK(max_relative_error(adapted->logits(images).values(), before.values()) > 1e-2);
  }
  const auto kvt = attach(*model, c.channels, {}, true);
  Tape tape;
  const AdapterPass::Scope scope(pass_with(*kvt, kvt->hidden({.embedding = emb, .causal = false})));
  const Tensor logits = model->logits(images);
  CHECK(max_relative_error(logits.values(), before.values()) < 1e-6);
  tape.backward(cross_entropy(logits, Ids{1, 0}));
  int64_t learning = 0;
  model->each_linear([&](const std::string&, Linear& l) {
    for (const auto& adapter : l.adapters) learning += std::static_pointer_cast<const GeneratedCore>(adapter)->b.has_grad();
  });
  CHECK(learning == kvt->config().layers);
}

TEST_CASE("BERT makes its cores itself: texts are read as alone, gradients, fusion, files") {
  const Gguf base = SmallBert().gguf();
  const std::string id = fingerprint(base);
  const auto plain = load_bert(base), model = load_bert(base);
  KvtSet set = attach_kvt(*model, {.extractor = false});
  CHECK(set.layers.size() == 12);
  const Ids texts = {2, 5, 9, 17, 3, 2, 30, 3, 0, 0};
  const std::vector<int32_t> lengths = {5, 3};
  const auto vectors = [&](const Bert& m) { return m.pooled(m.hidden(texts, lengths, 5), lengths); };
  CHECK(max_relative_error(vectors(*model).values(), vectors(*plain).values()) < 1e-6);      // it starts as the base
  Rng rng(4);
  for (float& x : set.kvt->mlp_down.weight.tensor.values()) x = 0.5f * rng.normal();
  for (const auto& layer : set.layers)
    for (float& x : layer.core->b.values()) x = 0.2f * rng.normal();

  const Tensor both = vectors(*model);
  CHECK(max_relative_error(both.values(), vectors(*plain).values()) > 1e-2);
  for (const size_t row : {0, 1}) {
    const Tensor alone = model->hidden(std::span(texts).subspan(row * 5, size_t(lengths[row])), {lengths[row]}, lengths[row]);
    CHECK(max_relative_error(model->pooled(alone, {lengths[row]}).values(), {both.data() + int64_t(row) * 32, 32}) < 1e-5);
  }
  Kvt& kvt = *set.kvt;
  const std::vector<Tensor> parameters = {kvt.bank, kvt.alpha.weight, kvt.gates, kvt.mlp_down.weight};
  const auto vectors_by = [&](const std::vector<Tensor>& xs) {
    kvt.bank.tensor = xs[0], kvt.alpha.weight.tensor = xs[1], kvt.gates.tensor = xs[2], kvt.mlp_down.weight.tensor = xs[3];
    return vectors(*model);
  };
  check_gradients("BERT", vectors_by, parameters, rng, 2e-2, 3e-3f);
  vectors_by(parameters);                                    // as before

  const Tape::Pause inference;
  const TwinScores twins = twin_scores([&] { return vectors(*model); });
  CHECK(max_relative_error(twins.base.values(), vectors(*plain).values()) < 1e-6);
  CHECK(max_relative_error(twins.adapted.values(), both.values()) < 1e-6);
  const Gguf file = kvt_file(set, "bert", id, DType::F32);
  const auto other = load_bert(base);
  attach_adapters(*other, {{&file}}, id);
  CHECK(max_relative_error(vectors(*other).values(), both.values()) < 2e-3);                  // frozen factors have 16 bits
  CHECK_THROWS_WITH(attach_adapters(*other, {{&file}}, id), ": the second adapter whose cores depend on the input; one at a time");
  CHECK_THROWS_WITH(attach_kvt(*other, {}), "kvt: the second adapter whose cores depend on the input; one at a time");
  CHECK(max_relative_error(vectors(*other).values(), both.values()) < 2e-3);                  // no layer has changed
  const Gguf constant = kvt_file(attach_kvt(*load_bert(base), {.levels = {"concept"}, .extractor = false}), "bert", id, DType::F32);
  attach_adapters(*other, {{&constant}}, id);                                                 // that is a LoRA
  CHECK(max_relative_error(vectors(*other).values(), both.values()) < 2e-3);
}

TEST_CASE("the ViT makes its cores of patches; knowledge of images, training, files") {
  const auto base = convert(PublishedModel::open(project_path("tests/golden/vit/model.safetensors")), {"", DType::F32});
  const std::string id = fingerprint(base);
  const auto model = load_vit(base);
  const VitConfig& c = model->config();
  Rng rng(6);
  Images images{c.image_channels, c.image_size, {}, {}, {}};
  for (int32_t i = 0; i < 12; ++i) {
    images.labels.push_back(i % 2);
    for (int64_t j = 0; j < images.bytes_each(); ++j) images.pixels.push_back(uint8_t(rng.below(156) + uint64_t(i % 2 == j / 7 % 2 ? 100 : 0)));
  }
  const Normalisation normal = measure(images);
  const auto pixels = [&](const std::vector<int64_t>& which) { return image_batch(images, which, normal, {}, nullptr); };
  std::vector<Tensor> states;
  for (int64_t i = 0; i < 6; ++i) {
    const Tensor h = model->output_norm(model->hidden(pixels({i}), {}, 1));
    states.push_back(h.view({h.dim(1), h.dim(2)}));
  }
  CHECK(states[0].shape() == Shape{c.patches() + c.cls_token, c.channels});
  KvtSet set = attach_kvt(*model, {.seed = 3});
  const KvtTask task(std::make_shared<ImageTask>(*model, images, normal), set, states, true, 1e-3f), judge(std::make_shared<ImageTask>(*model, images, normal), set, states, false, 1e-3f);
  const double before = evaluate(judge, 4);
  TrainOptions options;
  options.steps = 20, options.batch = 4, options.lr = 1e-2f;
  TrainState state;
  REQUIRE(train(task, trained_tensors(set), options, &judge, state, {}) == TrainEnd::finished);
  CHECK(evaluate(judge, 4) < before - 0.2);
  fill_bank(set, states);

  const Tape::Pause inference;
  const Tensor x = pixels({0, 7}), scores = model->logits(x);
  Tensor parts[] = {model->cls_embd(std::vector<int32_t>{0, 0}, {2, 1}), patch_embedding(x, model->patch_embd.weight, model->patch_embd.bias, c.patch_size)};
  const Tensor embeddings = c.cls_token ? concat(parts, 1) : parts[1];
  model->adapter_pass = nullptr;
  {
    const AdapterPass::Scope by_hand(set.kvt->pass({.embedding = embeddings, .causal = false}));
    CHECK(max_relative_error(model->logits(x).values(), scores.values()) < 1e-6);
  }
  const Gguf file = kvt_file(set, "vit", id, DType::F32);
  const auto other = load_vit(base);
  attach_adapters(*other, {{&file}}, id);
  CHECK(max_relative_error(other->logits(x).values(), scores.values()) < 5e-3);
}

TEST_CASE("training generated cores from extracted knowledge; the file holds all that inference needs") {
  const Gguf base = SmallLlama().gguf();
  const std::string id = fingerprint(base);
  Examples data(12), held_out(12);
  Ids text;
  for (int i = 0; i < 160; ++i) text.push_back(3 + (i * i + i / 7) % 23);
  data.add_text(std::span(text).first(120));
  held_out.add_text(std::span(text).subspan(120));
  for (const auto& levels : {std::vector<std::string>{"concept", "sentence", "word"}, {"word"}, {"concept"}, {}})
    for (const bool extractor : {true, false}) {
      const std::shared_ptr<CausalLm> model = load_model(base);
      const std::vector<Tensor> states = knowledge_states(*model, data, 6, 1);
      CHECK(states.size() == 6);
      CHECK(states[0].shape() == Shape{12, 32});
      KvtOptions options;
      options.levels = levels;
      options.extractor = extractor;
      options.seed = 4;
      KvtSet set = attach_kvt(*model, options);
      CHECK(set.layers.size() == 14);
      CHECK(bool(set.extractor) == (extractor && !levels.empty()));
      const auto lm = std::make_shared<KvtLm>(model, set.kvt);
      const Fused fused(lm, {Fusion::Form::residual, 0.7f});
      const KvtTask task(std::make_unique<CausalTask>(fused, data), set, states, true, 1e-3f),
          validation(std::make_unique<CausalTask>(fused, held_out), set, states, false, 1e-3f);
      const double before = evaluate(validation, 4);
      CHECK(before == doctest::Approx(evaluate(*load_model(base), held_out, 4)).epsilon(1e-5));        // it starts as the base
      TrainOptions train_options;
      train_options.steps = 30, train_options.batch = 3, train_options.lr = 1e-2f;
      TrainState state;
      REQUIRE(train(task, trained_tensors(set), train_options, &validation, state, {}) == TrainEnd::finished);
      CHECK(evaluate(validation, 4) < before - 0.2);
      fill_bank(set, states);
      set.fusion = fused.fusion();

      const Gguf file = kvt_file(set, "llama", id, DType::F32);
      CHECK(file.string("adapter.type") == "kvt");
      const std::shared_ptr<CausalLm> other = load_model(base);
      const KvtSet loaded = load_kvt(*other, file, 1, id);
      REQUIRE(loaded.fusion);
      std::shared_ptr<CausalLm> run = other;
      if (loaded.kvt->config().per_token()) run = std::make_shared<KvtLm>(other, loaded.kvt);
      const Tape::Pause inference;
      CHECK(max_relative_error(logits_of(Fused(run, *loaded.fusion)).values(), logits_of(fused).values()) < 1e-3);
    }
}

TEST_CASE("KVT files that do not fit are refused with names, and change nothing") {
  const Gguf base = SmallLlama().gguf();
  const std::string id = fingerprint(base);
  const std::shared_ptr<CausalLm> model = load_model(base);
  const Tensor before = logits_of(*model);
  const Gguf good = kvt_file(attach_kvt(*load_model(base), {}), "llama", id, DType::F16);
  const auto message = [&](const std::function<void(Gguf&)>& change, const std::string& leave_out = "", Tensor replaced = {}) -> std::string {
    Gguf file;
    for (const auto& [name, value] : good.keys()) file.set(name, value);
    for (const auto& e : good.tensors()) {
      if (e.name != leave_out) file.add(e.name, e.tensor);
      else if (replaced) file.add(e.name, replaced);
    }
    if (change) change(file);
    try {
      load_kvt(*model, file, 1, id);
    } catch (const Error& e) { return e.what(); }
    return "accepted";
  };
  CHECK(message([](Gguf& f) { f.set("adapter.type", std::string("lora")); }) == ": no adapter of type 'kvt' (general.type 'adapter', adapter.type 'lora')");
  CHECK(message([](Gguf& f) { f.set("general.architecture", std::string("gpt2")); }) == ": an adapter for architecture 'gpt2', the base is 'llama'");
  CHECK(message([](Gguf& f) { f.set("kvt.base.fingerprint", std::string("0123")); }).find("trained on another base model") != std::string::npos);
  CHECK(message([](Gguf& f) { f.set("kvt.levels", std::string("concept,letter")); }) == ": no level is called 'letter'; there are: concept sentence word");
  CHECK(message([](Gguf& f) { f.set("kvt.layers", std::vector<std::string>{"blk.0.attn_q", "blk.7.attn_q"}); }).find("shape") != std::string::npos);
  CHECK(message({}, "kvt.bank", Tensor::zeros({4, 5})) == ": tensor 'bank' has shape [4, 5], expected [4, 4]");
  CHECK(message({}, "kvt.gates") == ": tensor 'gates' of shape [3] is missing");
  CHECK(message({}, "blk.1.ffn_up.weight.kvt_b", Tensor::zeros({64, 3})) ==
        ": 'blk.1.ffn_up': factors A [4, 32] and B [64, 3] do not fit weights [64, 32] and cores 4 × 4");
  CHECK(message({}, "blk.1.ffn_up.weight.kvt_b").find("blk.1.ffn_up.weight.kvt_b") != std::string::npos);
  CHECK(max_relative_error(logits_of(*model).values(), before.values()) == 0);
  CHECK(message({}) == "accepted");
  CHECK_THROWS_WITH_AS(attach_kvt(*model, {.levels = {"letter"}}), "kvt: no level is called 'letter'; there are: concept sentence word", Error);
  CHECK_THROWS_WITH_AS(attach_kvt(*load_model(SmallLlama{.tied = false}.gguf()), {.targets = {"output"}}), "kvt: layer 'output' is outside of the blocks", Error);
}
