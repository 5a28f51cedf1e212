// The task "language-modelling": a GPT-2 or a Llama on text.
#include "engine/adapter.h"
#include "engine/bpe_train.h"
#include "engine/fingerprint.h"
#include "engine/load.h"
#include "engine/new_model.h"
#include "engine/tokenizer.h"
#include "tools/common.h"
#include "tools/train.h"

namespace kvt {

namespace {

std::string read_texts(const TrainPaths& paths, const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += read_text(paths.file(name));
  return text;
}

// "tokenizer": {"file": GGUF} or {"size": N}, trained on the training text.
Gguf make_tokenizer(Config config, const TrainPaths& paths, const std::string& text) {
  Gguf gguf;
  if (config.has("file")) {
    gguf = tokenizer_of(Gguf::open(paths.file(config.text("file"))));
  } else {
    BpeTrainer::Options o;
    o.size = config.count("size", 300, 1 << 20, 4000);
    o.special = {"<|endoftext|>"};
    BpeTrainer trainer(o);
    trainer.add(text);
    gguf = trainer.train();
  }
  config.finish();
  return gguf;
}

NewModel read_model(Config c, int64_t vocabulary, int64_t length) {
  NewModel m;
  m.vocabulary = vocabulary;
  m.architecture = c.text("architecture", m.architecture);
  if (m.architecture != "gpt2" && m.architecture != "llama") c.bad("architecture", "expected gpt2 or llama");
  m.channels = c.count("channels", 2, 1 << 16);
  m.layers = c.count("layers", 1, 1024);
  m.heads = c.count("heads", 1, 1024);
  m.kv_heads = c.count("kv_heads", 1, 1024, m.heads);
  m.hidden = c.count("hidden", 1, 1 << 20, 4 * m.channels);
  m.context = c.count("context", length, 1 << 20, length);
  m.tied_output = c.flag("tied_output", true);
  c.finish();
  return m;
}

Examples encode(const Tokenizer& tokenizer, const std::string& text, int64_t length) {
  Examples examples(length);
  examples.add_text(tokenizer.encode(text, {.add_special = false, .parse_special = false}));
  return examples;
}

}  // namespace

void train_language(Config& config, const TrainPaths& paths) {
  const auto seed = uint64_t(config.count("seed", 0, INT64_MAX, 0));
  const TrainOptions options = read_training(config.object("training"), seed);
  const int64_t length = config.count("length", 2, 1 << 20, 256);
  const std::string text = read_texts(paths, config.texts("data"));
  const std::string held_out = config.has("validation") ? read_texts(paths, config.texts("validation")) : "";
  const double split = config.real("validation_split", 0, 0.9, 0);
  if (split > 0 && !held_out.empty()) config.bad("validation_split", "give either this or validation");
  Gguf gguf = make_tokenizer(config.object("tokenizer"), paths, text);
  const auto tokenizer = Tokenizer::from(gguf);
  const NewModel shape = read_model(config.object("model"), tokenizer->vocab().size(), length);
  config.finish();

  Examples data = encode(*tokenizer, text, length);
  require(data.learned() > 0, "train: nothing to learn in the training text");
  const Examples validation = split > 0 ? data.split(split) : encode(*tokenizer, held_out, length);
  Rng rng(seed);
  add_random_model(gguf, shape, rng);
  const auto model = load_model(gguf);
  const CausalTask task(*model, data), judge(*model, validation);

  TrainJob job;
  job.title = "language modelling";
  job.task = &task;
  job.validation = validation.learned() > 0 ? &judge : nullptr;
  job.trained = all_weights(*model);
  job.options = options;
  const auto whole = [](int64_t n) { return std::to_string(n); };
  job.identity = {{"data", hex(data.fingerprint())}, {"validation", hex(validation.fingerprint())}, {"architecture", shape.architecture},
                  {"vocabulary", whole(shape.vocabulary)}, {"channels", whole(shape.channels)}, {"layers", whole(shape.layers)}, {"heads", whole(shape.heads)},
                  {"kv_heads", whole(shape.kv_heads)}, {"hidden", whole(shape.hidden)}, {"context", whole(shape.context)}, {"length", whole(length)},
                  {"tied_output", shape.tied_output ? "yes" : "no"}};
  job.result = [&](Report&) { return model_file(gguf, *model, DType::F32); };
  run_job(job, paths);
}

}  // namespace kvt
