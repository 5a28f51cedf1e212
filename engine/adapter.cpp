#include "engine/adapter.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/fusion.h"
#include "ops/quant.h"

namespace kvt {

static constexpr const char *suffix_a = ".weight.lora_a", *suffix_b = ".weight.lora_b", *fingerprint_key = "kvt.base.fingerprint";

std::vector<TargetLayer> target_layers(Model& model, const std::vector<std::string>& targets, int64_t first_layer, int64_t last_layer) {
  const int64_t layers = model.layers(), last = last_layer < 0 ? layers - 1 : last_layer;
  require(first_layer >= 0 && first_layer <= last && last < layers, "lora: blocks ", first_layer, " to ", last, " of ", layers);
  std::set<std::string> known, unused(targets.begin(), targets.end());
  const bool all = unused.erase("all") > 0;
  std::vector<TargetLayer> found;
  model.each_linear([&](const std::string& layer, Linear& linear) {
    const auto [block, name] = block_and_name(layer);
    known.insert(name);
    const bool named = std::find(targets.begin(), targets.end(), name) != targets.end();
    unused.erase(name);
    if (block >= 0 ? !(all || named) || block < first_layer || block > last : !named) return;
    found.push_back({layer, &linear});
  });
  if (!unused.empty() || found.empty()) {
    std::string names;
    for (const std::string& name : known) names += " " + name;
    fail("lora: no layer is called '", unused.empty() ? "" : *unused.begin(), "'; there are: all", names);
  }
  return found;
}

LoraSet attach_lora(Model& model, const LoraOptions& options) {
  const std::vector<TargetLayer> targets = target_layers(model, options.targets, options.first_layer, options.last_layer);
  Rng rng(options.seed);
  LoraSet set;
  set.alpha = options.alpha;
  for (const auto& [name, linear] : targets)
    set.layers.push_back({name, Lora::init(linear->weight.shape[1], linear->weight.shape[0], options.rank, options.alpha, rng)});
  for (size_t i = 0; i < targets.size(); ++i) targets[i].linear->adapters.push_back(set.layers[i].lora);
  return set;
}

LoraSet joined(const LoraSet& first, const LoraSet& second) {
  require(first.layers.empty() || first.layers.size() == second.layers.size(), "adapter: ", first.layers.size(), " and ", second.layers.size(), " layers to join");
  const Tape::Pause pause;
  LoraSet both;
  for (size_t i = 0; i < second.layers.size(); ++i) {
    const auto& [name, lora] = second.layers[i];
    std::vector<Tensor> a{lora->a}, b{scale(lora->b, lora->scale)};
    if (!first.layers.empty()) {
      const Lora& earlier = *first.layers[i].lora;
      require(first.layers[i].name == name, "adapter: layers '", first.layers[i].name, "' and '", name, "' to join");
      a.insert(a.begin(), earlier.a);
      b.insert(b.begin(), scale(earlier.b, earlier.scale));
    }
    both.layers.push_back({name, std::make_shared<Lora>(concat(a, 0), concat(b, 1), 1.f)});
  }
  return both;
}

TrainedSet trained_factors(const LoraSet& set) {
  TrainedSet trained;
  for (const auto& [name, lora] : set.layers) {
    trained.push_back({name + suffix_a, lora->a});
    trained.push_back({name + suffix_b, lora->b});
  }
  return trained;
}

Gguf new_adapter(const std::string& kind, const std::string& architecture, const std::string& base) {
  Gguf file;
  file.set("general.type", std::string("adapter"));
  file.set("general.architecture", architecture);
  file.set("adapter.type", kind);
  file.set(fingerprint_key, base);
  return file;
}

void require_adapter(const Gguf& file, const std::string& kind, const Model& model, const std::string& base, bool any_base) {
  const std::string &path = file.path(), type = file.string("general.type", ""), found = file.string("adapter.type", "");
  require(type == "adapter" && found == kind, path, ": no adapter of type '", kind, "' (general.type '", type, "', adapter.type '", found, "')");
  const std::string &architecture = file.string("general.architecture"), &expected = model.architecture();
  require_as(Trouble::mismatch, architecture == expected, path, ": an adapter for architecture '", architecture, "', the base is '", expected, "'");
  const std::string trained_on = file.string(fingerprint_key, base);
  require_as(Trouble::mismatch, trained_on == base || any_base, path, ": trained on another base model (fingerprint ", trained_on, ", this base has ", base, ")");
}

LoraSet load_adapter(Model& model, const Gguf& file, float scale, const std::string& base, bool any_base) {
  require_adapter(file, "lora", model, base, any_base);
  const std::string& path = file.path();
  const auto alpha = float(file.real("adapter.lora.alpha"));
  require(std::isfinite(alpha) && std::isfinite(scale), path, ": alpha ", alpha, ", scale ", scale);

  std::map<std::string, Linear*> linears;
  model.each_linear([&](const std::string& name, Linear& linear) { linears[name] = &linear; });
  std::map<std::string, std::pair<Tensor, Tensor>> pairs;
  for (const Gguf::Entry& e : file.tensors()) {
    if (e.name.ends_with("_norm.weight") || e.name.starts_with(head_prefix)) continue;
    const bool is_a = e.name.ends_with(suffix_a);
    require(is_a || e.name.ends_with(suffix_b), path, ": tensor '", e.name, "' is no factor of a LoRA pair (…", suffix_a, ", …", suffix_b, ")");
    const std::string layer = e.name.substr(0, e.name.size() - std::string_view(suffix_a).size());
    require(layer != "token_embd", path, ": tensor '", e.name, "': adapters of the token embedding are not supported");
    require(linears.contains(layer), path, ": tensor '", e.name, "': the base has no linear layer '", layer, "'");
    const DType dtype = e.tensor.dtype();
    require(is_float(dtype) || dtype == DType::Q8_0, path, ": tensor '", e.name, "' is ", dtype, ", expected F32, F16, BF16 or Q8_0");
    (is_a ? pairs[layer].first : pairs[layer].second) = e.tensor;
  }
  require(!pairs.empty(), path, ": the adapter has no tensors");

  LoraSet set;
  set.alpha = alpha;
  for (const auto& [layer, factors] : pairs) {
    const auto& [a, b] = factors;
    require(bool(a), path, ": '", layer, suffix_a, "' is missing");
    require(bool(b), path, ": '", layer, suffix_b, "' is missing");
    const Shape& w = linears.at(layer)->weight.shape;
    require(a.rank() == 2 && b.rank() == 2 && a.dim(1) == w[1] && b.dim(0) == w[0] && a.dim(0) == b.dim(1), path, ": '", layer, "': factors A ",
            a.shape(), " and B ", b.shape(), " do not fit weights ", w);
    const float s = alpha != 0 ? scale * alpha / float(a.dim(0)) : scale;
    const auto numbers = [](const Tensor& x) { return x.dtype() == DType::F32 ? Tensor(x.shape(), x.dtype(), x.storage()) : unpack(x); };
    set.layers.push_back({layer, std::make_shared<Lora>(numbers(a), numbers(b), s)});
  }
  set.fusion = read_fusion(file);
  for (const auto& [layer, lora] : set.layers) linears.at(layer)->adapters.push_back(lora);
  return set;
}

DType factor_type(const Tensor& factor, DType type) {
  require(is_float(type) || type == DType::Q8_0, "adapter: factors are stored as F32, F16, BF16 or Q8_0, not ", type);
  return type == DType::Q8_0 && factor.dim(-1) % info(type).block != 0 ? DType::F16 : type;
}

Gguf adapter_file(const LoraSet& set, const std::string& architecture, const std::string& base, DType type) {
  Gguf file = new_adapter("lora", architecture, base);
  file.set("adapter.lora.alpha", set.alpha);
  if (set.fusion) write_fusion(file, *set.fusion);
  for (const auto& [name, factor, decay] : trained_factors(set)) {
    const DType stored = factor_type(factor, type);
    file.add(name, stored == DType::F32 ? factor : pack(factor, stored));
  }
  return file;
}

// general.file_type of llama.cpp for a file whose matrices are all of one type
static void set_file_type(Gguf& file, DType type) {
  const std::map<DType, uint32_t> numbers = {{DType::F32, 0}, {DType::F16, 1}, {DType::Q4_0, 2}, {DType::Q4_1, 3},
                                             {DType::Q8_0, 7}, {DType::Q5_0, 8}, {DType::Q5_1, 9}, {DType::BF16, 32}};
  if (const auto found = numbers.find(type); found != numbers.end()) file.set("general.file_type", found->second);
  if (is_quantized(type)) file.set("general.quantization_version", uint32_t(2));
}

static Gguf with_metadata_of(const Gguf& base) {
  Gguf file;
  for (const auto& [name, value] : base.keys()) file.set(name, value);
  return file;
}

static Tensor converted(const std::string& name, const Tensor& x, DType type) {
  if (x.dtype() == type) return x;
  if (type == DType::F32) return unpack(x);
  require(weight_format(type).pack != nullptr, "merge: '", name, "' is ", type, ", which this engine reads but does not write; choose another type");
  require(x.dim(-1) % info(type).block == 0, "merge: '", name, "' has rows of ", x.dim(-1), " numbers, which do not fill ", type, " blocks of ", info(type).block);
  return pack(x.dtype() == DType::F32 ? x : unpack(x), type);
}

Gguf merged_model(const Gguf& base, Model& model, std::optional<DType> type) {
  std::map<std::string, Linear*> linears;
  model.each_linear([&](const std::string& name, Linear& linear) {
    if (!linear.adapters.empty()) linears[name] = &linear;
  });
  Gguf file = with_metadata_of(base);
  if (type) set_file_type(file, *type);
  const auto add = [&](const std::string& name, const Tensor& x, DType own) { file.add(name, converted(name, x, x.rank() < 2 ? own : type.value_or(own))); };
  for (const Gguf::Entry& e : base.tensors()) {
    const bool bias = e.name.ends_with(".bias");
    const std::string layer = e.name.substr(0, std::min(e.name.rfind('.'), e.name.size()));
    const auto found = linears.find(layer);
    if (found == linears.end()) {
      add(e.name, e.tensor, e.tensor.dtype());
      continue;
    }
    const Linear& linear = *found->second;
    const Affine m = merged(layer, linear.weight, linear.bias, linear.adapters);
    add(e.name, bias ? m.b : m.w, e.tensor.dtype());
  }
  if (linears.contains("output") && !base.find_tensor("output.weight")) {      // tied so far: now it is a matrix of its own
    const Tensor embedding = base.tensor("token_embd.weight");
    add("output.weight", merged("output", embedding, {}, linears.at("output")->adapters).w, embedding.dtype());
  }
  return file;
}

Gguf model_file(const Gguf& base, Model& model, DType type) {
  std::map<std::string, Tensor> parameters;
  model.each_parameter([&](const std::string& name, Parameter& p) { if (p.tensor) parameters[name] = p.tensor; });
  Gguf file = with_metadata_of(base);
  set_file_type(file, type);
  for (const Gguf::Entry& e : base.tensors()) {
    const auto found = parameters.find(e.name);
    if (found == parameters.end()) file.add(e.name, e.tensor);
    else file.add(e.name, converted(e.name, found->second, found->second.rank() < 2 ? DType::F32 : type));
  }
  return file;
}

}  // namespace kvt
