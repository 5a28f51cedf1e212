// The task "translation": an encoder–decoder Transformer on sentence pairs.
#include "engine/bpe_train.h"
#include "engine/fingerprint.h"
#include "engine/kvt_adapter.h"
#include "engine/sentence_pairs.h"
#include "engine/seq2seq_file.h"
#include "tools/common.h"
#include "tools/train.h"

namespace kvt {

namespace {

struct Corpus { std::vector<std::string> source, target; };

// {"source": FILE or [FILE, …], "target": likewise}; line i of one side translates line i of the other.
Corpus read_corpus(Config config, const TrainPaths& paths) {
  Corpus c;
  const std::vector<std::string> sources = config.texts("source"), targets = config.texts("target");
  if (sources.size() != targets.size()) config.bad("target", "expected as many files as sources");
  config.finish();
  for (size_t i = 0; i < sources.size(); ++i) {
    const std::string from = paths.file(sources[i]), to = paths.file(targets[i]);
    const std::vector<std::string> a = read_lines(from), b = read_lines(to);
    require(a.size() == b.size(), from, " has ", a.size(), " lines, ", to, " ", b.size());
    c.source.insert(c.source.end(), a.begin(), a.end());
    c.target.insert(c.target.end(), b.begin(), b.end());
  }
  return c;
}

SentencePairs encode(const Corpus& c, const Sentences& text, int64_t length) {
  SentencePairs pairs(length);
  for (size_t i = 0; i < c.source.size(); ++i) pairs.add(text.source(c.source[i]), text.target(c.target[i]));
  require(pairs.size() > 0, "train: no pair of sentences of at most ", length, " tokens");
  return pairs;
}

// "tokenizer": {"file": GGUF} or {"size": N}, trained on the training text of both sides.
Gguf make_tokenizer(Config config, const TrainPaths& paths, const Corpus& corpus) {
  Gguf gguf;
  if (config.has("file")) {
    gguf = tokenizer_of(Gguf::open(paths.file(config.text("file"))));
  } else {
    BpeTrainer::Options o;
    o.size = config.count("size", 300, 1 << 20, o.size);
    BpeTrainer trainer(o);
    for (const auto* side : {&corpus.source, &corpus.target})
      for (const std::string& line : *side) trainer.add(line);
    gguf = trainer.train();
  }
  config.finish();
  gguf.set("general.type", std::string("model"));
  gguf.set("seq2seq.start_token_id", uint32_t(gguf.integer("tokenizer.ggml.bos_token_id")));
  gguf.set("seq2seq.end_token_id", uint32_t(gguf.integer("tokenizer.ggml.eos_token_id")));
  gguf.set("seq2seq.source_end", true);
  return gguf;
}

Seq2SeqConfig read_model(Config c, int64_t vocabulary) {
  Seq2SeqConfig m;
  m.source_vocabulary = m.target_vocabulary = vocabulary;
  m.channels = c.count("channels", 2, 1 << 14, 256);
  m.heads = c.count("heads", 1, 1024, 4);
  m.hidden = c.count("hidden", 1, 1 << 16, 4 * m.channels);
  m.encoder_layers = c.count("encoder_layers", 1, 1024, 3);
  m.decoder_layers = c.count("decoder_layers", 1, 1024, 3);
  m.context = c.count("context", 2, 1 << 14, 256);
  m.dropout = float(c.real("dropout", 0, 0.99, 0.1));
  const std::string normalization = c.text("normalization", "pre"), activation = c.text("activation", "relu"), positions = c.text("positions", "sinusoidal");
  if (normalization != "pre" && normalization != "post") c.bad("normalization", "expected pre or post");
  if (activation != "relu" && activation != "gelu") c.bad("activation", "expected relu or gelu");
  if (positions != "sinusoidal" && positions != "learned") c.bad("positions", "expected sinusoidal or learned");
  m.pre_norm = normalization == "pre";
  m.activation = activation == "relu" ? Seq2SeqConfig::Activation::relu : Seq2SeqConfig::Activation::gelu;
  m.positions = positions == "learned" ? Seq2SeqConfig::Positions::learned : Seq2SeqConfig::Positions::sinusoidal;
  m.shared_embeddings = c.flag("shared_embeddings", true);
  m.tied_output = c.flag("tied_output", true);
  c.finish();
  return m;
}

std::unique_ptr<Seq2Seq> make_model(const Seq2SeqConfig& shape, uint64_t seed) {
  auto model = std::make_unique<Seq2Seq>(shape);
  Rng rng(seed);
  model->init(rng);
  return model;
}

}  // namespace

void train_translation(Config& config, const TrainPaths& paths) {
  const auto seed = uint64_t(config.count("seed", 0, INT64_MAX, 0));
  const TrainOptions options = read_training(config.object("training"), seed);
  const auto smoothing = float(config.real("label_smoothing", 0, 0.99, 0.1));
  const Corpus corpus = read_corpus(config.object("data"), paths);
  const Corpus held_out = config.has("validation") ? read_corpus(config.object("validation"), paths) : Corpus{};
  const Gguf base = config.has("base") ? Gguf::open(paths.file(config.text("base"))) : Gguf();
  const bool fresh = base.tensors().empty();
  const Gguf tokenizer = fresh ? make_tokenizer(config.object("tokenizer"), paths, corpus) : base;
  const Sentences text(tokenizer);
  const std::unique_ptr<Seq2Seq> loaded = fresh ? make_model(read_model(config.object("model"), text.target_size()), seed) : load_seq2seq(base);
  Seq2Seq& model = *loaded;
  const Seq2SeqConfig& shape = model.config();
  const TrainMethod method = fresh ? TrainMethod() : read_method(config.object("method"), options);
  const int64_t length = config.count("length", 2, shape.context, shape.context);
  config.finish();

  const SentencePairs pairs = encode(corpus, text, length);
  const SentencePairs validation = held_out.source.empty() ? SentencePairs(length) : encode(held_out, text, shape.context);
  const TranslationTask task(model, pairs, text.start(), text.end(), smoothing), valid(model, validation, text.start(), text.end(), smoothing);
  TrainJob job;
  job.title = "translation";
  job.task = &task;
  job.validation = validation.size() > 0 ? &valid : nullptr;
  job.options = options;
  job.knowledge_states = [&](int64_t n, int64_t layer) { return knowledge_states(model, pairs, n, layer); };
  Gguf described;
  store_seq2seq(described, model);
  for (const Gguf::Key& k : described.keys())
    if (k.name.starts_with("seq2seq."))
      std::visit([&, name = k.name](const auto& v) {
        if constexpr (requires { std::to_string(v); }) job.identity[name] = std::to_string(v);
        else if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::string>) job.identity[name] = v;
      }, k.value);
  job.identity["data"] = hex(pairs.fingerprint());
  job.identity["validation"] = hex(validation.fingerprint());
  job.identity["label_smoothing"] = std::to_string(smoothing);
  if (!fresh) return run_method(std::move(job), method, model, base, paths);
  job.trained = all_weights(model);
  job.result = [&](Report&) {
    Gguf gguf = tokenizer;
    store_seq2seq(gguf, model);
    return gguf;
  };
  run_job(job, paths);
}

}  // namespace kvt
