#include "engine/extract.h"

#include <cmath>
#include <numeric>

#include "tensor/parallel.h"

namespace kvt {

namespace {

// One tap on each layer while this lives.
class Taps {
 public:
  Taps(const std::vector<TargetLayer>& layers, std::vector<GradientSketch>& sketches) : layers_(layers) {
    for (size_t i = 0; i < layers.size(); ++i)
      layers[i].linear->adapters.push_back(std::make_shared<GradientTap>([&sketch = sketches[i]](const Tensor& x, const float* dy) { sketch.add(x, dy); }));
  }
  ~Taps() {
    for (const TargetLayer& layer : layers_) layer.linear->adapters.pop_back();
  }
  Taps(const Taps&) = delete;
  Taps& operator=(const Taps&) = delete;

 private:
  const std::vector<TargetLayer>& layers_;
};

}  // namespace

Extraction::Extraction(const std::vector<TargetLayer>& layers, const ExtractOptions& options) : layers_(layers), options_(options), tests_(options.k, options.seed) {
  require(options.k >= 1 && options.batch >= 1, "extract: ", options.k, " directions, batches of ", options.batch);
  sketches_.reserve(layers.size());
  for (const TargetLayer& layer : layers) sketches_.emplace_back(layer.linear->weight.shape[0], layer.linear->weight.shape[1], tests_);
}

double Extraction::add(const Task& task, std::span<const int64_t> indices, double weight, const std::function<void(const ExtractProgress&)>& progress,
                       const std::function<bool()>& cancelled) {
  const auto size = int64_t(indices.size());
  const Storage::Reuse blocks;
  const Taps taps(layers_, sketches_);
  double total = 0;
  int64_t seen = 0;
  for (int64_t begin = 0; begin < size; begin += options_.batch) {
    if (cancelled && cancelled()) return std::nan("");
    const auto batch = indices.subspan(size_t(begin), size_t(std::min(options_.batch, size - begin)));
    const int64_t n = task.extent(batch).labels;
    if (n > 0) {
      Tape tape(options_.precision);
      const Tensor l = task.loss(batch, {.random = nullptr, .recompute = options_.recompute});
      total += double(l.item()) * double(n);
      seen += n;
      tape.backward(scale(l, float(weight * double(n))));
    }
    if (progress) progress({begin + int64_t(batch.size()), size, total / double(std::max<int64_t>(seen, 1))});
  }
  require(seen > 0, "extract: the data has nothing to learn");
  require(std::isfinite(total), "extract: the loss is ", total / double(seen));
  labels_ += weight * double(seen);
  return total / double(seen);
}

std::vector<LayerGradient> Extraction::gradients() const {
  std::vector<LayerGradient> gradients(layers_.size());
  const auto mean = float(1 / labels_);
  parallel_for(int64_t(layers_.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const GradientSketch& sketch = sketches_[size_t(i)];
      LayerGradient& g = gradients[size_t(i)];
      g.energy = sketch.energy() * double(mean) * double(mean);
      require(std::isfinite(g.energy), "extract: the gradient of '", layers_[size_t(i)].name, "' is not finite");
      const Shape& w = layers_[size_t(i)].linear->weight.shape;
      if (g.energy > 0) g.svd = sketch.leading(options_.k), g.svd.s = scale(g.svd.s, mean);
      else g.svd = {Tensor::zeros({w[0], 1}), Tensor::zeros({1}), Tensor::zeros({w[1], 1})};
    }
  });
  return gradients;
}

std::vector<LayerGradient> extract_gradients(const Task& task, const std::vector<TargetLayer>& layers, const ExtractOptions& options,
                                             const std::function<void(const ExtractProgress&)>& progress,
                                             const std::function<bool()>& cancelled, double* loss) {
  std::vector<int64_t> indices(size_t(task.size()));
  std::iota(indices.begin(), indices.end(), 0);
  Extraction extraction(layers, options);
  const double mean = extraction.add(task, indices, 1, progress, cancelled);
  if (std::isnan(mean)) return {};
  if (loss) *loss = mean;
  return extraction.gradients();
}

int64_t directions_holding(const std::vector<LayerGradient>& gradients, double share) {
  int64_t most = 0;
  for (const LayerGradient& g : gradients) most = std::max(most, g.svd.rank());
  std::vector<double> held(size_t(most), 0.0);         // by each direction, as the mean over layers
  double layers = 0;
  for (const LayerGradient& g : gradients) {
    if (g.energy <= 0) continue;
    layers += 1;
    for (int64_t i = 0; i < g.svd.rank(); ++i) held[size_t(i)] += double(g.svd.s.data()[i]) * double(g.svd.s.data()[i]) / g.energy;
  }
  double sum = 0;
  for (int64_t k = 0; k < most; ++k)
    if ((sum += held[size_t(k)]) >= share * layers) return k + 1;
  return most;
}

}  // namespace kvt
