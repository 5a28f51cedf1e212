// The knowledge that training data holds for each linear layer: the leading singular directions of its mean gradient,
//
//   G_l = ∂L/∂W_l = Σ_t dy_tᵀ x_t  [out, in],   L = mean loss per label over all examples,   G_l ≈ U S Vᵀ to rank k,
//
// in one pass over the data, over weights of any type. G_l is sketched (ops/sketch.h): none exists whole unless it is smaller than that.
#pragma once
#include <functional>

#include "engine/adapter.h"
#include "ops/sketch.h"

namespace kvt {

struct LayerGradient {
  Svd svd;
  double energy = 0;
};

struct ExtractOptions {
  int64_t k = 8;
  int64_t batch = 1;                 // examples in one forward pass; the result is the same up to rounding
  Precision precision = Precision::f32;      // of the pass (ops/precision.h)
  bool recompute = false;            // of activations in backward: less memory, about a third more time
  uint64_t seed = 0;                 // of Ω and Ψ
};
struct ExtractProgress { int64_t done, examples; double loss; };      // loss: mean per label so far, in nats

// Sketches of all layers' gradients. They are linear: what is added later, text by text, counts by its labels, each times `weight`.
class Extraction {
 public:
  Extraction(const std::vector<TargetLayer>& layers, const ExtractOptions& options);

  // One pass over the examples `indices`; returns their mean loss, NaN if cancelled() said so. Throws an Error when it is not finite.
  double add(const Task& task, std::span<const int64_t> indices, double weight = 1, const std::function<void(const ExtractProgress&)>& progress = {},
             const std::function<bool()>& cancelled = {});
  // G of each layer, of the mean loss over all that was added. Throws an Error naming the layer whose gradient is not finite.
  std::vector<LayerGradient> gradients() const;

 private:
  const std::vector<TargetLayer>& layers_;
  ExtractOptions options_;
  TestMatrices tests_;
  std::vector<GradientSketch> sketches_;
  double labels_ = 0;
};

// G of each layer, in their order; empty if cancelled() said so. `loss`, if not null, becomes the mean loss. Throws an Error naming the
// layer whose gradient is not finite.
std::vector<LayerGradient> extract_gradients(const Task& task, const std::vector<TargetLayer>& layers, const ExtractOptions& options,
                                             const std::function<void(const ExtractProgress&)>& progress = {},
                                             const std::function<bool()>& cancelled = {}, double* loss = nullptr);

// The least k whose singular values hold `share` of the energy, as the mean over layers; no more than they have.
int64_t directions_holding(const std::vector<LayerGradient>& gradients, double share);

}  // namespace kvt
