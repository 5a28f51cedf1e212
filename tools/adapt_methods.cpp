// The methods of `kvt adapt` that are one training run: LoRA (AdapterDrop, the probe of a language model), IA3, all weights, a head alone.
#include <cstdio>
#include <tuple>

#include "engine/adapter.h"
#include "engine/fingerprint.h"
#include "engine/ia3.h"
#include "tools/adapt.h"

namespace kvt {

BlockRange blocks_of(const AdaptOptions& o, const Model& model) {
  if (o.layers.empty()) {
    // AdapterDrop (Rücklé et al. 2021) takes 5 of 12.
    const int64_t dropped = o.drop >= 0 ? o.drop : o.method == "adapterdrop" ? model.layers() * 5 / 12 : 0;
    require(dropped < model.layers(), "--drop: ", dropped, " of ", model.layers(), " blocks leaves none to adapt");
    return {dropped, -1};
  }
  int64_t first = 0, last = 0;
  char rest = 0;
  const int n = std::sscanf(o.layers.c_str(), "%ld-%ld%c", &first, &last, &rest);
  require(n == 1 || n == 2, "--layers: expected FIRST-LAST, got '", o.layers, "'");
  return {first, n == 2 ? last : first};
}

DType out_type(const AdaptOptions& o) { return find_dtype(o.out_type.c_str())->type; }

static std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ",") + part;
  return text;
}

std::map<std::string, std::string> identity(const AdaptOptions& o, const Goal& goal) {
  auto options = o.train.describe();
  options["method"] = o.method;
  options["data"] = hex(goal.fingerprint(Goal::Part::training));
  options["validation"] = goal.has_validation() ? hex(goal.fingerprint(Goal::Part::validation)) : "none";
  options["length"] = std::to_string(o.length);
  options.merge(goal.identity());
  if (o.learn_validation) options["learn-validation"] = "yes";
  if (o.method != "full") {
    options["targets"] = joined(o.targets);
    options["layers"] = o.layers.empty() ? o.drop < 0 ? "all" : "from " + std::to_string(o.drop) : o.layers;
  }
  if (is_lora(o) || o.method == "lora-xs" || o.method == "probe") {
    options["rank"] = std::to_string(o.rank);
    options["alpha"] = std::to_string(o.alpha);
  } else if (o.method == "kvt-generated") {
    options["levels"] = joined(o.levels);
    options["knowledge"] = std::to_string(o.size) + " " + std::to_string(o.vectors) + " " + std::to_string(o.knowledge_layer) + " " + std::to_string(o.texts) +
                           (o.no_extractor ? " trained" : " extracted");
    options["mu"] = std::to_string(o.mu);
    options["fuse"] = o.fuse;
  } else if (o.method == "kvt") {
    options["core"] = o.core;
    options["k"] = o.k;
    options["eta"] = std::to_string(o.eta);
    options["refine"] = std::to_string(o.refine) + " rank " + std::to_string(o.rank) + " of " + std::to_string(o.mean_rank);
    options["portion"] = std::to_string(o.portion);
  }
  if (in_rounds(o)) {
    options["init"] = o.init;
    options["rounds"] = std::to_string(o.rounds);
  }
  std::vector<std::string> adapters;
  for (const std::string& adapter : o.model.adapters) {
    const auto [path, scale] = split_scale(adapter);
    const Storage bytes = Storage::map_file(path);
    Hash64 hash;
    hash.add(bytes.data(), bytes.size());
    adapters.push_back(hex(hash.value()) + ":" + std::to_string(scale));
  }
  options["adapters"] = adapters.empty() ? "none" : joined(adapters);
  return options;
}

static Method with_tasks(const Goal& goal, TrainedSet trained, std::function<Gguf()> result) {
  for (const Trained& t : goal.head()) trained.push_back(t);
  const auto stored = [&goal, result = std::move(result)] {
    Gguf file = result();
    goal.store(file);
    return file;
  };
  return {std::move(trained), stored, nullptr, goal.task(Goal::Part::training), goal.has_validation() ? goal.task(Goal::Part::validation) : nullptr};
}

Method set_up(const AdaptOptions& o, Goal& goal) {
  if (o.method == "kvt-generated") return set_up_generated(o, goal);
  Model& model = goal.model();
  const auto [first, last] = blocks_of(o, model);
  if (o.method == "full") {
    require(o.model.adapters.empty(), "adapt: --method full trains the base's own weights; merge adapters into it first (kvt merge)");
    const DType type = out_type(o);
    return with_tasks(goal, all_weights(model), [&goal, &model, type] { return model_file(goal.gguf, model, type); });
  }
  if (o.method == "ia3") {
    const Ia3Set set = attach_ia3(model, first, last);
    return with_tasks(goal, trained_factors(set), [set, &goal, &model] { return ia3_file(set, model.architecture(), goal.base); });
  }
  if (o.method == "probe" && !goal.head().empty()) {
    Method probe = with_tasks(goal, {}, [&goal, &model] { return new_adapter("head", model.architecture(), goal.base); });
    probe.task = goal.head_task(Goal::Part::training);
    if (goal.has_validation()) probe.validation = goal.head_task(Goal::Part::validation);
    return probe;
  }
  LoraOptions lora;
  lora.rank = o.rank;
  lora.alpha = o.alpha;
  lora.targets = o.method == "probe" ? std::vector<std::string>{"output"} : o.targets;
  lora.seed = o.train.seed;
  lora.first_layer = first;
  lora.last_layer = last;
  const LoraSet set = attach_lora(model, lora);
  const DType type = out_type(o);
  return with_tasks(goal, trained_factors(set), [set, &goal, &model, type] { return adapter_file(set, model.architecture(), goal.base, type); });
}

}  // namespace kvt
