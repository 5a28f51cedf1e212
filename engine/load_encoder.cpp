#include "engine/load_encoder.h"

#include <algorithm>
#include <cmath>

#include "engine/hyperparameters.h"
#include "ops/interleave.h"

namespace kvt {

namespace {

constexpr const char* activation_names[] = {"gelu", "gelu_tanh", "relu"};      // in the order of Activation

void expect_architecture(const Gguf& gguf, const char* expected) {
  const std::string& architecture = gguf.string("general.architecture");
  require(architecture == expected, gguf.path(), ": architecture '", architecture, "', expected '", expected, "'");
}

}  // namespace

std::unique_ptr<Bert> load_bert(const Gguf& gguf) {
  expect_architecture(gguf, "bert");
  const Hyperparameters h(gguf);
  BertConfig c;
  c.layers = h.count("block_count", 1024);
  c.channels = h.count("embedding_length", 1 << 16);
  c.hidden = h.count("feed_forward_length", 1 << 20);
  c.heads = h.count("attention.head_count", 1024);
  require(c.channels % c.heads == 0 && c.channels / c.heads <= 256, gguf.path(), ": ", c.channels, " channels do not divide into ", c.heads,
          " heads of at most 256");
  c.context = h.count("context_length", 1 << 20);
  c.norm_eps = h.positive("attention.layer_norm_epsilon", 1e-12);
  require(!gguf.boolean(h.key("attention.causal"), false), gguf.path(), ": key '", h.key("attention.causal"), "' asks for causal attention");
  const int64_t pooling = gguf.integer(h.key("pooling_type"), 1);
  require(pooling >= 0 && pooling <= 2, gguf.path(), ": key '", h.key("pooling_type"), "' is ", pooling, "; known: 0 none, 1 mean, 2 cls");
  c.pooling = BertConfig::Pooling(pooling);
  const auto rows = [&](const char* name) {
    const Tensor x = gguf.tensor(name);
    require(x.rank() == 2, gguf.path(), ": tensor '", name, "' has shape ", x.shape(), ", expected two axes");
    return x.dim(0);
  };
  c.vocabulary = rows("token_embd.weight");
  c.token_types = rows("token_types.weight");
  return std::make_unique<Bert>(c, gguf.tensor_map(), gguf.path());
}

std::unique_ptr<Vit> load_vit(const Gguf& gguf) {
  expect_architecture(gguf, "vit");
  const Hyperparameters h(gguf);
  VitConfig c;
  c.image_size = h.count("image_size", 4096);
  c.patch_size = h.count("patch_size", 4096);
  c.image_channels = h.count("image_channels", 16);
  c.channels = h.count("embedding_length", 1 << 16);
  c.layers = h.count("block_count", 1024);
  c.hidden = h.count("feed_forward_length", 1 << 20);
  c.heads = h.count("attention.head_count", 1024);
  c.head_size = h.count("attention.key_length", 256);
  c.classes = h.count("class_count", 1 << 24);
  c.norm_eps = h.positive("attention.layer_norm_epsilon", 1e-6);
  c.qkv_bias = gguf.boolean(h.key("qkv_bias"), true);
  const std::string pooling = gguf.string(h.key("pooling")), activation = gguf.string(h.key("activation"));
  require(pooling == "cls" || pooling == "mean", gguf.path(), ": key '", h.key("pooling"), "' is '", pooling, "'; known: cls, mean");
  c.cls_token = pooling == "cls";
  const auto name = std::find(std::begin(activation_names), std::end(activation_names), activation);
  require(name != std::end(activation_names), gguf.path(), ": key '", h.key("activation"), "' is '", activation, "'; known: gelu, gelu_tanh, relu");
  c.activation = Activation(name - std::begin(activation_names));
  c.check(gguf.path());
  auto model = std::make_unique<Vit>(c);
  model->load(gguf.tensor_map(), gguf.path());
  return model;
}

Normalisation vit_normalisation(const Gguf& gguf, int64_t image_channels) {
  Normalisation n{gguf.array<float>("vit.image_mean"), gguf.array<float>("vit.image_std")};
  for (const auto* list : {&n.mean, &n.std})
    require(int64_t(list->size()) == image_channels, gguf.path(), ": vit.image_mean and vit.image_std need ", image_channels, " numbers each");
  for (const float s : n.std) require(std::isfinite(s) && s > 0, gguf.path(), ": vit.image_std has ", s);
  return n;
}

void describe_vit(Gguf& gguf, const VitConfig& c, const Normalisation& n) {
  const auto number = [&](const char* key, int64_t value) { gguf.set(std::string("vit.") + key, uint32_t(value)); };
  gguf.set("general.architecture", std::string("vit"));
  number("image_size", c.image_size);
  number("patch_size", c.patch_size);
  number("image_channels", c.image_channels);
  number("embedding_length", c.channels);
  number("block_count", c.layers);
  number("feed_forward_length", c.hidden);
  number("attention.head_count", c.heads);
  number("attention.key_length", c.head_size);
  number("class_count", c.classes);
  gguf.set("vit.attention.layer_norm_epsilon", c.norm_eps);
  gguf.set("vit.pooling", std::string(c.cls_token ? "cls" : "mean"));
  gguf.set("vit.activation", std::string(activation_names[int(c.activation)]));
  gguf.set("vit.qkv_bias", c.qkv_bias);
  gguf.set("vit.image_mean", n.mean);
  gguf.set("vit.image_std", n.std);
}

void arrange_weights(Bert& model) {
  std::vector<Tensor> weights;
  int64_t all = 0;
  model.each_linear([&](const std::string&, Linear& linear) {
    if (!linear.weight.tensor.storage().mapped()) return;
    weights.push_back(linear.weight);
    all += (weights.back().bytes() + 63) / 64 * 64;
  });
  if (weights.empty()) return;
  const Storage block = Storage::allocate_large(size_t(all));
  int64_t at = 0;
  for (const Tensor& w : weights) {
    move(w, block.part(size_t(at), size_t(w.bytes())));
    at += (w.bytes() + 63) / 64 * 64;
  }
}

}  // namespace kvt
