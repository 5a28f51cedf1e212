#include "engine/adapted.h"

#include <algorithm>

#include "engine/adapter.h"
#include "engine/bank.h"
#include "engine/ia3.h"
#include "engine/kvt_adapter.h"

namespace kvt {

namespace {

// What one adapter's file left on a model.
struct Attached {
  std::vector<std::shared_ptr<Adapter>> adapters;
  std::optional<Fusion> fusion;
};

// A class head has nothing on the layers.
Attached attach(Model& model, const AdapterUse& use, const std::string& base, bool any_base) {
  const Gguf& file = *use.file;
  const std::string kind = file.string("adapter.type", "");
  Attached a;
  if (kind == "ia3") {
    const Ia3Set set = load_ia3(model, file, use.scale, base, any_base);
    for (const auto& layer : set.layers) a.adapters.push_back(layer.factors);
    a.fusion = set.fusion;
  } else if (kind == "kvt") {
    const KvtSet set = load_kvt(model, file, use.scale, base, any_base);
    for (const auto& layer : set.layers) a.adapters.push_back(layer.attached);
    a.fusion = set.fusion;
  } else if (kind == "head") {
    require_adapter(file, "head", model, base, any_base);
  } else {
    const LoraSet set = load_adapter(model, file, use.scale, base, any_base);
    std::vector<LowRankAdapter*> loras;
    for (const auto& layer : set.layers) {
      loras.push_back(layer.lora.get());
      a.adapters.push_back(layer.lora);
    }
    freeze(loras);
    a.fusion = set.fusion;
  }
  return a;
}

// A bank at the level and with the domain that the options name
LoadedBank open_bank(CausalLm& model, const AdapterUse& use, const std::string& base, const AdaptedOptions& o) {
  const LoadedBank loaded = load_bank(model, *use.file, use.scale, base, o.any_base);
  const std::vector<std::string>& names = loaded.bank->names;
  loaded.bank->level = o.by_word ? Bank::Level::word : Bank::Level::sentence;
  if (!o.domain.empty()) {
    loaded.bank->fixed = std::find(names.begin(), names.end(), o.domain) - names.begin();
    std::string known;
    for (const std::string& name : names) known.append(" ").append(name);
    require(loaded.bank->fixed < int64_t(names.size()), use.file->path(), ": there is no domain '", o.domain, "'; there are:", known);
  }
  return loaded;
}

}  // namespace

AdaptedLm with_adapters(std::shared_ptr<CausalLm> model, const std::vector<AdapterUse>& adapters, const std::string& base, const AdaptedOptions& o) {
  std::optional<Fusion> fusion;
  std::vector<std::shared_ptr<Adapter>> last;
  std::shared_ptr<const Kvt> kvt;
  std::shared_ptr<const Bank> bank;
  for (const AdapterUse& use : adapters) {
    for (const auto& each : last) each->of_base = true;
    last.clear();
    const std::string kind = use.file->string("adapter.type", ""), &path = use.file->path();
    if (kind == "kvt") {
      const KvtSet set = load_kvt(*model, *use.file, use.scale, base, o.any_base);
      require(!kvt || !set.kvt->config().per_token(), path, ": the second adapter whose cores depend on the input; one at a time");
      if (set.kvt->config().per_token()) kvt = set.kvt;
      for (const auto& layer : set.layers) last.push_back(layer.attached);
      fusion = set.fusion;
    } else if (kind == "kvt-bank") {
      require(!bank, path, ": the second bank; one at a time");
      const LoadedBank loaded = open_bank(*model, use, base, o);
      bank = loaded.bank;
      last.assign(loaded.adapters.begin(), loaded.adapters.end());
      fusion.reset();
    } else {
      Attached a = attach(*model, use, base, o.any_base);
      last = std::move(a.adapters);
      fusion = a.fusion;
    }
  }
  if (o.as_base)
    for (const auto& each : last) each->of_base = true;
  require(o.domain.empty() || bank, "domain '", o.domain, "': none of the adapters is a bank");
  require(!kvt || !bank, "an adapter whose cores depend on the input and a bank: one of them at a time");
  if (bank) model = std::make_shared<BankLm>(std::move(model), bank);
  if (kvt) model = std::make_shared<KvtLm>(std::move(model), kvt);
  return {std::move(model), fusion};
}

std::optional<Fusion> attach_adapters(Model& model, const std::vector<AdapterUse>& adapters, const std::string& base, const AdaptedOptions& o) {
  Attached last;
  for (const AdapterUse& use : adapters) {
    for (const auto& each : last.adapters) each->of_base = true;
    last = attach(model, use, base, o.any_base);
  }
  if (o.as_base)
    for (const auto& each : last.adapters) each->of_base = true;
  return last.fusion;
}

}  // namespace kvt
