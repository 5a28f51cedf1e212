// How `kvt train` adapts a trained model: in all weights, by its head alone, by LoRA, IA3 or KVT.
#include <algorithm>
#include <cstdio>

#include "engine/atomic_file.h"
#include "engine/both_tasks.h"
#include "engine/fingerprint.h"
#include "engine/ia3.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/train.h"
#include "tools/training_report.h"

namespace kvt {

static bool in_rounds(const TrainMethod& m) { return m.name == "kvt" || m.name == "lora-xs"; }

TrainMethod read_method(Config c, const TrainOptions& options) {
  static constexpr const char* names[] = {"full", "probe", "lora", "adapterdrop", "lora-xs", "ia3", "kvt", "kvt-generated"};
  TrainMethod m;
  m.name = c.text("name", m.name);
  if (std::find(std::begin(names), std::end(names), m.name) == std::end(names)) c.bad("name", "expected full, probe, lora, adapterdrop, lora-xs, ia3, kvt or kvt-generated");
  const bool kvt = m.name == "kvt", low_rank = m.name == "lora" || m.name == "adapterdrop" || m.name == "lora-xs";
  if (low_rank) {
    m.lora.rank = c.count("rank", 1, 4096, m.lora.rank);
    m.lora.alpha = float(c.real("alpha", 0, 1e6, double(m.lora.alpha)));
    m.rounds.k = m.lora.rank;
    m.rounds.scale = m.lora.alpha / float(m.lora.rank);
    m.rounds.core = CoreForm::dense;
    m.rounds.rounds = 1;
  }
  if (kvt) {
    m.rounds.core = core_form(c.text("core", "extracted"));
    if (m.rounds.core == CoreForm::lora) c.bad("core", "expected extracted, spectral or dense");
    m.rounds.k = c.count("k", 1, 4096, m.rounds.k);
    m.rounds.rounds = c.count("rounds", 1, 1000, m.rounds.rounds);
    m.rounds.eta = float(c.real("eta", 1e-9, 1e3, double(m.rounds.eta)));
    m.rounds.refine = c.count("refine", 1, 1 << 20, 0);
    m.rounds.refine_rank = c.count("refine_rank", 1, 4096, m.rounds.refine_rank);
  }
  if (m.name == "kvt-generated") {
    if (c.has("levels")) m.generated.levels = c.texts("levels");
    if (m.generated.levels == std::vector<std::string>{"none"}) m.generated.levels.clear();
    m.generated.size = c.count("size", 1, 4096, 0);
    m.generated.vectors = c.count("vectors", 1, 4096, 0);
    m.generated.extractor = c.flag("extractor", true);
    m.knowledge_layer = c.count("knowledge_layer", 0, 1024, -1);
    m.texts = c.count("texts", 1, 1 << 20, m.texts);
    m.mu = float(c.real("mu", 0, 1e6, double(m.mu)));
  }
  if (m.name != "lora-xs") m.learn_validation = m.rounds.learn_validation = c.flag("learn_validation", false);
  if (in_rounds(m)) {
    m.rounds.basis = basis(c.text("init", kvt ? "gradient-svd" : "weight-svd"));
    m.rounds.extract.batch = options.batch;
    m.rounds.extract.precision = options.precision;
    m.rounds.mean_rank = c.real("mean_rank", 1, 4096, 0);
    const std::string type = c.text("out_type", "F32");
    if (type != "F32" && type != "F16" && type != "BF16" && type != "Q8_0") c.bad("out_type", "expected F32, F16, BF16 or Q8_0");
    m.out_type = find_dtype(type.c_str())->type;
  }
  if (m.name != "full" && m.name != "probe") {
    m.head = c.flag("head", false);
    m.fuse = c.text("fuse", "none") == "auto";
    m.drop = c.count("drop", 0, 1024, -1);
    if (m.name != "ia3" && c.has("targets")) m.lora.targets = c.texts("targets");
  }
  m.lora.seed = m.rounds.extract.seed = m.generated.seed = options.seed;
  m.generated.targets = m.lora.targets;
  m.rounds.train = options;
  c.finish();
  return m;
}

// The trained result's file with what is beside the adapter: a head, and how its scores are fused with the base's.
static Gguf completed(Report& report, Gguf file, const TrainJob& job, const TrainMethod& method) {
  if (method.head || method.name == "probe") {
    file.add("kvt.head.weight", job.head->weight);
    file.add("kvt.head.bias", job.head->bias);
  }
  if (method.fuse) write_fusion(file, best_fusion(report, job.fusion_losses()));
  return file;
}

static void run_in_rounds(const TrainJob& job, TrainMethod method, Model& model, int64_t first, const std::string& base, const TrainPaths& paths) {
  require(job.validation != nullptr, "train: the method ", method.name, " needs validation data");
  require(!paths.resume, "train: rounds of extraction are short and start anew; leave out --resume");
  { const AtomicFile writable(paths.out); }
  Report report(paths.json);
  int64_t steps = 0;
  RoundsCallbacks callbacks;
  callbacks.cancelled = interrupted;
  callbacks.extracting = [&](const ExtractProgress& p) {
    char text[100];
    std::snprintf(text, sizeof text, "extracting  %lld of %lld examples  loss %.4f", static_cast<long long>(p.done), static_cast<long long>(p.examples), p.loss);
    report.progress(text);
  };
  callbacks.training.step = [&](const StepReport& r) {
    ++steps;
    report.step(r);
  };
  callbacks.training.validation = [&](const ValidationReport& r) { report.validation(r); };
  callbacks.round = [&](const RoundReport& r) {
    char text[160];
    std::snprintf(text, sizeof text, "round %lld     training loss %.4f  validation loss %.4f -> %.4f  step %.4g  rank %lld", static_cast<long long>(r.round),
                  r.training_loss, r.before, r.loss, double(r.eta), static_cast<long long>(r.rank));
    report.line(text);
    report.event({{"event", "round"}, {"round", r.round}, {"eta", r.eta}, {"training_loss", r.training_loss}, {"before", r.before}, {"loss", r.loss}, {"rank", r.rank}});
  };
  const std::vector<TargetLayer> layers = target_layers(model, method.lora.targets, first);
  int64_t trained = 0;
  for (const TargetLayer& layer : layers) {
    const int64_t k = std::min({method.rounds.k, layer.linear->weight.shape[0], layer.linear->weight.shape[1]});
    if (method.rounds.refine > 0) trained += method.rounds.refine_rank * (layer.linear->weight.shape[0] + layer.linear->weight.shape[1]);
    trained += method.rounds.core == CoreForm::extracted ? 0 : method.rounds.core == CoreForm::spectral ? k : k * k;
  }
  if (method.head) {            // first alone, so that there is a gradient worth extracting
    method.rounds.beside = {trainable("kvt.head.weight", job.head->weight), trainable("kvt.head.bias", job.head->bias)};
    for (const Trained& t : method.rounds.beside) trained += t.tensor.size();
    TrainState state;
    if (train(*job.task, method.rounds.beside, job.options, job.validation, state, callbacks.training) == TrainEnd::cancelled) throw Interrupted();
    report.line("head        fitted alone: validation loss " + std::to_string(state.best_loss));
  }
  report.event({{"event", "plan"}, {"trained", trained}, {"examples", job.task->size()}});
  RoundsState state;
  if (!run_rounds(*job.task, *job.validation, layers, method.rounds, state, callbacks)) throw Interrupted();
  if (state.rounds() == 0 && !method.head) report.nothing("train", state.losses[0]);
  if (method.rounds.cut_at_end()) state.cut(method.rounds.mean_rank);
  round_to(state.set, method.out_type);
  Gguf file = state.rounds() > 0 ? rounds_file(state, method.rounds.core, model.architecture(), base, method.out_type) : new_adapter("head", model.architecture(), base);
  if (state.rounds() == 0) method.fuse = false;      // nothing to fuse
  completed(report, std::move(file), job, method).write(paths.out);
  report.line("wrote " + paths.out + "; peak memory " + megabytes(peak_memory()));
  const double passes = double(state.extractions) + double(steps * job.options.batch * job.options.accumulate) / double(job.task->size());
  report.event({{"event", "done"}, {"out", paths.out}, {"rounds", state.rounds()}, {"losses", state.losses}, {"passes", passes},
                {"best_loss", *std::min_element(state.losses.begin(), state.losses.end())}, {"peak_memory", peak_memory()}});
}

void run_method(TrainJob job, const TrainMethod& method, Model& model, const Gguf& base, const TrainPaths& paths) {
  const std::string id = fingerprint(base);
  require(job.head != nullptr || (!method.head && method.name != "probe"), "train: a model of architecture '", model.architecture(), "' has no class head to train");
  require(!method.fuse || job.fusion_losses, "train: \"fuse\" needs validation data, and a classifier");
  const int64_t first = method.drop >= 0 ? method.drop : method.name == "adapterdrop" ? model.layers() * 5 / 12 : 0;
  job.identity["base"] = id;
  job.identity["method"] = method.name;
  job.identity["head"] = method.head ? "yes" : "no";
  job.identity["drop"] = std::to_string(first);
  if (in_rounds(method)) return run_in_rounds(job, method, model, first, id, paths);
  job.learn_validation = method.learn_validation;
  if (job.learn_validation) job.identity["learn-validation"] = "yes";

  if (method.name == "full") {
    job.trained = all_weights(model);
    job.result = [&](Report&) { return model_file(base, model, DType::F32); };
    return run_job(job, paths);
  }
  std::function<Gguf()> adapter;
  KvtSet cores;                                             // of kvt-generated, and what knowledge is extracted from
  std::vector<Tensor> states;
  std::optional<KvtTask> task, validation;
  if (method.name == "probe") {
    adapter = [&model, id] { return new_adapter("head", model.architecture(), id); };
  } else if (method.name == "ia3") {
    const Ia3Set set = attach_ia3(model, first);
    job.trained = trained_factors(set);
    adapter = [set, &model, id] { return ia3_file(set, model.architecture(), id); };
  } else if (method.name == "kvt-generated") {
    require(bool(job.knowledge_states), "train: a model of architecture '", model.architecture(), "' has no generated cores");
    KvtOptions options = method.generated;
    options.first_layer = first;
    if (options.extractor) states = job.knowledge_states(method.texts, method.knowledge_layer);
    cores = attach_kvt(model, options);
    job.task = &task.emplace(unowned(*job.task), cores, states, true, method.mu);
    if (job.validation) job.validation = &validation.emplace(unowned(*job.validation), cores, states, false, method.mu);
    job.trained = trained_tensors(cores);
    for (const std::string& level : options.levels) job.identity["levels"] += level + " ";
    job.identity["cores"] = std::to_string(cores.kvt->config().size) + " " + std::to_string(cores.kvt->config().vectors) + " " + std::to_string(states.size()) + " " +
                            std::to_string(method.knowledge_layer) + " " + std::to_string(method.mu);
    for (const auto& layer : cores.layers) job.identity["targets"] += layer.name + " ";
    adapter = [&cores, &states, &model, id] {
      fill_bank(cores, states);
      return kvt_file(cores, model.architecture(), id, DType::F32);
    };
  } else {
    LoraOptions options = method.lora;
    options.first_layer = first;
    const LoraSet set = attach_lora(model, options);
    job.trained = trained_factors(set);
    job.identity["rank"] = std::to_string(method.lora.rank);
    job.identity["alpha"] = std::to_string(method.lora.alpha);
    for (const auto& layer : set.layers) job.identity["targets"] += layer.name + " ";
    adapter = [set, &model, id] { return adapter_file(set, model.architecture(), id, DType::F32); };
  }
  if (method.head || method.name == "probe")
    for (auto& [name, p] : {std::pair{"kvt.head.weight", &job.head->weight}, {"kvt.head.bias", &job.head->bias}}) job.trained.push_back(trainable(name, *p));
  job.result = [&job, &method, adapter](Report& report) { return completed(report, adapter(), job, method); };
  run_job(job, paths);
}

}  // namespace kvt
