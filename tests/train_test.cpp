#include "tests/main.h"

#include <sys/wait.h>

#include <csignal>

#include "engine/adapter.h"
#include "engine/checkpoint.h"
#include "engine/fingerprint.h"
#include "engine/load.h"
#include "engine/new_model.h"
#include "models/llama.h"
#include "tensor/parallel.h"
#include "tests/check.h"
#include "tests/small_llama.h"

using namespace kvt;

namespace {

Ids ints(const Tensor& t) {
  REQUIRE(t.dtype() == DType::I32);
  Ids ids(size_t(t.size()));
  std::memcpy(ids.data(), t.raw(), size_t(t.bytes()));
  return ids;
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

// A small base model with a fresh LoRA on all layers, ready to train.
struct LoraRun {
  Gguf base;
  std::unique_ptr<CausalLm> model;
  LoraSet set;
  TrainedSet trained;
  RunIdentity identity;

  explicit LoraRun(const TrainOptions& options, const SmallLlama& small = {}) : base(small.gguf()), model(load_model(base)) {
    set = attach_lora(*model, {.rank = 4, .alpha = 8, .targets = {"all"}, .first_layer = 0, .last_layer = -1, .seed = 1});
    trained = trained_factors(set);
    identity = {fingerprint(base), options.describe()};
  }
  std::string write(const std::string& path) const {
    adapter_file(set, "llama", identity.base, DType::F32).write(path);
    return bytes_of(path);
  }
};

TrainOptions small_options() {
  TrainOptions o;
  o.steps = 12;
  o.batch = 3;
  o.accumulate = 2;
  o.lr = 5e-3f;
  o.warmup = 2;
  o.seed = 9;
  o.eval_every = 3;
  return o;
}

// The batch of a golden file, as PyTorch saw it: labels are given, not shifted.
Examples golden_rows(const Gguf& golden) {
  const Tensor ids_tensor = golden.tensor("golden.ids");
  const Ids ids = ints(ids_tensor), labels = ints(golden.tensor("golden.labels"));
  const int64_t B = ids_tensor.dim(0), T = ids_tensor.dim(1);
  Examples data(T);
  for (int64_t b = 0; b < B; ++b) data.add({{ids.begin() + b * T, ids.begin() + (b + 1) * T}, {labels.begin() + b * T, labels.begin() + (b + 1) * T}});
  return data;
}

TrainOptions golden_options(const Gguf& golden, int64_t batch) {
  TrainOptions options;
  options.steps = golden.integer("golden.steps");
  options.batch = batch;
  options.schedule = Schedule::Kind::constant;
  options.lr = float(golden.real("golden.lr"));
  options.optimizer.weight_decay = float(golden.real("golden.weight_decay"));
  options.clip = 0;
  return options;
}

std::vector<float> golden_losses(const CausalLm& model, const TrainedSet& trained, const TrainOptions& options, const Examples& data) {
  std::vector<float> losses;
  TrainState state;
  train(model, trained, options, data, nullptr, state, {.step = [&](const StepReport& r) { losses.push_back(float(r.loss)); }, .validation = {}, .save = {}, .cancelled = {}});
  return losses;
}

}  // namespace

TEST_CASE("a two-layer Llama agrees with PyTorch: logits, loss, every gradient, ten AdamW losses") {
  for (const char* file : {"tests/golden/llama_tied.gguf", "tests/golden/llama_untied.gguf"}) {
    INFO(std::string(file));
    const Gguf golden = Gguf::open(project_path(file));
    const auto model = load_model(golden);
    const TrainedSet trained = all_weights(*model);
    const Tensor ids_tensor = golden.tensor("golden.ids");
    const Ids ids = ints(ids_tensor), labels = ints(golden.tensor("golden.labels"));
    const int64_t B = ids_tensor.dim(0), T = ids_tensor.dim(1);

    const Tensor logits = model->logits(model->hidden(ids, B, T, {}));
    CHECK(max_relative_error(logits.values(), golden.tensor("golden.logits").values()) < 1e-4);

    for (bool recomputed : {false, true}) {
      for (const Trained& t : trained) t.tensor.drop_grad();
      Tape tape;
      const Tensor loss = model->loss(model->hidden(ids, B, T, {.cache = nullptr, .recompute = recomputed}), labels);
      CHECK(loss.item() == doctest::Approx(golden.tensor("golden.loss").item()).epsilon(1e-5));
      tape.backward(loss);
      for (const Trained& t : trained) {
        INFO(t.name, " recomputed ", recomputed);
        CHECK(max_relative_error({t.tensor.grad(), size_t(t.tensor.size())}, golden.tensor("golden.grad." + t.name).values()) < 1e-4);
      }
    }

    const Examples data = golden_rows(golden);
    const std::vector<float> losses = golden_losses(*model, trained, golden_options(golden, B), data);
    const Tensor want = golden.tensor("golden.losses");
    REQUIRE(int64_t(losses.size()) == want.size());
    for (size_t i = 0; i < losses.size(); ++i) CHECK(losses[i] == doctest::Approx(want.data()[i]).epsilon(1e-4));
  }
}

TEST_CASE("ten AdamW losses in mixed precision are those of PyTorch's autocast to bfloat16") {
  for (const char* file : {"tests/golden/llama_tied.gguf", "tests/golden/llama_untied.gguf"}) {
    INFO(std::string(file));
    const Gguf golden = Gguf::open(project_path(file));
    const Tensor want = golden.tensor("golden.bf16.losses"), exact = golden.tensor("golden.losses");
    const auto model = load_model(golden);
    const TrainedSet trained = all_weights(*model);
    const Examples data = golden_rows(golden);
    TrainOptions options = golden_options(golden, data.size());
    options.precision = Precision::bf16;
    const std::vector<float> losses = golden_losses(*model, trained, options, data);
    REQUIRE(int64_t(losses.size()) == want.size());
    // Both round operands to 8 bits; PyTorch also rounds what products give. A loss of a chain of 11 products, each with two roundings of 2⁻⁸.
    for (size_t i = 0; i < losses.size(); ++i) {
      INFO("step ", i + 1, ": ", losses[i], ", PyTorch ", want.data()[i], ", in F32 ", exact.data()[i]);
      CHECK(losses[i] == doctest::Approx(want.data()[i]).epsilon(0.01));
      CHECK(losses[i] != exact.data()[i]);
    }
  }
}

TEST_CASE("gradients of a whole Llama by finite differences: all weights, and LoRA factors") {
  Rng rng(4);
  const Ids ids = {1, 5, 9, 2, 30, 31, 7, 7}, labels = {5, 9, ignored_label, 30, 31, 7, 7, 0};
  for (bool lora : {false, true}) {
    const Gguf base = SmallLlama{.layers = 1, .tied = !lora}.gguf();
    const auto model = load_model(base);
    LoraSet set;
    TrainedSet trained;
    if (lora) {
      set = attach_lora(*model, {.rank = 3, .alpha = 6, .targets = {"all", "output"}, .first_layer = 0, .last_layer = -1, .seed = 2});
      for (const auto& layer : set.layers)      // away from B = 0, where A has no gradient
        for (float& x : layer.lora->b.values()) x = 0.2f * rng.normal();
      trained = trained_factors(set);
    } else {
      trained = all_weights(*model);
    }
    const auto loss = [&] { return model->loss(model->hidden(ids, 2, 4, {}), labels); };
    {
      Tape tape;
      tape.backward(loss());
    }
    for (const Trained& t : trained) {
      const Tensor v = randn(t.tensor.shape(), rng), saved = t.tensor.clone();
      double exact = 0, norm = 0, norm_v = 0;
      for (int64_t i = 0; i < v.size(); ++i) {
        exact += double(t.tensor.grad()[i]) * v.data()[i];
        norm += double(t.tensor.grad()[i]) * t.tensor.grad()[i];
        norm_v += double(v.data()[i]) * v.data()[i];
      }
      const auto at = [&](float e) {
        for (int64_t i = 0; i < v.size(); ++i) t.tensor.data()[i] = saved.data()[i] + e * v.data()[i];
        return double(loss().item());
      };
      const float h = 2e-3f;
      const double numeric = (at(h) - at(-h)) / (2 * double(h));
      at(0);
      INFO(t.name, ": tape ", exact, ", differences ", numeric);
      CHECK(norm > 0);
      CHECK(std::fabs(exact - numeric) <= 1e-2 * std::max(std::fabs(numeric), 0.3 * std::sqrt(norm * norm_v)));
    }
  }
}

TEST_CASE("training lowers the loss; the same seed gives the same bytes, another seed others; recomputation changes nothing") {
  const TemporaryFolder folder;
  const Examples data = some_text(400, 16, 1);
  TrainOptions options = small_options();
  options.steps = 60;
  options.lr = 2e-2f;
  std::map<std::string, std::string> files;
  double first = 0, last = 0;
  for (const std::string variant : {"one", "again", "recomputed", "seed", "bf16", "bf16 recomputed"}) {
    options.recompute = variant.ends_with("recomputed");
    options.precision = variant.starts_with("bf16") ? Precision::bf16 : Precision::f32;
    options.seed = variant == "seed" ? 10 : 9;
    LoraRun run(options);
    TrainState state;
    first = evaluate(*run.model, data, 3);
    CHECK(train(*run.model, run.trained, options, data, nullptr, state, {}) == TrainEnd::finished);
    last = evaluate(*run.model, data, 3);
    CHECK(last < first - 0.5);
    files[variant] = run.write(folder / (variant + ".gguf"));
  }
  CHECK(files["one"] == files["again"]);
  CHECK(files["one"] == files["recomputed"]);
  CHECK(files["one"] != files["seed"]);
  CHECK(files["bf16"] == files["bf16 recomputed"]);
  CHECK(files["bf16"] != files["one"]);
}

TEST_CASE("accumulated gradients are those of the batches taken together, also when a batch goes through in parts") {
  std::vector<std::vector<double>> losses, norms;
  const struct { int64_t accumulate, pass_tokens; } ways[] = {{1, 0}, {3, 0}, {1, 20}, {1, 1}, {3, 12}};
  for (const auto& [accumulate, pass_tokens] : ways) {
    TrainOptions options = small_options();
    options.pass_tokens = pass_tokens;
    options.batch = 6 / accumulate;
    options.accumulate = accumulate;
    options.steps = 5;
    LoraRun run(options);
    Examples data(12);      // pairs of different lengths: batches hold different numbers of labels
    Rng rng(6);
    for (int i = 0; i < 36; ++i) {
      Ids completion(1 + rng.below(7));
      for (int32_t& id : completion) id = int32_t(rng.below(40));
      data.add_pair(Ids{1, 2, 3}, completion, 0);
    }
    TrainState state;
    losses.emplace_back();
    norms.emplace_back();
    TrainCallbacks callbacks;
    callbacks.step = [&](const StepReport& r) { losses.back().push_back(r.loss), norms.back().push_back(r.gradient_norm); };
    train(*run.model, run.trained, options, data, nullptr, state, callbacks);
  }
  for (size_t way = 1; way < losses.size(); ++way)
    for (size_t i = 0; i < losses[0].size(); ++i) {
      CHECK(losses[way][i] == doctest::Approx(losses[0][i]).epsilon(1e-5));
      CHECK(norms[way][i] == doctest::Approx(norms[0][i]).epsilon(1e-4));
    }
}

TEST_CASE("a run killed between checkpoints and resumed ends with the same bytes") {
  const TemporaryFolder folder;
  ThreadPool one({.threads = 1});           // a forked child has no other threads
  const ThreadPool::Use use(one);
  const Examples data = some_text(200, 8, 2), validation = some_text(60, 8, 3);
  TrainOptions options = small_options();
  options.save_every = 4;
  const std::string checkpoint = folder / "run.checkpoint";
  std::string whole;
  {
    LoraRun run(options);
    TrainState state;
    REQUIRE(train(*run.model, run.trained, options, data, &validation, state, {}) == TrainEnd::finished);
    whole = run.write(folder / "whole.gguf");
  }
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    try {
      LoraRun run(options);
      TrainState state;
      TrainCallbacks callbacks;
      callbacks.save = [&](const TrainState& s) { write_checkpoint(checkpoint, s, run.trained, run.identity); };
      callbacks.step = [&](const StepReport& r) { if (r.step == 7) std::raise(SIGKILL); };
      train(*run.model, run.trained, options, data, &validation, state, callbacks);
    } catch (...) {}
    _exit(1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  REQUIRE(WTERMSIG(status) == SIGKILL);

  LoraRun run(options);
  TrainState state;
  read_checkpoint(checkpoint, state, run.trained, run.identity);
  CHECK(state.step == 4);
  REQUIRE(train(*run.model, run.trained, options, data, &validation, state, {}) == TrainEnd::finished);
  CHECK(run.write(folder / "resumed.gguf") == whole);
}

TEST_CASE("a cancelled run is saved and resumes to the same bytes, wherever it was cancelled") {
  const TemporaryFolder folder;
  const Examples data = some_text(200, 8, 2), validation = some_text(60, 8, 3);
  TrainOptions options = small_options();
  options.precision = Precision::bf16;
  std::string whole;
  int64_t asked = 0;
  {
    LoraRun run(options);
    TrainState state;
    TrainCallbacks count;
    count.cancelled = [&] { ++asked; return false; };
    train(*run.model, run.trained, options, data, &validation, state, count);
    whole = run.write(folder / "whole.gguf");
  }
  REQUIRE(asked > 20);
  for (int64_t stop = 1; stop < asked; stop += 3) {
    const std::string checkpoint = folder / "cancelled.checkpoint";
    {
      LoraRun run(options);
      TrainState state;
      TrainCallbacks callbacks;
      int64_t n = 0;
      callbacks.cancelled = [&] { return ++n >= stop; };
      callbacks.save = [&](const TrainState& s) { write_checkpoint(checkpoint, s, run.trained, run.identity); };
      REQUIRE(train(*run.model, run.trained, options, data, &validation, state, callbacks) == TrainEnd::cancelled);
    }
    LoraRun run(options);
    TrainState state;
    read_checkpoint(checkpoint, state, run.trained, run.identity);
    REQUIRE(train(*run.model, run.trained, options, data, &validation, state, {}) == TrainEnd::finished);
    CHECK(run.write(folder / "resumed.gguf") == whole);
  }
}

TEST_CASE("early stopping ends a run that overfits and brings the best weights back") {
  const Examples data = some_text(30, 8, 2);
  Examples validation(8);
  Rng rng(8);
  Ids noise(200);
  for (int32_t& id : noise) id = int32_t(rng.below(40));
  validation.add_text(noise);
  TrainOptions options = small_options();
  options.steps = 500;
  options.lr = 2e-2f;
  options.eval_every = 5;
  options.patience = 3;
  LoraRun run(options);
  TrainState state;
  std::vector<ValidationReport> reports;
  TrainCallbacks callbacks;
  callbacks.validation = [&](const ValidationReport& r) { reports.push_back(r); };
  CHECK(train(*run.model, run.trained, options, data, &validation, state, callbacks) == TrainEnd::stopped_early);
  double best = INFINITY;
  for (const auto& r : reports) best = std::min(best, r.loss);
  CHECK(state.step < 500);
  CHECK(state.step == state.best_step + 15);
  CHECK(reports.size() >= 4);
  CHECK(reports.back().loss > best + 0.01);
  CHECK(state.best_loss == best);
  CHECK(evaluate(*run.model, validation, options.batch) == best);
}

TEST_CASE("a loss that is no number stops the run with step and learning rate") {
  const Examples data = some_text(100, 8, 2);
  TrainOptions options = small_options();
  options.lr = 1e30f;
  options.clip = 0;
  LoraRun run(options);
  TrainState state;
  try {
    train(*run.model, run.trained, options, data, nullptr, state, {});
    FAIL("no error");
  } catch (const Error& e) {
    const std::string message = e.what();
    CHECK(message.find(" at step ") != std::string::npos);
    CHECK(message.find("learning rate 1e+30") != std::string::npos);
  } catch (...) { FAIL("another exception"); }
}

TEST_CASE("checkpoints: refused for another base or other options, and when damaged; refusal changes nothing") {
  const TemporaryFolder folder;
  const TrainOptions options = small_options();
  LoraRun run(options);
  TrainState state;
  const Examples data = some_text(100, 8, 2);
  const std::string path = folder / "c";
  train(*run.model, run.trained, options, data, nullptr, state, {});
  write_checkpoint(path, state, run.trained, run.identity);

  LoraRun fresh(options);
  const Tensor before = fresh.trained[1].tensor.clone();
  TrainState read;
  RunIdentity other = run.identity;
  other.base = "0123456789abcdef";
  CHECK_THROWS_WITH_AS(read_checkpoint(path, read, fresh.trained, other),
                       (path + ": a checkpoint on another base model (fingerprint " + run.identity.base + " there, 0123456789abcdef here)").c_str(), Error);
  other = run.identity;
  other.options["batch"] = "8";
  other.options["rank"] = "4";
  CHECK_THROWS_WITH_AS(read_checkpoint(path, read, fresh.trained, other),
                       (path + ": a checkpoint of a run with other options: batch is 3 there and 8 here; rank is missing there and 4 here").c_str(), Error);

  TrainOptions narrow = options;
  narrow.precision = Precision::bf16;
  CHECK_THROWS_WITH_AS(read_checkpoint(path, read, fresh.trained, {run.identity.base, narrow.describe()}),
                       (path + ": a checkpoint of a run with other options: precision is f32 there and bf16 here").c_str(), Error);

  const std::string good = bytes_of(path);
  const auto refused = [&](const std::string& bytes) {
    const std::string bad = folder / "bad";
    FILE* f = std::fopen(bad.c_str(), "wb");
    std::fwrite(bytes.data(), 1, bytes.size(), f);
    std::fclose(f);
    try {
      read_checkpoint(bad, read, fresh.trained, run.identity);
    } catch (const Error&) { return true; }
    return false;
  };
  Rng rng(12);
  for (int i = 0; i < 40; ++i) CHECK(refused(good.substr(0, rng.below(good.size()))));
  CHECK(read.step == 0);
  CHECK(std::equal(before.data(), before.data() + before.size(), fresh.trained[1].tensor.data()));
  const size_t header = good.find("blk.0") + 2000;
  int refusals = 0;
  for (int i = 0; i < 300; ++i) {      // flipped bits, half of them in the header
    std::string bad = good;
    const size_t at = i % 2 ? rng.below(good.size()) : rng.below(header);
    bad[at] = char(bad[at] ^ (1 << rng.below(8)));
    if (refused(bad)) {
      ++refusals;
      continue;
    }
    for (size_t k = 0; k < fresh.trained.size(); ++k) {      // only padding does no harm
      const Tensor &kept = run.trained[k].tensor, &got = fresh.trained[k].tensor;
      CHECK(std::equal(kept.data(), kept.data() + kept.size(), got.data()));
    }
  }
  CHECK(refusals > 270);
  LoraRun another(options, SmallLlama{.hidden = 32});      // other shapes
  CHECK_THROWS_AS(read_checkpoint(path, read, another.trained, run.identity), Error);
  read_checkpoint(path, read, fresh.trained, run.identity);
  CHECK(read.step == state.step);
}

TEST_CASE("quantized weights cannot be trained whole") {
  const Gguf base = SmallLlama{.matrices = DType::Q8_0}.gguf();
  const auto model = load_model(base);
  CHECK_THROWS_WITH_AS(all_weights(*model), "train: 'token_embd.weight' is Q8_0; only float weights (F32, F16, BF16) can be trained whole", Error);
}

TEST_CASE("a new GPT-2 and a new Llama load as any file does, begin near chance and learn") {
  for (const NewModel& shape : {NewModel{"gpt2", 40, 32, 2, 4, 4, 64, 24, true}, NewModel{"llama", 40, 32, 2, 4, 2, 48, 24, false}}) {
    INFO(shape.architecture);
    Gguf gguf;
    Rng rng(3);
    add_random_model(gguf, shape, rng);
    const auto model = load_model(gguf);
    const Examples data = some_text(24 * 64, 24, 1);
    const double before = evaluate(*model, data, 16);
    CHECK(before == doctest::Approx(std::log(40.0)).epsilon(0.02));
    TrainOptions o;
    o.steps = 60;
    o.batch = 16;
    o.lr = 1e-2f;
    TrainState state;
    train(*model, all_weights(*model), o, data, nullptr, state, {});
    CHECK(evaluate(*model, data, 16) < 0.6 * before);
    // What is written is a model again, with the same predictions.
    const Gguf file = model_file(gguf, *model, DType::F32);
    CHECK(evaluate(*load_model(file), data, 16) == evaluate(*model, data, 16));
  }
  Gguf gguf;
  Rng rng(3);
  CHECK_THROWS_AS_MESSAGE(add_random_model(gguf, {"llama", 40, 32, 2, 3, 3, 48, 24, true}, rng), Error, "heads do not divide the channels");
  CHECK_THROWS_AS_MESSAGE(add_random_model(gguf, {"bert", 40, 32, 2, 4, 4, 48, 24, true}, rng), Error, "not a causal language model");
}
