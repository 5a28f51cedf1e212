// Rounds as files, and the names of their forms.
#include "engine/rounds.h"

namespace kvt {

const char* name(CoreForm core) {
  switch (core) {
    case CoreForm::extracted: return "extracted";
    case CoreForm::spectral: return "spectral";
    case CoreForm::dense: return "dense";
    default: return "lora";
  }
}

CoreForm core_form(const std::string& text) {
  for (CoreForm core : {CoreForm::extracted, CoreForm::spectral, CoreForm::dense, CoreForm::lora})
    if (text == name(core)) return core;
  fail("no core form '", text, "'; there are extracted, spectral, dense and lora");
}

Basis basis(const std::string& text) {
  if (text == "gradient-svd") return Basis::gradient;
  if (text == "weight-svd") return Basis::weight;
  require(text == "random", "no initialisation '", text, "'; there are gradient-svd, weight-svd and random");
  return Basis::random;
}

Gguf rounds_file(const RoundsState& state, CoreForm core, const std::string& architecture, const std::string& base, DType type) {
  Gguf file = adapter_file(state.set, architecture, base, type);
  file.set("kvt.core", std::string(name(core)));
  file.set("kvt.k", uint32_t(state.k));
  file.set("kvt.rounds", uint32_t(state.rounds()));
  file.set("kvt.etas", state.etas);
  file.set("kvt.losses", state.losses);
  if (!state.singular.empty()) file.set("kvt.singular_values", state.singular);
  file.set("kvt.extraction_passes", state.extractions);
  file.set("kvt.validation_passes", uint32_t(state.evaluations));
  file.set("kvt.finished", state.finished);
  return file;
}

RoundsState read_rounds(Model& model, const Gguf& file, const std::vector<TargetLayer>& layers, const std::string& base) {
  const std::string& path = file.path();
  RoundsState state;
  state.k = file.integer("kvt.k");
  state.etas = file.array<float>("kvt.etas");
  state.losses = file.array<double>("kvt.losses");
  if (file.has("kvt.singular_values")) state.singular = file.array<float>("kvt.singular_values");
  state.extractions = file.real("kvt.extraction_passes");
  state.evaluations = file.integer("kvt.validation_passes");
  state.finished = file.boolean("kvt.finished", false);
  require(state.k >= 1 && state.rounds() == file.integer("kvt.rounds") && int64_t(state.losses.size()) == state.rounds() + 1, path,
          ": rounds, etas and losses do not fit each other");
  const LoraSet read = load_adapter(model, file, 1, base);
  std::map<std::string, std::shared_ptr<Lora>> by_name;
  for (const auto& layer : read.layers) by_name[layer.name] = layer.lora;
  for (const TargetLayer& layer : layers) {
    const auto found = by_name.find(layer.name);
    require(found != by_name.end(), path, ": no adapter for '", layer.name, "'");
    found->second->a = found->second->a.clone(), found->second->b = found->second->b.clone();      // rounds write where they lie
    state.set.layers.push_back({layer.name, found->second});
  }
  require(by_name.size() == layers.size(), path, ": adapters of ", by_name.size(), " layers, expected ", layers.size());
  return state;
}

}  // namespace kvt
