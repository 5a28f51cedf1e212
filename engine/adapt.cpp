#include "engine/adapt.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "engine/checkpoint.h"
#include "engine/fingerprint.h"
#include "engine/ia3.h"

namespace kvt {

namespace {

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ",") + part;
  return text;
}

std::string real(float x) {                  // in the C locale's form, whatever the host's
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, x).ptr);
}

float rate(const AdaptSettings& s) {
  if (s.train.lr > 0) return s.train.lr;
  if (s.method == "ia3" || (s.method == "kvt" && s.core == "spectral")) return 3e-3f;
  return s.in_rounds() ? 1e-3f : 3e-4f;
}

int64_t first_layer(const AdaptSettings& s, const Model& model) {
  const int64_t first = s.first_layer >= 0 ? s.first_layer : s.method == "adapterdrop" ? model.layers() * 5 / 12 : 0;      // Rücklé et al. 2021: 5 of 12
  require(first < model.layers(), "adapt: the first layer is ", first, ", the model has ", model.layers());
  return first;
}

std::vector<std::string> targets(const AdaptSettings& s) { return s.method == "probe" ? std::vector<std::string>{"output"} : s.targets; }

// All that decides the result, for comparing a checkpoint's with it.
RunIdentity identity(const AdaptSettings& s, const std::string& base, const Examples& data, const Examples* validation) {
  auto options = s.train.describe();
  options["method"] = s.method;
  options["data"] = hex(data.fingerprint());
  options["validation"] = validation ? hex(validation->fingerprint()) : "none";
  options["length"] = std::to_string(s.length);
  options["targets"] = joined(s.targets);
  options["first-layer"] = std::to_string(s.first_layer);
  if (s.method == "kvt") {
    options["core"] = s.core;
    options["k"] = std::to_string(s.k);
    options["rounds"] = std::to_string(s.rounds);
    options["eta"] = real(s.eta);
    options["portion"] = std::to_string(s.portion);
    options["refine"] = std::to_string(s.refine) + " rank " + std::to_string(s.rank);
    options["learn-validation"] = s.learn_validation ? "yes" : "no";
    options["mean-rank"] = std::to_string(s.mean_rank);
  } else if (s.method != "ia3") {
    options["rank"] = std::to_string(s.rank);
    options["alpha"] = real(s.alpha);
  }
  return {base, options};
}

RoundsOptions rounds_options(const AdaptSettings& s) {
  const bool kvt = s.method == "kvt";
  RoundsOptions o;
  o.core = kvt ? core_form(s.core) : CoreForm::dense;
  o.basis = kvt ? Basis::gradient : Basis::weight;
  o.k = kvt ? s.k : s.rank;
  o.rounds = kvt ? s.rounds : 1;
  if (!kvt) o.scale = s.alpha / float(s.rank);
  o.eta = s.eta;
  if (kvt) {
    o.portion = s.portion;
    o.refine = s.refine;
    o.refine_rank = s.rank;
    o.learn_validation = s.learn_validation;
    o.mean_rank = s.mean_rank;
  }
  o.extract.batch = 1;                       // the mean does not depend on it, memory does
  o.extract.precision = s.train.precision;
  o.extract.recompute = s.train.recompute;
  o.extract.seed = s.train.seed;
  o.train = s.train;
  return o;
}

std::optional<Gguf> adapt_in_rounds(CausalLm& model, const RunIdentity& self, const Examples& data, const Examples& validation, const AdaptSettings& s, bool resume,
                                    const AdaptCallbacks& callbacks) {
  const RoundsOptions options = rounds_options(s);
  const std::vector<TargetLayer> layers = target_layers(model, s.targets, first_layer(s, model), -1);
  RoundsState state;
  if (resume) {
    const Gguf file = Gguf::open(s.checkpoint, Gguf::Access::read);
    require_identity(file, self);
    state = read_rounds(model, file, layers, self.base);
  }
  RoundsCallbacks on;
  on.extracting = callbacks.extracting;
  on.trial = callbacks.trial;
  on.training.step = callbacks.step;
  on.training.validation = callbacks.validation;
  on.round = callbacks.round;
  on.cancelled = callbacks.cancelled;
  on.save = [&](const RoundsState& done) {
    if (s.checkpoint.empty() || done.set.layers.empty()) return;
    Gguf file = rounds_file(done, options.core, model.architecture(), self.base, DType::F32);
    set_identity(file, self);
    file.write(s.checkpoint);
  };
  if (!run_rounds(CausalTask(model, data), CausalTask(model, validation), layers, options, state, on)) return {};
  require(state.rounds() > 0, "adapt: ", s.method, ": no step lowers the validation loss of ", state.losses[0], " nats per token");
  if (options.cut_at_end()) state.cut(options.mean_rank);
  return rounds_file(state, options.core, model.architecture(), self.base, DType::F32);
}

