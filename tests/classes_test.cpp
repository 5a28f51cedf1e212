// Sequence classification: by a head on pooled states, by words, with every kind of adapter, fused, in files.
#include "tests/main.h"

#include <cstring>
#include <fstream>

#include "engine/adapter.h"
#include "engine/convert.h"
#include "engine/fingerprint.h"
#include "engine/ia3.h"
#include "engine/load_encoder.h"
#include "engine/rounds.h"
#include "engine/text_classes.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

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

// A word-level tokenizer in the form of WordPiece: [PAD] [UNK] [CLS] [SEP] and then t4, t5, …
std::unique_ptr<Tokenizer> wordpiece(int64_t vocabulary) {
  Gguf file;
  std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"};
  while (int64_t(tokens.size()) < vocabulary) tokens.push_back("\xE2\x96\x81t" + std::to_string(tokens.size()));
  std::vector<int32_t> kinds(tokens.size(), 1);
  std::fill_n(kinds.begin(), 4, 3);
  file.set("tokenizer.ggml.model", std::string("bert"));
  file.set("tokenizer.ggml.tokens", tokens);
  file.set("tokenizer.ggml.token_type", kinds);
  file.set("tokenizer.ggml.unknown_token_id", uint32_t(1));
  file.set("tokenizer.ggml.cls_token_id", uint32_t(2));
  file.set("tokenizer.ggml.bos_token_id", uint32_t(2));
  file.set("tokenizer.ggml.seperator_token_id", uint32_t(3));
  file.set("tokenizer.ggml.padding_token_id", uint32_t(0));
  return Tokenizer::from(file);
}

// Texts of two kinds of words each, in no order that would tell: "low" has more of t4 … t11, "high" of t12 … t19.
std::vector<LabelledText> topics(int n, uint64_t seed) {
  Rng rng(seed);
  std::vector<LabelledText> texts;
  for (int i = 0; i < n; ++i) {
    const bool high = rng.below(2) == 1;
    std::string text;
    for (uint64_t words = 4 + rng.below(5); words > 0; --words)
      text += (text.empty() ? "t" : " t") + std::to_string(4 + rng.below(8) + ((rng.below(10) < 8) == high ? 8 : 0));
    texts.push_back({high ? "high" : "low", text});
  }
  return texts;
}

ClassSettings two_classes() {
  ClassSettings s;
  s.names = {"high", "low"};
  s.length = 16;
  return s;
}

std::unique_ptr<Bert> golden_bert(Gguf& file) {
  file = convert(PublishedModel::open(project_path("tests/golden/bert/model.safetensors")), {"", DType::F32});
  return load_bert(file);
}

// A classifier with a head, its data, and training of what is given beside the head.
struct Setting {
  std::unique_ptr<Tokenizer> tokenizer;
  ClassSettings settings = two_classes();
  TextClassifier classifier;
  LabelledTexts data, held_out;
  TextClassTask task, validation;

  Setting(TextClassifier c, int64_t vocabulary)
      : tokenizer(wordpiece(vocabulary)), classifier(std::move(c)), data(topics(256, 1), settings, *tokenizer), held_out(topics(128, 2), settings, *tokenizer),
        task(classifier, data), validation(classifier, held_out) {
    prepare(classifier, settings, *tokenizer, nullptr);
  }
  TrainedSet head() const {
    for (const Parameter* p : {&classifier.head.weight, &classifier.head.bias}) p->tensor.want_grad();
    return {{"kvt.head.weight", classifier.head.weight, true}, {"kvt.head.bias", classifier.head.bias, false}};
  }
  double train_with(TrainedSet trained, float lr, int64_t steps = 100) const {
    for (const Trained& t : head()) trained.push_back(t);
    TrainOptions options;
    options.steps = steps, options.batch = 8, options.lr = lr, options.eval_every = 10;
    TrainState state;
    train(task, trained, options, &validation, state, {});
    return state.best_loss;
  }
  double share_right() const {
    const Accuracy a = accuracy(classifier, held_out, 5);
    CHECK(a.examples == held_out.size());
    return double(a.top1) / double(a.examples);
  }
};

}  // namespace

