// The task "image-classification": a ViT on labelled images.
#include <numeric>

#include "engine/classify.h"
#include "engine/fingerprint.h"
#include "engine/load_encoder.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/image_files.h"
#include "tools/train.h"

namespace kvt {

namespace {

VitConfig read_model(Config c) {
  VitConfig m;
  if (c.has("size")) {
    try {
      m.set_size(c.text("size"));
    } catch (const Error& e) {
      c.bad("size", e.what());
    }
  }
  const bool sized = m.channels > 0;
  const auto count = [&](const char* key, int64_t most, int64_t fallback) { return c.count(key, 1, most, fallback); };
  m.channels = sized ? count("channels", 1 << 16, m.channels) : c.count("channels", 1, 1 << 16);
  m.layers = sized ? count("layers", 1024, m.layers) : c.count("layers", 1, 1024);
  m.heads = sized ? count("heads", 1024, m.heads) : c.count("heads", 1, 1024);
  if (!c.has("head_size") && m.channels % m.heads != 0) c.bad("heads", "the channels do not divide into so many heads");
  m.head_size = count("head_size", 256, m.channels / m.heads);
  m.hidden = count("hidden", 1 << 20, 4 * m.channels);
  m.patch_size = c.count("patch_size", 1, 4096);
  const std::string pooling = c.text("pooling", "cls"), activation = c.text("activation", "gelu");
  if (pooling != "cls" && pooling != "mean") c.bad("pooling", "expected cls or mean");
  if (activation != "gelu" && activation != "gelu_tanh" && activation != "relu") c.bad("activation", "expected gelu, gelu_tanh or relu");
  m.cls_token = pooling == "cls";
  m.activation = activation == "gelu" ? Activation::gelu : activation == "relu" ? Activation::relu : Activation::gelu_tanh;
  c.finish();
  return m;
}

Augmentation read_augmentation(Config c) {
  Augmentation a;
  a.shift = c.count("shift", 0, 4096, 0);
  a.flip = c.flag("flip", false);
  a.crop = float(c.real("crop", 0, 0.9, 0));
  c.finish();
  return a;
}

// The last so many images become a set of their own.
Images split_off(Images& images, int64_t n) {
  require(n > 0 && n < images.count(), "train: ", n, " of ", images.count(), " images for validation");
  Images last{images.channels, images.size, {}, {}, images.classes};
  const int64_t first = images.count() - n;
  last.pixels.assign(images.pixels.begin() + first * images.bytes_each(), images.pixels.end());
  last.labels.assign(images.labels.begin() + first, images.labels.end());
  images.pixels.resize(size_t(first * images.bytes_each()));
  images.labels.resize(size_t(first));
  return last;
}

// `n` of the images, drawn by `rng`.
void keep_some(Images& images, int64_t n, Rng& rng) {
  require(n <= images.count(), "train: ", n, " of ", images.count(), " images");
  std::vector<int64_t> order(size_t(images.count()));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = 0; i < n; ++i) std::swap(order[size_t(i)], order[size_t(i) + rng.below(uint64_t(images.count() - i))]);
  Images some{images.channels, images.size, {}, {}, images.classes};
  for (int64_t i = 0; i < n; ++i) {
    const auto first = images.pixels.begin() + order[size_t(i)] * images.bytes_each();
    some.pixels.insert(some.pixels.end(), first, first + images.bytes_each());
    some.labels.push_back(images.labels[size_t(order[size_t(i)])]);
  }
  images = std::move(some);
}

std::unique_ptr<Vit> make_model(VitConfig shape, const Images& images, const std::string& path, Rng& rng) {
  shape.image_size = images.size;
  shape.image_channels = images.channels;
  shape.classes = std::max(images.class_count(), int64_t(images.classes.size()));
  shape.check(path);
  auto model = std::make_unique<Vit>(shape);
  model->init(rng);
  return model;
}

}  // namespace

