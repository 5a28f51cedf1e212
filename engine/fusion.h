// Fusion as a setting: λ or γ in an adapter's file, and found on validation data.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include "engine/data.h"
#include "engine/gguf.h"
#include "models/fusion.h"

namespace kvt {

constexpr const char *fusion_lambda_key = "kvt.fusion.lambda", *fusion_gamma_key = "kvt.fusion.gamma";
// Throws an Error naming the file when it has both keys, or a value that is no fusion.
std::optional<Fusion> read_fusion(const Gguf& file);
void write_fusion(Gguf& file, const Fusion& fusion);

// The candidates: λ = 0 is the base, γ = 0 the adapted model alone.
std::vector<Fusion> fusion_grid();      // λ 0, 0.25, 0.5, 0.7, 1, 2, 4 and γ 0, 0.25, 0.5, 1: in order of their weight w

struct FusionLoss { Fusion fusion; double loss; };       // mean loss per label of the fused scores, nats
// The loss of every candidate on `data`, in one pass that computes base and adapted scores once; the best is the least, the first of
// equals. `model` has its adapters attached. Empty when cancelled() says so on the way.
std::vector<FusionLoss> fusion_losses(std::shared_ptr<CausalLm> model, const Examples& data, int64_t batch, const std::vector<Fusion>& candidates,
                                      const std::function<bool()>& cancelled = {});
FusionLoss best_fusion(const std::vector<FusionLoss>& losses);

}  // namespace kvt
