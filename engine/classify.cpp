#include "engine/classify.h"

#include <algorithm>
#include <numeric>

#include "engine/metrics.h"

namespace kvt {

static std::vector<int32_t> labels_of(const Images& images, std::span<const int64_t> indices) {
  std::vector<int32_t> labels;
  for (const int64_t i : indices) labels.push_back(images.labels[size_t(i)]);
  return labels;
}

static void check_fit(const Vit& model, const Images& images) {
  const VitConfig& c = model.config();
  require(images.size == c.image_size && images.channels == c.image_channels, "images of ", images.channels, " × ", images.size, " × ", images.size,
          " for a model of ", c.image_channels, " × ", c.image_size, " × ", c.image_size);
  require(images.class_count() <= c.classes, "images of ", images.class_count(), " classes for a model of ", c.classes);
}

ImageTask::ImageTask(const Vit& model, const Images& images, Normalisation normalisation, ImageTaskOptions options)
    : model_(model), images_(images), normalisation_(std::move(normalisation)), options_(options) {
  check_fit(model, images);
}

Task::Extent ImageTask::extent(std::span<const int64_t> indices) const {
  const VitConfig& c = model_.config();
  return {int64_t(indices.size()), int64_t(indices.size()) * (c.patches() + c.cls_token)};
}

Tensor ImageTask::loss(std::span<const int64_t> indices, const Pass& pass) const {
  const Tensor batch = image_batch(images_, indices, normalisation_, options_.augmentation, pass.random);
  const Tensor logits = model_.logits(batch, {pass.random, options_.dropout});
  const Tensor loss = cross_entropy(logits, labels_of(images_, indices));
  const float e = pass.random ? options_.smoothing : 0;
  return e > 0 ? scale(loss, 1 - e) + scale(mean(log_softmax(logits)), -e) : loss;
}

FeatureTask::FeatureTask(const Linear& layer, Tensor rows, std::vector<int32_t> labels) : layer_(layer), rows_(std::move(rows)), labels_(std::move(labels)) {
  require(rows_.rank() == 2 && rows_.dim(0) == int64_t(labels_.size()) && rows_.dim(1) == layer.weight.shape[1], "features: rows ", rows_.shape(), ", ", labels_.size(),
          " labels, weights ", layer.weight.shape);
}

Tensor FeatureTask::loss(std::span<const int64_t> indices, const Pass&) const {
  const int64_t C = rows_.dim(1);
  const Tensor rows({int64_t(indices.size()), C});
  std::vector<int32_t> labels;
  for (size_t i = 0; i < indices.size(); ++i) {
    std::copy_n(rows_.data() + indices[i] * C, C, rows.data() + int64_t(i) * C);
    labels.push_back(labels_[size_t(indices[i])]);
  }
  return cross_entropy(layer_(rows), labels);
}

std::vector<FusionLoss> fusion_losses(const std::vector<int32_t>& labels, int64_t batch, const std::function<TwinScores(std::span<const int64_t>)>& scores,
                                      const std::vector<Fusion>& candidates, const std::function<bool()>& cancelled) {
  require(!labels.empty(), "fusion: the validation data is empty");
  const Tape::Pause inference;
  const auto n = int64_t(labels.size());
  std::vector<double> total(candidates.size(), 0.0);
  std::vector<int64_t> indices;
  for (int64_t begin = 0; begin < n; begin += batch) {
    if (cancelled && cancelled()) return {};
    indices.resize(size_t(std::min(batch, n - begin)));
    std::iota(indices.begin(), indices.end(), begin);
    const auto [base, adapted] = scores(indices);
    const Tensor change = adapted - base;
    const auto right = std::span(labels).subspan(size_t(begin), indices.size());
    for (size_t c = 0; c < candidates.size(); ++c)
      total[c] += double(indices.size()) * double(cross_entropy(base + scale(change, candidates[c].weight()), right).item());
  }
  std::vector<FusionLoss> losses;
  for (size_t c = 0; c < candidates.size(); ++c) losses.push_back({candidates[c], total[c] / double(n)});
  return losses;
}

void Accuracy::add(std::span<const float> scores, int64_t label) {
  require(label >= 0 && label < int64_t(scores.size()), "accuracy: class ", label, " of ", scores.size());
  const float right = scores[size_t(label)];
  int64_t better = 0;                            // of equals the first is the better: a classifier that knows nothing decides for one class
  for (int64_t c = 0; c < int64_t(scores.size()); ++c) better += scores[size_t(c)] > right || (scores[size_t(c)] == right && c < label);
  ++examples;
  top1 += better == 0;
  top5 += better < 5;
  by_class.add(std::max_element(scores.begin(), scores.end()) - scores.begin(), label);
  nll += log_sum_exp(scores) - double(right);
}

Accuracy accuracy(const Vit& model, const Images& images, const Normalisation& normalisation, int64_t batch, const std::function<bool(const Accuracy&)>& more,
                  const std::optional<Fusion>& fusion) {
  check_fit(model, images);
  const Tape::Pause pause;
  Accuracy a(model.config().classes);
  std::vector<int64_t> indices;
  for (int64_t begin = 0; begin < images.count(); begin += batch) {
    indices.resize(size_t(std::min(batch, images.count() - begin)));
    std::iota(indices.begin(), indices.end(), begin);
    const Tensor pixels = image_batch(images, indices, normalisation, {}, nullptr);
    const Tensor logits = fusion ? fused_scores(*fusion, [&] { return model.logits(pixels); }) : model.logits(pixels);
    const int64_t classes = logits.dim(1);
    for (size_t i = 0; i < indices.size(); ++i) {
      const std::span<const float> row(logits.data() + int64_t(i) * classes, size_t(classes));
      a.add(row, images.labels[size_t(indices[i])]);
    }
    if (more && !more(a)) break;
  }
  return a;
}

}  // namespace kvt
