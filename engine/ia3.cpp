#include "engine/ia3.h"

#include <cmath>

#include "engine/fusion.h"
#include "models/causal_lm.h"
#include "ops/quant.h"

namespace kvt {

static constexpr const char *suffix_out = ".weight.ia3_out", *suffix_in = ".weight.ia3_in";

Ia3Set attach_ia3(Model& model, int64_t first_layer, int64_t last_layer) {
  Ia3Set set;
  std::vector<Linear*> linears;
  for (const auto& [name, linear] : target_layers(model, {"all"}, first_layer, last_layer)) {
    const bool in = name.ends_with("ffn_down"), keys_and_values = name.ends_with("attn_qkv");
    if (!in && !keys_and_values && !name.ends_with("attn_k") && !name.ends_with("attn_v")) continue;
    int64_t n = linear->weight.shape[in ? 1 : 0];
    if (keys_and_values) {
      const auto* lm = dynamic_cast<const CausalLm*>(&model);
      require(lm != nullptr, "ia3: '", name, "' of architecture '", model.architecture(), "': where its keys begin is not known");
      n -= lm->config().heads * lm->config().head_size;
    }
    const auto factors = std::make_shared<Rescale>(in ? Rescale::Side::input : Rescale::Side::output, Tensor::filled({n}, 1));
    factors->l.want_grad();
    set.layers.push_back({name, factors});
    linears.push_back(linear);
  }
  require(!linears.empty(), "ia3: architecture '", model.architecture(), "' has no layer called attn_k, attn_v, attn_qkv or ffn_down");
  for (size_t i = 0; i < linears.size(); ++i) linears[i]->adapters.push_back(set.layers[i].factors);
  return set;
}

// No decay: it would pull the factors to zero, and the base is at one.
TrainedSet trained_factors(const Ia3Set& set) {
  TrainedSet trained;
  for (const auto& [name, factors] : set.layers) trained.push_back({name + (factors->side == Rescale::Side::input ? suffix_in : suffix_out), factors->l, false});
  return trained;
}

Gguf ia3_file(const Ia3Set& set, const std::string& architecture, const std::string& base) {
  Gguf file = new_adapter("ia3", architecture, base);
  if (set.fusion) write_fusion(file, *set.fusion);
  for (const Trained& t : trained_factors(set)) file.add(t.name, t.tensor);
  return file;
}

Ia3Set load_ia3(Model& model, const Gguf& file, float scale, const std::string& base, bool any_base) {
  require_adapter(file, "ia3", model, base, any_base);
  const std::string& path = file.path();
  require(std::isfinite(scale), path, ": scale ", scale);
  std::map<std::string, Linear*> linears;
  model.each_linear([&](const std::string& name, Linear& linear) { linears[name] = &linear; });
  Ia3Set set;
  for (const Gguf::Entry& e : file.tensors()) {
    if (e.name.starts_with(head_prefix)) continue;
    const bool in = e.name.ends_with(suffix_in);
    require(in || e.name.ends_with(suffix_out), path, ": tensor '", e.name, "' holds no factors (…", suffix_out, ", …", suffix_in, ")");
    const std::string layer = e.name.substr(0, e.name.size() - std::string_view(in ? suffix_in : suffix_out).size());
    const auto found = linears.find(layer);
    require(found != linears.end(), path, ": tensor '", e.name, "': the base has no linear layer '", layer, "'");
    const Shape& w = found->second->weight.shape;
    require(is_float(e.tensor.dtype()) && e.tensor.rank() == 1 && (in ? e.tensor.dim(0) == w[1] : e.tensor.dim(0) >= 1 && e.tensor.dim(0) <= w[0]), path,
            ": tensor '", e.name, "' is ", e.tensor.dtype(), " ", e.tensor.shape(), ", which does not fit weights ", w);
    const Tensor l = unpack(e.tensor).clone();
    for (float& x : l.values()) x = 1 + scale * (x - 1);
    set.layers.push_back({layer, std::make_shared<Rescale>(in ? Rescale::Side::input : Rescale::Side::output, l)});
  }
  require(!set.layers.empty(), path, ": the adapter has no tensors");
  set.fusion = read_fusion(file);
  for (const auto& [layer, factors] : set.layers) linears.at(layer)->adapters.push_back(factors);
  return set;
}

}  // namespace kvt
