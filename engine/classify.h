// Training and judging classifiers: of images, and of whatever has become rows of features.
#pragma once
#include <optional>

#include "engine/fusion.h"
#include "engine/images.h"
#include "engine/metrics.h"
#include "engine/train.h"
#include "models/vit.h"

namespace kvt {

struct ImageTaskOptions {
  Augmentation augmentation;
  float dropout = 0;
  float smoothing = 0;          // label smoothing (Szegedy et al. 2016): the target's share of the loss is 1 − ε, that of all classes together ε
};

// loss = (1 − ε) · cross-entropy + ε · mean over the classes of −log p
class ImageTask : public Task {
 public:
  ImageTask(const Vit& model, const Images& images, Normalisation normalisation, ImageTaskOptions options = {});
  int64_t size() const override { return images_.count(); }
  Extent extent(std::span<const int64_t> indices) const override;
  Tensor loss(std::span<const int64_t> indices, const Pass& pass) const override;

 private:
  const Vit& model_;
  const Images& images_;
  Normalisation normalisation_;
  ImageTaskOptions options_;
};

// A linear layer alone, z = W x + b, on rows of features computed before (a linear probe); loss = cross-entropy.
class FeatureTask : public Task {
 public:
  // rows [N, C]; `layer` must outlive the task.
  FeatureTask(const Linear& layer, Tensor rows, std::vector<int32_t> labels);
  int64_t size() const override { return rows_.dim(0); }
  Extent extent(std::span<const int64_t> indices) const override { return {int64_t(indices.size()), int64_t(indices.size())}; }
  Tensor loss(std::span<const int64_t> indices, const Pass& pass) const override;

 private:
  const Linear& layer_;
  Tensor rows_;
  std::vector<int32_t> labels_;
};

struct Accuracy {
  explicit Accuracy(int64_t classes) : by_class(classes) {}
  int64_t examples = 0, top1 = 0, top5 = 0;     // how many have their class first, or among the five best
  double nll = 0;                               // Σ −log p of the right class
  ClassCounts by_class;                         // the best class counts as the decision

  void add(std::span<const float> scores, int64_t label);
};
// As for language models (engine/fusion.h): mean loss of the fused scores of `labels.size()` examples, whose scores come a batch at a time.
std::vector<FusionLoss> fusion_losses(const std::vector<int32_t>& labels, int64_t batch, const std::function<TwinScores(std::span<const int64_t> indices)>& scores,
                                      const std::vector<Fusion>& candidates, const std::function<bool()>& cancelled = {});

// `more` is asked after each batch. With a fusion the scores are those of the model fused with what it is without its adapters.
Accuracy accuracy(const Vit& model, const Images& images, const Normalisation& normalisation, int64_t batch, const std::function<bool(const Accuracy&)>& more,
                  const std::optional<Fusion>& fusion = {});

}  // namespace kvt
