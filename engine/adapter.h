// LoRA adapters as files: GGUF, as llama.cpp reads and writes them.
//
//   general.type "adapter"    general.architecture = the base's    adapter.type "lora"    adapter.lora.alpha f32
//   <base tensor>.lora_a  A [r, in]       <base tensor>.lora_b  B [out, r]         e.g. blk.0.attn_q.weight.lora_a
//   kvt.base.fingerprint      ours (llama.cpp ignores it): the weights that the adapter was trained on
//   kvt.fusion.lambda f32     or kvt.fusion.gamma: how its scores are fused with the base's (models/fusion.h); neither = not at all
//
//   y' = y + s B (A x),   s = user scale · α/r, or the user scale alone where α = 0
//
// An output matrix that is tied to the embedding is adapted under the name `output.weight`, too. llama.cpp, to which it is
// `token_embd.weight` then, refuses such a file.
//
// Rank-stabilised LoRA (s = α/√r) has no key of its own: such adapters store α √r.
#pragma once
#include <optional>

#include "engine/gguf.h"
#include "engine/train.h"
#include "models/adapt.h"
#include "models/fusion.h"

namespace kvt {

struct LoraSet {
  struct Layer { std::string name; std::shared_ptr<Lora> lora; };      // "blk.0.attn_q"
  float alpha = 0;
  std::vector<Layer> layers;
  std::optional<Fusion> fusion;
};

struct LoraOptions {
  int64_t rank = 8;
  float alpha = 16;
  std::vector<std::string> targets = {"all"};        // as for target_layers
  int64_t first_layer = 0, last_layer = -1;
  uint64_t seed = 0;
};

// The linear layers called by `targets`: "attn_q", "ffn_down", …, "output"; all = every one in the blocks; in blocks first to last,
// both included, −1 = to the last. Throws for a target no layer bears, listing those there are.
struct TargetLayer { std::string name; Linear* linear; };
std::vector<TargetLayer> target_layers(Model& model, const std::vector<std::string>& targets, int64_t first_layer = 0, int64_t last_layer = -1);

// The beginning of every adapter's file, and what every loader asks of it: throws an Error naming the file unless it is an adapter of that
// kind ("lora", "ia3", …) for the architecture of `model` and the fingerprint `base` (any, if `any_base`).
Gguf new_adapter(const std::string& kind, const std::string& architecture, const std::string& base);
void require_adapter(const Gguf& file, const std::string& kind, const Model& model, const std::string& base, bool any_base);
constexpr const char* head_prefix = "kvt.head.";       // tensors of a class head (engine/text_classes.h), which any kind of adapter may hold

// Gives the targeted layers of `model` a fresh adapter each.
LoraSet attach_lora(Model& model, const LoraOptions& options);
// One adapter that does what both do on the same layers (the first may have none): ranks add up, scales are in B, α = 0.
LoraSet joined(const LoraSet& first, const LoraSet& second);
TrainedSet trained_factors(const LoraSet& set);       // names as in the file

// Attaches the adapters of `file` at `scale`; adapters stack. Factors in F32 share the file's bytes: who changes them makes copies. Throws an Error naming the tensor: a half without its other half, a
// layer the base does not have, a shape that does not fit (names in …_norm.weight are passed over); and for another architecture
// or a fingerprint other than `base`, unless `any_base`. No layer has changed then.
LoraSet load_adapter(Model& model, const Gguf& file, float scale, const std::string& base, bool any_base = false);

// How a factor is stored where `type` is asked for: F32, F16, BF16, or Q8_0, which becomes F16 where rows do not fill its blocks, as those of B
// seldom do. Throws for other types.
DType factor_type(const Tensor& factor, DType type);
// The file's contents. Write it with Gguf::write.
Gguf adapter_file(const LoraSet& set, const std::string& architecture, const std::string& base, DType type);

// The base with every LoRA and IA3 adapter of `model` merged into its weights (models/adapt.h), each in its base's type, or all
// matrices in `type`. Metadata is copied. Throws for a type that the engine only reads.
Gguf merged_model(const Gguf& base, Model& model, std::optional<DType> type);

// A model file with the metadata and the tensor order of `base` and the parameters of `model`: matrices in `type`, vectors in F32.
Gguf model_file(const Gguf& base, Model& model, DType type);

}  // namespace kvt
