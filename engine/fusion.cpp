#include "engine/fusion.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kvt {

std::optional<Fusion> read_fusion(const Gguf& file) {
  require(!file.has(fusion_lambda_key) || !file.has(fusion_gamma_key), file.path(), ": both ", fusion_lambda_key, " and ", fusion_gamma_key);
  std::optional<Fusion> fusion;
  for (const char* key : {fusion_lambda_key, fusion_gamma_key}) {
    if (!file.has(key)) continue;
    fusion = {key == fusion_lambda_key ? Fusion::Form::residual : Fusion::Form::extrapolating, float(file.real(key))};
    require(std::isfinite(fusion->value) && fusion->value >= 0, file.path(), ": ", key, " is ", fusion->value, ", expected 0 or more");
  }
  return fusion;
}

void write_fusion(Gguf& file, const Fusion& fusion) {
  file.set(fusion.form == Fusion::Form::residual ? fusion_lambda_key : fusion_gamma_key, fusion.value);
}

std::vector<Fusion> fusion_grid() {
  std::vector<Fusion> grid;
  for (float lambda : {0.f, 0.25f, 0.5f, 0.7f, 1.f, 2.f, 4.f}) grid.push_back({Fusion::Form::residual, lambda});
  for (float gamma : {0.f, 0.25f, 0.5f, 1.f}) grid.push_back({Fusion::Form::extrapolating, gamma});
  return grid;
}

std::vector<FusionLoss> fusion_losses(std::shared_ptr<CausalLm> model, const Examples& data, int64_t batch, const std::vector<Fusion>& candidates,
                                      const std::function<bool()>& cancelled) {
  constexpr int64_t rows_at_once = 64;                     // of scores: 2 V floats each
  require(data.learned() > 0, "fusion: the validation data has no label");
  const Fused fused(std::move(model), {});
  const Tape::Pause inference;
  std::vector<double> total(candidates.size(), 0.0);
  for (int64_t begin = 0; begin < data.size(); begin += batch) {
    if (cancelled && cancelled()) return {};
    std::vector<int64_t> indices(size_t(std::min(batch, data.size() - begin)));
    std::iota(indices.begin(), indices.end(), begin);
    const Batch b = data.batch(indices);
    const Tensor states = fused.twin_states(b.tokens, b.B, b.T), rows = states.view({2, b.B * b.T, states.dim(-1)});
    for (int64_t r = 0; r < b.B * b.T; r += rows_at_once) {
      const int64_t n = std::min(rows_at_once, b.B * b.T - r);
      const auto labels = std::span(b.labels).subspan(size_t(r), size_t(n));
      const int64_t learned = n - std::count(labels.begin(), labels.end(), ignored_label);
      if (learned == 0) continue;
      const Tensor z = fused.twin_logits(slice(rows, 1, r, r + n)), base = base_rows(z), change = adapted_rows(z) - base;
      for (size_t c = 0; c < candidates.size(); ++c)
        total[c] += double(learned) * double(cross_entropy((base + scale(change, candidates[c].weight())).view({n, z.dim(-1)}), labels).item());
    }
  }
  std::vector<FusionLoss> losses;
  for (size_t c = 0; c < candidates.size(); ++c) losses.push_back({candidates[c], total[c] / double(data.learned())});
  return losses;
}

FusionLoss best_fusion(const std::vector<FusionLoss>& losses) {
  require(!losses.empty(), "fusion: no candidate");
  return *std::min_element(losses.begin(), losses.end(), [](const FusionLoss& a, const FusionLoss& b) { return a.loss < b.loss; });
}

}  // namespace kvt