TEST_CASE("class scores agree with PyTorch: pooled states and a head, words behind the text; loss and gradients") {
  const Gguf base = Gguf::open(project_path("tests/golden/llama_tied.gguf")), golden = Gguf::open(project_path("tests/golden/methods.gguf"));
  const Ids lengths = ints(golden, "golden.lengths"), targets = ints(golden, "golden.classes");
  Ids tokens = ints(base, "golden.ids");
  const int64_t T = base.tensor("golden.ids").dim(1);
  for (int64_t t = lengths[1]; t < T; ++t) tokens[size_t(T + t)] = 0;              // what lies behind a text does not count
  for (const std::string way : {"mean", "first", "last", "words"}) {
    INFO(way);
    const auto model = load_model(base);
    Tensor below;
    model->each_parameter([&](const std::string& name, Parameter& p) {
      if (name == "blk.0.ffn_up.weight") below = trainable(name, p).tensor;
    });
    TextClassifier c(*model);
    const bool head = way != "words";
    if (head) {
      c.pooling = pooling(way);
      c.head = Linear(model->config().channels, 4, true);
      c.head.weight.tensor = golden.tensor("head.w").clone().want_grad();
      c.head.bias.tensor = golden.tensor("head.b").clone().want_grad();
    } else {
      c.words = ints(golden, "golden.words");
    }
    const std::string prefix = head ? "head." + way + "." : "words.";
    const TextBatch batch{tokens, lengths, T};
    CHECK(max_relative_error(c.scores(batch).values(), golden.tensor(prefix + "scores").values()) < 1e-4);
    for (const bool recompute : {false, true}) {
      for (const Tensor& x : {below, head ? c.head.weight.tensor : below, head ? c.head.bias.tensor : below}) x.drop_grad();
      Tape tape;
      const Tensor loss = cross_entropy(c.scores(batch, recompute), targets);
      CHECK(loss.item() == doctest::Approx(golden.tensor(prefix + "loss").item()).epsilon(1e-5));
      tape.backward(loss);
      CHECK(max_relative_error(gradient(below), golden.tensor(prefix + "grad.below").values()) < 1e-3);
      if (!head) continue;
      CHECK(max_relative_error(gradient(c.head.weight), golden.tensor(prefix + "grad.w").values()) < 1e-3);
      CHECK(max_relative_error(gradient(c.head.bias), golden.tensor(prefix + "grad.b").values()) < 1e-3);
    }
  }
}

TEST_CASE("pooling: by hand, and its gradient") {
  const Tensor x = Tensor::from({2, 3, 1}, std::vector<float>{1, 2, 6, 5, 7, 100});
  const auto values = [&](Pooling p) {
    const Tensor y = pooled(x, {3, 2}, p);
    return std::vector<float>(y.data(), y.data() + y.size());
  };
  CHECK(values(Pooling::mean) == std::vector<float>{3, 6});
  CHECK(values(Pooling::first) == std::vector<float>{1, 5});
  CHECK(values(Pooling::last) == std::vector<float>{6, 7});
  CHECK_THROWS_AS(pooled(x, {3, 4}, Pooling::mean), Error);
  CHECK_THROWS_AS(pooled(x, {3}, Pooling::mean), Error);
  Rng rng(3);
  for (const Pooling p : {Pooling::mean, Pooling::first, Pooling::last})
    check_gradients(name(p), [&](const std::vector<Tensor>& in) { return pooled(in[0], {4, 2}, p); }, {randn({2, 4, 3}, rng)}, rng);
  CHECK(pooling("last") == Pooling::last);
  CHECK_THROWS_WITH_AS(pooling("max"), "no pooling 'max'; there are mean, first and last", Error);
}

TEST_CASE("accuracy: the best score decides, of equals the first") {
  Accuracy a(3);
  const auto add = [&](std::vector<float> z, int64_t label) { a.add(z, label); };
  add({0, 0, 0}, 0);
  add({0, 0, 0}, 1);
  add({0, 0, 0}, 2);
  add({1, 3, 2}, 1);
  add({1, 3, 2}, 0);
  CHECK(a.examples == 5);
  CHECK(a.top1 == 2);
  CHECK(a.top5 == 5);
  CHECK(a.nll == doctest::Approx(3 * std::log(3.0) + 2 * std::log(std::exp(1.0) + std::exp(2.0) + std::exp(3.0)) - 4));
  CHECK(a.by_class.f1(0) == doctest::Approx(2 * 1 / 5.0));      // three decisions for class 0, which occurs twice
  CHECK_THROWS_AS(add({1, 2}, 2), Error);
}