struct Trainee {
  TrainedSet trained;
  std::function<Gguf()> file;
};

Trainee attach(CausalLm& model, const std::string& base, const AdaptSettings& s) {
  const int64_t first = first_layer(s, model);
  if (s.method == "ia3") {
    const Ia3Set set = attach_ia3(model, first, -1);
    return {trained_factors(set), [set, &model, base] { return ia3_file(set, model.architecture(), base); }};
  }
  LoraOptions lora;
  lora.rank = s.rank;
  lora.alpha = s.alpha;
  lora.targets = targets(s);
  lora.seed = s.train.seed;
  lora.first_layer = first;
  const LoraSet set = attach_lora(model, lora);
  return {trained_factors(set), [set, &model, base] { return adapter_file(set, model.architecture(), base, DType::F32); }};
}

std::optional<Gguf> adapt_at_once(CausalLm& model, const RunIdentity& self, const Examples& data, const Examples* validation, const AdaptSettings& s, bool resume,
                                  const AdaptCallbacks& callbacks) {
  const Trainee trainee = attach(model, self.base, s);
  TrainState state;
  if (resume) read_checkpoint(s.checkpoint, state, trainee.trained, self);
  TrainCallbacks on;
  on.step = callbacks.step;
  on.validation = callbacks.validation;
  on.cancelled = callbacks.cancelled;
  if (!s.checkpoint.empty()) on.save = [&](const TrainState& done) { write_checkpoint(s.checkpoint, done, trainee.trained, self); };
  if (train(model, trainee.trained, s.train, data, validation, state, on) == TrainEnd::cancelled) return {};
  return trainee.file();
}

}  // namespace

int64_t AdaptSettings::bytes(CausalLm& model, bool validation) const {
  int64_t trained = 0, adapted = 0, sketches = 0;
  for (const TargetLayer& layer : target_layers(model, kvt::targets(*this), kvt::first_layer(*this, model), -1)) {
    const Shape& w = layer.linear->weight.shape;
    const int64_t sum = w[0] + w[1];
    adapted += w[0];
    if (method == "ia3") trained += w[0];
    else if (method == "lora-xs") trained += rank * rank;
    else if (method != "kvt" || refine > 0) trained += rank * sum;
    if (method == "kvt") sketches += int64_t(sizeof(float)) * sum * ((2 * k + 16) * 3 + k * rounds * 2);      // both sketches and their factors; adapters, old and new
  }
  TrainOptions o = train;
  if (method == "kvt" && core == "extracted" && refine == 0) o.batch = std::max<int64_t>(1, o.batch / 4);      // one example with its backward pass, or a batch without
  return training_bytes(model.config(), trained, adapted, o, length, validation) + sketches;
}

std::optional<Gguf> adapt(CausalLm& model, const std::string& base, const Examples& data, const Examples* validation, const AdaptSettings& settings,
                          const AdaptCallbacks& callbacks) {
  AdaptSettings s = settings;
  const std::vector<std::string> methods = {"kvt", "lora", "adapterdrop", "lora-xs", "ia3", "probe"};
  require_as(Trouble::unsupported, std::find(methods.begin(), methods.end(), s.method) != methods.end(), "adapt: no method '", s.method, "'; there are ", joined(methods));
  require(!s.in_rounds() || validation, "adapt: ", s.method, " needs validation data");
  require(!s.resume || !s.checkpoint.empty(), "adapt: nothing to resume from without a checkpoint");
  s.train.lr = rate(s);
  std::error_code none;
  const bool resume = s.resume && std::filesystem::exists(s.checkpoint, none);
  const RunIdentity self = identity(s, base, data, validation);
  std::optional<Gguf> file = s.in_rounds() ? adapt_in_rounds(model, self, data, *validation, s, resume, callbacks)
                                           : adapt_at_once(model, self, data, validation, s, resume, callbacks);
  if (file && !s.checkpoint.empty()) std::filesystem::remove(s.checkpoint, none);            // of no further use
  return file;
}

}  // namespace kvt