void train_images(Config& config, const TrainPaths& paths) {
  const auto seed = uint64_t(config.count("seed", 0, INT64_MAX, 0));
  const TrainOptions options = read_training(config.object("training"), seed);
  const Gguf base = config.has("base") ? Gguf::open(paths.file(config.text("base"))) : Gguf();
  const bool fresh = base.tensors().empty();
  VitConfig shape = fresh ? read_model(config.object("model")) : VitConfig();
  const TrainMethod method = fresh ? TrainMethod() : read_method(config.object("method"), options);
  ImageTaskOptions how;
  how.augmentation = read_augmentation(config.object("augmentation"));
  how.dropout = float(config.real("dropout", 0, 0.99, 0));
  how.smoothing = float(config.real("label_smoothing", 0, 0.99, 0));
  const int64_t size = config.count("image_size", 1, 4096, 0), channels = config.count("image_channels", 1, 3, 3);
  const std::string train_path = config.text("images"), validation_path = config.text("validation_images", "");
  const int64_t held_out = config.count("validation_count", 1, int64_t(1) << 40, 0), used = config.count("count", 1, int64_t(1) << 40, 0);
  if (held_out > 0 && !validation_path.empty()) config.bad("validation_count", "give either this or validation_images");
  config.finish();

  const auto read = [&](const std::string& name) { return read_images(paths.file(name), size > 0 ? size : 224, channels); };
  Images images = read(train_path);
  const Images validation = !validation_path.empty() ? read(validation_path) : held_out > 0 ? split_off(images, held_out) : Images{};
  Rng rng(seed);
  if (used > 0) keep_some(images, used, rng);
  const std::unique_ptr<Vit> loaded = fresh ? make_model(shape, images, train_path, rng) : load_vit(base);
  Vit& model = *loaded;
  shape = model.config();
  const Normalisation normalisation = fresh ? measure(images) : vit_normalisation(base, shape.image_channels);
  const ImageTask task(model, images, normalisation, how);
  std::optional<ImageTask> judge;
  if (validation.count() > 0) judge.emplace(model, validation, normalisation);

  TrainJob job;
  job.title = "image classification";
  job.task = &task;
  job.validation = judge ? &*judge : nullptr;
  job.options = options;
  const auto whole = [](int64_t n) { return std::to_string(n); };
  job.identity = {{"data", hex(images.fingerprint())}, {"validation", hex(validation.fingerprint())}, {"dropout", std::to_string(how.dropout)},
                  {"label_smoothing", std::to_string(how.smoothing)}, {"shift", whole(how.augmentation.shift)}, {"flip", how.augmentation.flip ? "yes" : "no"},
                  {"crop", std::to_string(how.augmentation.crop)}, {"channels", whole(shape.channels)}, {"layers", whole(shape.layers)},
                  {"heads", whole(shape.heads)}, {"head_size", whole(shape.head_size)}, {"hidden", whole(shape.hidden)}, {"patch_size", whole(shape.patch_size)},
                  {"pooling", shape.cls_token ? "cls" : "mean"}, {"activation", whole(int64_t(shape.activation))}};
  job.head = &model.output;
  job.knowledge_states = [&](int64_t n, int64_t layer) {
    const Tape::Pause inference;
    std::vector<Tensor> states;
    for (int64_t i = 0; i < std::min(n, images.count()); ++i) {
      const Tensor h = model.output_norm(model.hidden(image_batch(images, std::array{i}, normalisation, {}, nullptr), {}, layer));
      states.push_back(h.view({h.dim(1), h.dim(2)}));
    }
    return states;
  };
  if (judge)
    job.fusion_losses = [&] {
      return fusion_losses(validation.labels, 32, [&](std::span<const int64_t> indices) {
        const Tensor pixels = image_batch(validation, indices, normalisation, {}, nullptr);
        return twin_scores([&] { return model.logits(pixels); });
      }, fusion_grid(), interrupted);
    };
  if (!fresh) return run_method(std::move(job), method, model, base, paths);
  job.trained = all_weights(model);
  job.result = [&](Report&) {
    Gguf gguf;
    describe_vit(gguf, shape, normalisation);
    if (!images.classes.empty()) gguf.set("vit.class_names", images.classes);
    model.each_parameter([&](const std::string& name, Parameter& p) { gguf.add(name, p.tensor); });
    return gguf;
  };
  run_job(job, paths);
}

}  // namespace kvt
