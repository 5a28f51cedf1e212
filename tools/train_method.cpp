// How `kvt train` adapts a trained model: in all weights, by LoRA, or by KVT.
#include <cstdio>

#include "engine/atomic_file.h"
#include "engine/fingerprint.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/train.h"
#include "tools/training_report.h"

namespace kvt {

TrainMethod read_method(Config c, const TrainOptions& options) {
  TrainMethod m;
  m.name = c.text("name", m.name);
  if (m.name != "full" && m.name != "lora" && m.name != "kvt") c.bad("name", "expected full, lora or kvt");
  if (m.name == "lora") {
    m.lora.rank = c.count("rank", 1, 4096, m.lora.rank);
    m.lora.alpha = float(c.real("alpha", 0, 1e6, double(m.lora.alpha)));
  }
  if (m.name == "kvt") {
    m.rounds.k = c.count("k", 1, 4096, m.rounds.k);
    m.rounds.rounds = c.count("rounds", 1, 1000, m.rounds.rounds);
    m.rounds.extract.batch = options.batch;
  }
  if (m.name != "full" && c.has("targets")) m.lora.targets = c.texts("targets");
  m.lora.seed = m.rounds.extract.seed = options.seed;
  m.rounds.train = options;
  c.finish();
  return m;
}

static void extract_in_rounds(const TrainJob& job, const TrainMethod& method, Model& model, const std::string& base, const TrainPaths& paths) {
  require(job.validation != nullptr, "train: the method kvt needs validation data");
  require(!paths.resume, "train: rounds of extraction are short and start anew; leave out --resume");
  { const AtomicFile writable(paths.out); }
  Report report(paths.json);
  RoundsCallbacks callbacks;
  callbacks.cancelled = interrupted;
  callbacks.extracting = [&](const ExtractProgress& p) {
    char text[100];
    std::snprintf(text, sizeof text, "extracting  %lld of %lld examples  loss %.4f", static_cast<long long>(p.done), static_cast<long long>(p.examples), p.loss);
    report.progress(text);
  };
  callbacks.round = [&](const RoundReport& r) {
    char text[160];
    std::snprintf(text, sizeof text, "round %lld     training loss %.4f  validation loss %.4f -> %.4f  step %.4g  rank %lld", static_cast<long long>(r.round),
                  r.training_loss, r.before, r.loss, double(r.eta), static_cast<long long>(r.rank));
    report.line(text);
    report.event({{"event", "round"}, {"round", r.round}, {"eta", r.eta}, {"training_loss", r.training_loss}, {"before", r.before}, {"loss", r.loss}, {"rank", r.rank}});
  };
  RoundsState state;
  if (!run_rounds(*job.task, *job.validation, target_layers(model, method.lora.targets), method.rounds, state, callbacks)) throw Interrupted();
  require(state.rounds() > 0, "train: no step along the gradient lowers the validation loss (", state.losses[0], "); nothing is written");
  rounds_file(state, method.rounds.core, model.architecture(), base, DType::F32).write(paths.out);
  report.line("wrote " + paths.out + "; peak memory " + megabytes(peak_memory()));
  report.event({{"event", "done"}, {"out", paths.out}, {"rounds", state.rounds()}, {"losses", state.losses}, {"peak_memory", peak_memory()}});
}

void run_method(TrainJob job, const TrainMethod& method, Model& model, const Gguf& base, const TrainPaths& paths) {
  const std::string id = fingerprint(base);
  job.identity["base"] = id;
  job.identity["method"] = method.name;
  if (method.name == "kvt") return extract_in_rounds(job, method, model, id, paths);
  if (method.name == "full") {
    job.trained = all_weights(model);
    job.result = [&] { return model_file(base, model, DType::F32); };
  } else {
    const LoraSet set = attach_lora(model, method.lora);
    job.trained = trained_factors(set);
    job.identity["rank"] = std::to_string(method.lora.rank);
    job.identity["alpha"] = std::to_string(method.lora.alpha);
    for (const auto& layer : set.layers) job.identity["targets"] += layer.name + " ";
    job.result = [set, &model, id] { return adapter_file(set, model.architecture(), id, DType::F32); };
  }
  run_job(job, paths);
}

}  // namespace kvt
