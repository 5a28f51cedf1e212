// IA3 adapters (Liu et al. 2022, models/adapt.h): learned factors on keys, values and the hidden layer of the MLP, on models and as files.
//
//   attn_k, attn_v, cross_attn_k, cross_attn_v     the output, all of it
//   attn_qkv                                       the output behind the queries
//   ffn_down                                       the input: the MLP's hidden layer
//
//   general.type "adapter"    general.architecture = the base's    adapter.type "ia3"    kvt.base.fingerprint, kvt.fusion.* as for LoRA
//   tensors: <layer>.weight.ia3_out l [n], on the last n numbers of the output, or <layer>.weight.ia3_in l [in]
#pragma once
#include "engine/adapter.h"

namespace kvt {

struct Ia3Set {
  struct Layer { std::string name; std::shared_ptr<Rescale> factors; };      // "blk.0.attn_k"
  std::vector<Layer> layers;
  std::optional<Fusion> fusion;
};

// Gives the layers named above, in blocks first to last (−1 = to the last), factors of one.
Ia3Set attach_ia3(Model& model, int64_t first_layer = 0, int64_t last_layer = -1);
TrainedSet trained_factors(const Ia3Set& set);

Gguf ia3_file(const Ia3Set& set, const std::string& architecture, const std::string& base);
// Attaches the adapter of `file` with the factors 1 + scale (l − 1). Throws as load_adapter does.
Ia3Set load_ia3(Model& model, const Gguf& file, float scale, const std::string& base, bool any_base = false);

}  // namespace kvt
