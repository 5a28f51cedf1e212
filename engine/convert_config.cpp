// config.json, as Hugging Face's transformers write it, → GGUF keys.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numbers>

#include "engine/convert.h"
#include "engine/load_encoder.h"

namespace kvt {

namespace {

constexpr int64_t many = int64_t(1) << 31;

// Sets keys of one architecture.
class Keys {
 public:
  Keys(Gguf& out, std::string architecture) : out_(out), prefix_(std::move(architecture) + ".") {}
  void number(const char* key, int64_t n) { out_.set(prefix_ + key, uint32_t(n)); }
  void real(const char* key, double x) { out_.set(prefix_ + key, float(x)); }
  template <class T> void set(const char* key, T value) { out_.set(prefix_ + key, value); }

 private:
  Gguf& out_;
  std::string prefix_;
};

// rope_freqs.weight of Llama 3.1 and later: wavelengths beyond a share of the original context stretch by `factor`, with a smooth passage.
Tensor llama3_factors(Fields& f, double base, int64_t dims) {
  const double factor = f.real("factor"), low = f.real("low_freq_factor"), high = f.real("high_freq_factor");
  const auto context = double(f.integer("original_max_position_embeddings", 1, many));
  require(factor > 0 && low > 0 && high > low, f.at("factor"), ": impossible values");
  const Tensor factors({dims / 2});
  for (int64_t i = 0; i < dims / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(base, double(2 * i) / double(dims));
    const double share = std::clamp((context / wavelength - low) / (high - low), 0., 1.);
    factors.data()[i] = float(1 / ((1 - share) / factor + share));
  }
  return factors;
}

void rope(Gguf& out, Keys& keys, Fields& f, int64_t dims) {
  // Since version 5 of transformers both lie in rope_parameters.
  const bool joined = f.has("rope_parameters");
  std::optional<Fields> scaling;
  if (joined) scaling = f.object("rope_parameters");
  else if (f.has("rope_scaling")) scaling = f.object("rope_scaling");
  // gemma3 has one set for each kind of layer.
  if (joined && scaling->has("full_attention")) {
    Fields local = scaling->object("sliding_attention");
    keys.real("rope.freq_base_swa", local.real("rope_theta", 10000));
    scaling = scaling->object("full_attention");
  } else if (f.has("rope_local_base_freq")) {
    keys.real("rope.freq_base_swa", f.real("rope_local_base_freq"));
  }
  const double base = joined && scaling->has("rope_theta") ? scaling->real("rope_theta") : f.real("rope_theta", 10000);
  keys.real("rope.freq_base", base);
  keys.number("rope.dimension_count", dims);
  if (!scaling) return;
  const std::string type = scaling->string(scaling->has("rope_type") ? "rope_type" : "type", "default");
  if (type == "linear") {
    keys.set("rope.scaling.type", std::string("linear"));
    keys.real("rope.scaling.factor", scaling->real("factor"));
  } else if (type == "llama3") {
    out.add("rope_freqs.weight", llama3_factors(*scaling, base, dims));
  } else {
    require(type == "default", scaling->at("rope_type"), " is \"", type, "\"; known: default, linear, llama3");
  }
}

void causal(Gguf& out, Keys& keys, Fields& f, const std::string& architecture) {
  const int64_t channels = f.integer("hidden_size", 1, 1 << 20), heads = f.integer("num_attention_heads", 1, 1024);
  const int64_t head_size = f.integer("head_dim", 1, 256, channels / heads);
  keys.number("context_length", f.integer("max_position_embeddings", 1, many));
  keys.number("embedding_length", channels);
  keys.number("block_count", f.integer("num_hidden_layers", 1, 1024));
  keys.number("feed_forward_length", f.integer("intermediate_size", 1, 1 << 20));
  keys.number("attention.head_count", heads);
  keys.number("attention.head_count_kv", f.integer("num_key_value_heads", 1, 1024, heads));
  keys.number("attention.key_length", head_size);
  keys.number("attention.value_length", head_size);
  keys.real("attention.layer_norm_rms_epsilon", f.real("rms_norm_eps", 1e-6));
  require(f.real("partial_rotary_factor", 1) == 1, f.at("partial_rotary_factor"), ": heads that turn in part are not supported");
  const bool gemma = architecture == "gemma3";
  if (gemma) f.one_of("hidden_activation", {"gelu_pytorch_tanh"}, "gelu_pytorch_tanh");
  else f.one_of("hidden_act", {"silu"}, "silu");
  require(!f.boolean("use_sliding_window", false), f.at("use_sliding_window"), " is not supported for architecture '", architecture, "'");
  for (const char* name : {"attn_logit_softcapping", "final_logit_softcapping"}) require(!f.has(name), f.at(name), " is not supported");
  // Gemma's scores are scaled by a number of its own; the file format has no key for it and goes by the shape.
  const double per_head = double(channels) / double(heads), expected = gemma && f.integer("num_hidden_layers", 1, 1024) == 62 ? per_head : double(head_size);
  require(!gemma || f.real("query_pre_attn_scalar", expected) == expected, f.at("query_pre_attn_scalar"), ", expected ", expected);
  if ((gemma || architecture == "phi3") && f.has("sliding_window")) {
    keys.number("attention.sliding_window", f.integer("sliding_window", 1, many));
    if (gemma && f.has("sliding_window_pattern")) keys.number("attention.sliding_window_pattern", f.integer("sliding_window_pattern", 1, 1024));
    // The pattern as a list: the first global layer says how long it is.
    const std::vector<std::string> kinds = gemma ? f.strings("layer_types") : std::vector<std::string>();
    if (!kinds.empty()) {
      const auto first = std::find(kinds.begin(), kinds.end(), "full_attention");
      const auto pattern = std::min<int64_t>(first - kinds.begin() + 1, 1024);
      for (size_t i = 0; i < kinds.size(); ++i)
        require((kinds[i] == "full_attention") == ((int64_t(i) + 1) % pattern == 0), f.at("layer_types"), ": layer ", i, " breaks the pattern of every ", pattern);
      keys.number("attention.sliding_window_pattern", pattern);
    }
  }
  rope(out, keys, f, head_size);
}

void bert(Gguf& out, Keys& keys, Fields& f, const PublishedModel& model) {
  f.one_of("hidden_act", {"gelu"}, "gelu");
  f.one_of("position_embedding_type", {"absolute"}, "absolute");
  keys.number("context_length", f.integer("max_position_embeddings", 1, 1 << 20));
  keys.number("embedding_length", f.integer("hidden_size", 1, 1 << 16));
  keys.number("block_count", f.integer("num_hidden_layers", 1, 1024));
  keys.number("feed_forward_length", f.integer("intermediate_size", 1, 1 << 20));
  keys.number("attention.head_count", f.integer("num_attention_heads", 1, 1024));
  keys.real("attention.layer_norm_epsilon", f.real("layer_norm_eps", 1e-12));
  keys.set("attention.causal", false);
  out.set("tokenizer.ggml.token_type_count", uint32_t(f.integer("type_vocab_size", 1, 1 << 16, 2)));

  // sentence-transformers: how states become a vector, and where texts are cut.
  const std::filesystem::path folder = model.folder;
  uint32_t pooling = 0;
  if (const auto path = folder / "1_Pooling/config.json"; std::filesystem::exists(path)) {
    Fields p(Json::read(path.string()), path.string());
    pooling = p.boolean("pooling_mode_mean_tokens", false) ? 1 : p.boolean("pooling_mode_cls_token", false) ? 2 : 0;
    require(pooling > 0, path.string(), ": neither mean nor cls pooling");
  }
  keys.set("pooling_type", pooling);
  if (const auto path = folder / "sentence_bert_config.json"; std::filesystem::exists(path)) {
    Fields s(Json::read(path.string()), path.string());
    if (s.has("max_seq_length")) out.set("kvt.embed.max_tokens", uint32_t(s.integer("max_seq_length", 1, 1 << 20)));
  }
}

void gpt2(Keys& keys, Fields& f) {
  f.one_of("activation_function", {"gelu_new", "gelu_pytorch_tanh"}, "gelu_new");
  const int64_t channels = f.integer("n_embd", 1, 1 << 20);
  keys.number("context_length", f.integer(f.has("n_ctx") ? "n_ctx" : "n_positions", 1, many));
  keys.number("embedding_length", channels);
  keys.number("block_count", f.integer("n_layer", 1, 1024));
  keys.number("feed_forward_length", f.integer("n_inner", 1, 1 << 20, 4 * channels));
  keys.number("attention.head_count", f.integer("n_head", 1, 1024));
  keys.real("attention.layer_norm_epsilon", f.real("layer_norm_epsilon", 1e-5));
}

// preprocessor_config.json, if there is one, says how pixels are normalised; else it is mean ½ and deviation ½, as for the paper's weights.
Normalisation normalisation(const PublishedModel& model, int64_t channels) {
  Normalisation n{std::vector<float>(size_t(channels), 0.5f), std::vector<float>(size_t(channels), 0.5f)};
  const auto path = std::filesystem::path(model.folder) / "preprocessor_config.json";
  if (!std::filesystem::exists(path)) return n;
  Fields p(Json::read(path.string()), path.string());
  const std::vector<double> mean = p.reals("image_mean"), std = p.reals("image_std");
  require(int64_t(mean.size()) == channels && int64_t(std.size()) == channels, p.at("image_mean"), ": ", channels, " means and deviations expected");
  std::copy(mean.begin(), mean.end(), n.mean.begin());
  std::copy(std.begin(), std.end(), n.std.begin());
  return n;
}

void hugging_face_vit(Gguf& out, Fields& f, const PublishedModel& model) {
  VitConfig c;
  c.image_size = f.integer("image_size", 1, 4096, 224);
  c.patch_size = f.integer("patch_size", 1, 4096, 16);
  c.image_channels = f.integer("num_channels", 1, 16, 3);
  c.channels = f.integer("hidden_size", 1, 1 << 16);
  c.layers = f.integer("num_hidden_layers", 1, 1024);
  c.heads = f.integer("num_attention_heads", 1, 1024);
  c.head_size = c.channels / c.heads;
  c.hidden = f.integer("intermediate_size", 1, 1 << 20);
  c.classes = model.file_with("classifier.weight").find("classifier.weight")->shape[0];
  const std::string activation = f.one_of("hidden_act", {"gelu", "gelu_new", "gelu_pytorch_tanh", "relu"}, "gelu");
  c.activation = activation == "gelu" ? Activation::gelu : activation == "relu" ? Activation::relu : Activation::gelu_tanh;
  c.norm_eps = float(f.real("layer_norm_eps", 1e-12));
  c.qkv_bias = f.boolean("qkv_bias", true);
  c.check(model.config_source);
  describe_vit(out, c, normalisation(model, c.image_channels));
}

// vit-pytorch has no configuration file; ours lies in the metadata, as text.
void vit_pytorch(Gguf& out, Fields& f, const PublishedModel& model) {
  const auto number = [&](const char* name) {
    const std::string text = f.string(name);
    char* end = nullptr;
    const double x = std::strtod(text.c_str(), &end);
    require(!text.empty() && *end == '\0' && std::isfinite(x), f.at(name), " is \"", text, "\", expected a number");
    return x;
  };
  const auto count = [&](const char* name) {
    const double x = number(name);
    require(x >= 1 && x <= 1 << 24 && x == std::floor(x), f.at(name), " is ", x, ", expected a whole number from 1");
    return int64_t(x);
  };
  VitConfig c;
  c.image_size = count("image_size");
  c.patch_size = count("patch_size");
  c.image_channels = count("channels");
  c.channels = count("dim");
  c.layers = count("depth");
  c.heads = count("heads");
  c.head_size = count("dim_head");
  c.hidden = count("mlp_dim");
  c.classes = model.file_with("mlp_head.1.weight").find("mlp_head.1.weight")->shape[0];
  c.activation = f.one_of("act", {"relu", "gelu"}, "gelu") == "relu" ? Activation::relu : Activation::gelu;
  c.norm_eps = float(number("norm_eps"));
  c.qkv_bias = model.has("transformer.layers.0.0.fn.to_qkv.bias");
  c.check(model.config_source);
  require(c.image_channels == 1 || !f.has("mean"), f.at("mean"), ": one mean for ", c.image_channels, " channels");
  Normalisation n = normalisation(model, c.image_channels);
  if (f.has("mean")) n = {{float(number("mean"))}, {float(number("std"))}};
  describe_vit(out, c, n);
}

}  // namespace

std::string published_architecture(const PublishedModel& model) {
  if (model.has("to_patch_embedding.1.weight")) return "vit";
  Fields f(model.config, model.config_source);
  const std::string type = f.string("model_type", "");
  require(!type.empty(), f.at("model_type"), " is missing: name the architecture");
  return type == "gemma3_text" ? "gemma3" : type;
}

void convert_config(Gguf& out, const PublishedModel& model, const std::string& architecture) {
  require(!std::holds_alternative<std::nullptr_t>(model.config.value), "'", model.folder, "': config.json is missing");
  Fields f(model.config, model.config_source);
  Keys keys(out, architecture);
  if (architecture == "bert") bert(out, keys, f, model);
  else if (architecture == "gpt2") gpt2(keys, f);
  else if (architecture != "vit") causal(out, keys, f, architecture);
  else if (model.has("to_patch_embedding.1.weight")) vit_pytorch(out, f, model);
  else hugging_face_vit(out, f, model);
}

}  // namespace kvt
