// Adapter files, whatever their kind, on a model: LoRA, IA3 and class heads on any model, as well as cores that depend on the input (models/kvt.h) on all but
// translators; banks of domains (models/bank.h) on language models. Of the last two there can be one at a time.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/gguf.h"
#include "models/fusion.h"

namespace kvt {

struct AdapterUse {
  const Gguf* file;
  float scale = 1;
};

struct AdaptedOptions {
  bool any_base = false;        // adapters trained on another base are taken too
  bool as_base = false;         // with fusion the base has all of them: for what is trained on top. Else all but the last
  bool by_word = false;         // of a bank: tokens choose their domain by themselves, not by the text up to them
  std::string domain;           // of a bank: this one for the whole text
};

struct AdaptedLm {
  std::shared_ptr<CausalLm> model;      // what computes; fuse it with Fused where that is wanted
  std::optional<Fusion> fusion;         // as the last adapter's file says
};
// `base`: the fingerprint of the model. Throws an Error naming the file for what does not fit.
AdaptedLm with_adapters(std::shared_ptr<CausalLm> model, const std::vector<AdapterUse>& adapters, const std::string& base, const AdaptedOptions& options = {});
// The kinds that any model may bear, on it; the fusion of the last.
std::optional<Fusion> attach_adapters(Model& model, const std::vector<AdapterUse>& adapters, const std::string& base, const AdaptedOptions& options = {});

}  // namespace kvt
