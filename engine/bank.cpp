#include "engine/bank.h"

#include <algorithm>
#include <cctype>

#include "engine/adapter.h"
#include "ops/quant.h"

namespace kvt {

static constexpr const char *fingerprint_key = "kvt.base.fingerprint", *domains_key = "kvt.bank.domains", *alphas_key = "kvt.bank.alphas";

std::vector<Domain> bank_domains(const Gguf& bank) {
  require(bank.string("general.type", "") == "adapter" && bank.string("adapter.type", "") == "kvt-bank", bank.path(), ": not a bank of domains");
  const auto& names = bank.array<std::string>(domains_key);
  const auto& alphas = bank.array<float>(alphas_key);
  require(names.size() == alphas.size() && !names.empty(), bank.path(), ": ", names.size(), " domains with ", alphas.size(), " alphas");
  std::vector<Domain> domains;
  for (size_t i = 0; i < names.size(); ++i) {
    Domain d{names[i], alphas[i], 0, 0};
    for (const Gguf::Entry& e : bank.tensors())
      if (e.name.starts_with(d.name + ":")) {
        d.bytes += e.tensor.bytes();
        d.layers += e.name.ends_with(".lora_a");
      }
    domains.push_back(d);
  }
  return domains;
}

static Gguf new_bank(const Gguf& like, const std::vector<Domain>& domains) {
  Gguf file = new_adapter("kvt-bank", like.string("general.architecture"), like.string(fingerprint_key));
  std::vector<std::string> names;
  std::vector<float> alphas;
  for (const Domain& d : domains) names.push_back(d.name), alphas.push_back(d.alpha);
  file.set(domains_key, names);
  file.set(alphas_key, alphas);
  return file;
}

Gguf bank_with(const Gguf* bank, const std::string& name, const Gguf& adapter, const Tensor& center) {
  const bool spelled = !name.empty() && name.size() <= 16 && std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_'; });
  require(spelled, "bank: '", name, "' is no name of a domain: 1 to 16 letters, digits, - and _");
  require(adapter.string("adapter.type", "") == "lora", adapter.path(), ": a bank takes LoRA adapters, this is '", adapter.string("adapter.type", ""), "'");
  for (const Gguf::Entry& e : adapter.tensors())
    require(!e.name.starts_with("output."), adapter.path(), ": tensor '", e.name, "' adapts the output matrix, which sees no choice of a domain");
  std::vector<Domain> domains;
  if (bank) {
    domains = bank_domains(*bank);
    for (const Domain& d : domains) require(d.name != name, bank->path(), ": there is a domain '", name, "' already");
    for (const char* key : {"general.architecture", fingerprint_key})
      require(bank->string(key) == adapter.string(key), adapter.path(), ": ", key, " is ", adapter.string(key), ", the bank's is ", bank->string(key));
  }
  domains.push_back({name, float(adapter.real("adapter.lora.alpha")), 0, 0});
  Gguf file = new_bank(adapter, domains);
  if (bank)
    for (const Gguf::Entry& e : bank->tensors()) file.add(e.name, e.tensor);
  file.add(name + ":center", center);
  for (const Gguf::Entry& e : adapter.tensors()) file.add(name + ":" + e.name, e.tensor);
  return file;
}

Gguf bank_without(const Gguf& bank, const std::string& name) {
  std::vector<Domain> domains = bank_domains(bank);
  const size_t removed = std::erase_if(domains, [&](const Domain& d) { return d.name == name; });
  require(removed == 1, bank.path(), ": there is no domain '", name, "'");
  require(!domains.empty(), bank.path(), ": '", name, "' is the only domain; a bank keeps at least one");
  Gguf file = new_bank(bank, domains);
  for (const Gguf::Entry& e : bank.tensors())
    if (!e.name.starts_with(name + ":")) file.add(e.name, e.tensor);
  return file;
}

// The tensors of one domain as the adapter that they were
static Gguf adapter_of(const Gguf& bank, const Domain& domain) {
  Gguf file = new_adapter("lora", bank.string("general.architecture"), bank.string(fingerprint_key));
  file.set("adapter.lora.alpha", domain.alpha);
  const std::string prefix = domain.name + ":";
  for (const Gguf::Entry& e : bank.tensors())
    if (e.name.starts_with(prefix) && e.name != prefix + "center") file.add(e.name.substr(prefix.size()), e.tensor);
  return file;
}

LoadedBank load_bank(CausalLm& model, const Gguf& file, float scale, const std::string& base, bool any_base) {
  const std::vector<Domain> domains = bank_domains(file);
  const int64_t C = model.config().channels;
  LoadedBank loaded{std::make_shared<Bank>(), {}};
  loaded.bank->centers = Tensor({int64_t(domains.size()), C});
  for (size_t d = 0; d < domains.size(); ++d) {
    const Tensor center = file.tensor(domains[d].name + ":center");
    require(center.shape() == Shape{C} && center.dtype() == DType::F32, file.path(), ": the center of '", domains[d].name, "' is ", center.dtype(), " ", center.shape(),
            ", expected F32 [", C, "]");
    std::copy_n(center.data(), C, loaded.bank->centers.data() + int64_t(d) * C);
    loaded.bank->names.push_back(domains[d].name);
  }

  std::map<std::string, Linear*> linears;
  model.each_linear([&](const std::string& name, Linear& linear) { linears[name] = &linear; });
  std::map<std::string, std::shared_ptr<BankAdapter>> layers;
  for (size_t d = 0; d < domains.size(); ++d) {
    const LoraSet set = load_adapter(model, adapter_of(file, domains[d]), scale, base, any_base);      // checks all, and attaches behind what is there:
    std::vector<LowRankAdapter*> loras;
    for (const auto& [name, lora] : set.layers) {
      linears.at(name)->adapters.pop_back();                                                           // here it comes off again
      auto& layer = layers[name];
      if (!layer) {
        layer = std::make_shared<BankAdapter>();
        layer->bank = loaded.bank;
        layer->domains.resize(domains.size());
      }
      loras.push_back(lora.get());
      layer->domains[d] = lora;
    }
    freeze(loras);
    require(!layers.contains("output"), file.path(), ": domain '", domains[d].name, "' adapts the output matrix, which sees no choice of a domain");
  }
  for (const auto& [name, layer] : layers) {
    linears.at(name)->adapters.push_back(layer);
    loaded.adapters.push_back(layer);
  }
  return loaded;
}

}  // namespace kvt
