// Training and judging a classifier of images.
#pragma once
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

struct Accuracy {
  explicit Accuracy(int64_t classes) : by_class(classes) {}
  int64_t images = 0, top1 = 0, top5 = 0;       // how many have their class first, or among the five best
  double nll = 0;                               // Σ −log p of the right class
  ClassCounts by_class;                         // the best class counts as the decision
};
// `more` is asked after each batch.
Accuracy accuracy(const Vit& model, const Images& images, const Normalisation& normalisation, int64_t batch, const std::function<bool(const Accuracy&)>& more);

}  // namespace kvt
