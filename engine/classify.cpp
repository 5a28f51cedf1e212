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

Accuracy accuracy(const Vit& model, const Images& images, const Normalisation& normalisation, int64_t batch, const std::function<bool(const Accuracy&)>& more) {
  check_fit(model, images);
  const Tape::Pause pause;
  Accuracy a(model.config().classes);
  std::vector<int64_t> indices;
  for (int64_t begin = 0; begin < images.count(); begin += batch) {
    indices.resize(size_t(std::min(batch, images.count() - begin)));
    std::iota(indices.begin(), indices.end(), begin);
    const Tensor logits = model.logits(image_batch(images, indices, normalisation, {}, nullptr));
    const int64_t classes = logits.dim(1);
    for (size_t i = 0; i < indices.size(); ++i) {
      const std::span<const float> row(logits.data() + int64_t(i) * classes, size_t(classes));
      const auto label = size_t(images.labels[size_t(indices[i])]);
      const auto rank = std::count_if(row.begin(), row.end(), [&](float x) { return x > row[label]; });
      ++a.images;
      a.top1 += rank == 0;
      a.top5 += rank < 5;
      a.by_class.add(std::max_element(row.begin(), row.end()) - row.begin(), int64_t(label));
      a.nll += log_sum_exp(row) - double(row[label]);
    }
    if (more && !more(a)) break;
  }
  return a;
}

}  // namespace kvt