TEST_CASE("labelled texts as they are read: special tokens, the text's place, cutting, and what is refused") {
  const auto tokenizer = wordpiece(24);
  ClassSettings s = two_classes();
  s.length = 6;
  s.text = "t4 {text} t5";
  const LabelledTexts data({{"low", "t6 t7"}, {"high", "t6 t7 t8 t9"}}, s, *tokenizer);
  CHECK(data.texts()[0].tokens == Ids{2, 4, 6, 7, 5, 3});
  CHECK(data.texts()[1].tokens == Ids{2, 4, 6, 7, 5, 3});      // the text is cut, not what stands around it
  CHECK(data.truncated() == 1);
  CHECK(data.tokens() == 12);
  CHECK(data.classes() == std::vector<int32_t>{1, 0});
  CHECK(data.texts().learned() == 0);
  const TextBatch both = LabelledTexts({{"low", "t6"}, {"high", "t6 t7"}}, s, *tokenizer).batch(std::vector<int64_t>{0, 1});
  CHECK(both.lengths == std::vector<int32_t>{5, 6});
  CHECK(both.T == 6);
  CHECK(both.ids == Ids{2, 4, 6, 5, 3, 0, 2, 4, 6, 7, 5, 3});
  CHECK(data.fingerprint() != LabelledTexts({{"low", "t6 t7"}, {"low", "t6 t7 t8 t9"}}, s, *tokenizer).fingerprint());
  CHECK(error_of([&] { LabelledTexts({{"middle", "t6"}}, s, *tokenizer); }) == "classes: text 1 is of class 'middle', which there is not");
  CHECK(error_of([&] { LabelledTexts({{"low", " "}}, s, *tokenizer); }) == "classes: text 1 is empty");
  s.text = "t4 t5";
  CHECK(error_of([&] { LabelledTexts({{"low", "t6"}}, s, *tokenizer); }).find("must have {text} in it") != std::string::npos);
  s.text = "t4 t4 t4 t4 {text}";
  CHECK(error_of([&] { LabelledTexts({{"low", "t6"}}, s, *tokenizer); }).find("takes 6 of 6 tokens") != std::string::npos);
}

TEST_CASE("every method learns to tell classes, on a language model and on an encoder; a head alone learns the same from stored features") {
  for (const bool encoder : {false, true})
    for (const std::string method : {"head", "features", "lora", "ia3", "extracted", "spectral", "dense", "full"}) {
      const std::string on = encoder ? " on BERT" : " on Llama";
      INFO(method, on);
      const SmallLlama small{.matrices = encoder || method == "full" ? DType::F32 : DType::Q8_0};
      Gguf file = small.gguf();
      std::unique_ptr<CausalLm> lm;
      std::unique_ptr<Bert> bert;
      if (encoder) bert = golden_bert(file);
      else lm = load_model(file);
      Model& model = encoder ? static_cast<Model&>(*bert) : *lm;
      Setting s(encoder ? TextClassifier(*bert) : TextClassifier(*lm), encoder ? bert->config().vocabulary : 40);
      if (method == "head") {
        s.train_with({}, 3e-2f);
      } else if (method == "features") {
        s.train_with({}, 3e-2f);
        std::vector<float> slow(s.classifier.head.weight.tensor.values().begin(), s.classifier.head.weight.tensor.values().end());
        for (const Trained& t : s.head()) std::fill_n(t.tensor.data(), t.tensor.size(), 0.f);
        const FeatureTask task(s.classifier.head, features(s.classifier, s.data, 7), s.data.classes()), valid(s.classifier.head, features(s.classifier, s.held_out, 7), s.held_out.classes());
        TrainOptions options;
        options.steps = 100, options.batch = 8, options.lr = 3e-2f, options.eval_every = 10;
        TrainState state;
        train(task, s.head(), options, &valid, state, {});
        // In other batches the states are the same up to rounding (quantized weights: with few rows also that of activations).
        CHECK(max_relative_error(s.classifier.head.weight.tensor.values(), slow) < (encoder ? 1e-2 : 0.2));
      } else if (method == "lora") {
        s.train_with(trained_factors(attach_lora(model, {.rank = 4, .alpha = 8})), 1e-2f);
      } else if (method == "ia3") {
        s.train_with(trained_factors(attach_ia3(model)), 2e-2f);
      } else if (method == "full") {
        s.train_with(all_weights(model), 3e-3f);
      } else {
        const double before = s.train_with({}, 3e-2f);
        RoundsOptions options;
        options.core = core_form(method);
        options.k = 2;
        options.rounds = 2;
        options.train.steps = 100, options.train.batch = 8, options.train.lr = 1e-2f, options.train.eval_every = 10;
        options.beside = s.head();
        RoundsState state;
        REQUIRE(run_rounds(s.task, s.validation, target_layers(model, {"all"}), options, state, {}));
        CHECK(state.losses[0] == doctest::Approx(before).epsilon(0.02));
        REQUIRE(state.rounds() > 0);
        CHECK(evaluate(s.validation, 8) < before);
        CHECK(evaluate(s.validation, 8) == doctest::Approx(state.losses.back()).epsilon(1e-3));
      }
      // Guesses are right half of the time, ± 0.5/√128; this is more than three such deviations. (Counting words is right in about nine of ten.)
      CHECK(s.share_right() > 0.5 + 3 * 0.5 / std::sqrt(128.0));
    }
}

TEST_CASE("classes in files: beside a LoRA, beside factors, alone; read again they score the same") {
  const TemporaryFolder folder;
  const SmallLlama small;
  const Gguf file = small.gguf();
  const std::string id = fingerprint(file);
  for (const std::string kind : {"lora", "ia3", "head"}) {
    INFO(kind);
    const auto model = load_model(file), again = load_model(file);
    Setting s(TextClassifier(*model), 40);
    s.settings.pooling = s.classifier.pooling = Pooling::last;
    Rng rng(5);
    for (const Trained& t : s.head())
      for (float& x : t.tensor.values()) x = rng.normal();
    Gguf out = new_adapter("head", "llama", id);
    if (kind == "lora") {
      const LoraSet set = attach_lora(*model, {.rank = 2, .alpha = 4});
      for (const auto& layer : set.layers)
        for (float& b : layer.lora->b.values()) b = 0.1f * rng.normal();
      out = adapter_file(set, "llama", id, DType::F32);
    } else if (kind == "ia3") {
      const Ia3Set set = attach_ia3(*model);
      for (const auto& layer : set.layers)
        for (float& l : layer.factors->l.values()) l += 0.3f * rng.normal();
      out = ia3_file(set, "llama", id);
    }
    CHECK(!read_classes(out));
    write_classes(out, s.settings, s.classifier);
    out.write(folder / "c.gguf");
    const Gguf stored = Gguf::open(folder / "c.gguf");
    const auto settings = read_classes(stored);
    REQUIRE(settings);
    CHECK(settings->names == s.settings.names);
    CHECK(settings->pooling == Pooling::last);
    CHECK(settings->length == 16);
    CHECK(settings->text == "{text}");
    if (kind == "lora") load_adapter(*again, stored, 1, id);
    else if (kind == "ia3") load_ia3(*again, stored, 1, id);
    else require_adapter(stored, "head", *again, id, false);
    TextClassifier c(*again);
    prepare(c, *settings, *s.tokenizer, &stored);
    const TextBatch batch = s.data.batch(std::vector<int64_t>{0, 1, 2, 3, 4});
    const Tensor got = c.scores(batch), want = s.classifier.scores(batch);
    CHECK(std::equal(got.data(), got.data() + got.size(), want.data()));
    CHECK(c.classes() == 2);

    // Fused: the formula on the two sides; with λ = 0 the model without its adapter.
    const TwinScores z = c.twin_scores(batch);
    const auto bare = load_model(file);
    TextClassifier base(*bare);
    prepare(base, *settings, *s.tokenizer, &stored);
    CHECK(max_relative_error(z.base.values(), base.scores(batch).values()) < 1e-6);
    CHECK(max_relative_error(z.adapted.values(), got.values()) < 1e-6);
    c.fusion = Fusion{Fusion::Form::extrapolating, 0.5f};
    const Tensor fused = c.scores(batch);
    for (int64_t i = 0; i < fused.size(); ++i)
      CHECK(fused.data()[i] == doctest::Approx(1.5 * double(z.adapted.data()[i]) - 0.5 * double(z.base.data()[i])).epsilon(1e-4).scale(1));
    const std::vector<FusionLoss> losses = fusion_losses(c, s.held_out, 7, {{Fusion::Form::residual, 0}, {Fusion::Form::extrapolating, 0.5f}});
    const TextClassTask task(c, s.held_out), bare_task(base, s.held_out);
    CHECK(losses[0].loss == doctest::Approx(evaluate(bare_task, 9)).epsilon(1e-4));
    CHECK(losses[1].loss == doctest::Approx(evaluate(task, 9)).epsilon(1e-4));

    // In training the head learns from both sides.
    Rng numbers(6);
    c.head.weight.tensor = c.head.weight.tensor.clone();
    c.head.bias.tensor = c.head.bias.tensor.clone();
    check_gradients("fused head", [&](const std::vector<Tensor>& in) {
      c.head.weight.tensor = in[0];
      c.head.bias.tensor = in[1];
      return c.scores(batch);
    }, {c.head.weight.tensor, c.head.bias.tensor}, numbers);

    Gguf copied = file;
    copy_classes(stored, copied);
    CHECK(read_classes(copied)->names == settings->names);
    Gguf wrong = stored;
    wrong.set("kvt.classes", std::vector<std::string>{"a", "b", "c"});
    CHECK(error_of([&] { prepare(c, *read_classes(wrong), *s.tokenizer, &wrong); }).find("tensor 'kvt.head.weight' is F32 [2, 32], expected [3, 32]") != std::string::npos);
    wrong.set("kvt.classes", std::vector<std::string>{"a"});
    CHECK(error_of([&] { read_classes(wrong); }).find("1 classes") != std::string::npos);
  }
}

TEST_CASE("words as classes: their first tokens' scores, also with an adapted output matrix; two words that begin alike are refused") {
  const Gguf file = SmallLlama{}.gguf();
  const auto model = load_model(file);
  const auto tokenizer = wordpiece(40);
  ClassSettings s = two_classes();
  s.words = {"t9", "t30"};
  TextClassifier c(*model);
  prepare(c, s, *tokenizer, nullptr);
  CHECK(c.words == Ids{9, 30});
  const LabelledTexts data(topics(6, 4), s, *tokenizer);
  for (const bool adapted : {false, true}) {
    if (adapted)
      for (const auto& layer : attach_lora(*model, {.rank = 2, .alpha = 4, .targets = {"output", "attn_q"}}).layers)
        for (float& b : layer.lora->b.values()) b = 0.3f;
    const Tensor z = c.scores(data.batch(std::vector<int64_t>{0, 1, 2}));
    for (int64_t i = 0; i < 3; ++i) {
      const Ids& tokens = data.texts()[i].tokens;
      const Tensor logits = model->logits(model->hidden(tokens, 1, int64_t(tokens.size()), {}));
      const float* last = logits.data() + (int64_t(tokens.size()) - 1) * 40;
      CHECK(z.data()[2 * i] == doctest::Approx(last[9]).epsilon(1e-4));
      CHECK(z.data()[2 * i + 1] == doctest::Approx(last[30]).epsilon(1e-4));
    }
  }
  Gguf stored = new_adapter("head", "llama", fingerprint(file));
  write_classes(stored, s, c);
  CHECK(stored.tensors().empty());
  CHECK(read_classes(stored)->words == s.words);
  s.words = {"t9", "t9 t4"};
  CHECK(error_of([&] { prepare(c, s, *tokenizer, nullptr); }) == "classes: the words 't9' and 't9 t4' begin with the same token; choose others");
  Gguf of_bert;
  const auto bert = golden_bert(of_bert);
  TextClassifier encoder(*bert);
  s.words = {"t9", "t30"};
  prepare(encoder, s, *tokenizer, nullptr);
  CHECK_THROWS_WITH_AS(encoder.scores(data.batch(std::vector<int64_t>{0})), "classifier: an encoder does not score words", Error);
}
