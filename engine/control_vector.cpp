#include "engine/control_vector.h"

namespace kvt {

namespace {

// Σ over rows of the layer's output [.., C]; y' = y.
struct OutputSum : Adapter {
  std::shared_ptr<std::vector<double>> sum;

  explicit OutputSum(std::shared_ptr<std::vector<double>> s) : sum(std::move(s)) {}
  Tensor operator()(const Tensor&, const Tensor& y) const override {
    const size_t C = sum->size();
    for (size_t i = 0; i < size_t(y.size()); ++i) (*sum)[i % C] += double(y.data()[i]);
    return y;
  }
};

// The layers that write to the residual stream, with their block.
struct Writer { Linear* linear; int64_t block; };
std::vector<Writer> writers(CausalLm& model) {
  std::vector<Writer> found;
  model.each_parameter([&](const std::string& name, Parameter&) {
    require(name.find(".post_") == std::string::npos, "control vector: architecture '", model.architecture(), "' normalises what blocks add ('", name, "')");
  });
  model.each_linear([&](const std::string& name, Linear& linear) {
    const auto [block, layer] = block_and_name(name);
    if (block >= 0 && (layer == "attn_output" || layer == "ffn_down")) found.push_back({&linear, block});
  });
  require(int64_t(found.size()) == 2 * model.layers() && model.layers() >= 2, "control vector: ", model.layers(), " blocks with ", found.size(),
          " attn_output and ffn_down layers, expected two blocks or more, and two layers in each");
  return found;
}

// What each block adds to the residual stream, as a sum over all tokens.
std::vector<std::vector<double>> added(CausalLm& model, const std::vector<Writer>& layers, const Examples& data) {
  std::vector<std::shared_ptr<std::vector<double>>> sums;
  for (int64_t l = 0; l < model.layers(); ++l) sums.push_back(std::make_shared<std::vector<double>>(size_t(model.config().channels)));
  for (const auto& [linear, block] : layers) linear->adapters.push_back(std::make_shared<OutputSum>(sums[size_t(block)]));
  const Tape::Pause pause;
  for (int64_t i = 0; i < data.size(); ++i) model.hidden(data[i].tokens, 1, int64_t(data[i].tokens.size()), {});
  for (const Writer& layer : layers) layer.linear->adapters.pop_back();
  std::vector<std::vector<double>> values;
  for (const auto& sum : sums) values.push_back(*sum);
  return values;
}

}  // namespace

Gguf control_vector(CausalLm& model, const LoraSet& set, const Examples& data) {
  const std::vector<Writer> layers = writers(model);
  const auto adapted = added(model, layers, data);
  std::vector<float> scales;
  for (const auto& layer : set.layers) scales.push_back(std::exchange(layer.lora->scale, 0.f));
  const auto base = added(model, layers, data);
  for (size_t i = 0; i < scales.size(); ++i) set.layers[i].lora->scale = scales[i];

  double tokens = 0;
  for (int64_t i = 0; i < data.size(); ++i) tokens += double(data[i].tokens.size());
  Gguf file;
  file.set("general.type", std::string("controlvector"));
  file.set("general.architecture", std::string("controlvector"));
  file.set("controlvector.model_hint", model.architecture());
  file.set("controlvector.layer_count", int32_t(model.layers() - 1));
  for (int64_t l = 1; l < model.layers(); ++l) {
    const Tensor direction({model.config().channels});
    for (size_t c = 0; c < size_t(direction.size()); ++c) {
      double d = adapted[size_t(l)][c] - base[size_t(l)][c];
      if (l == 1) d += adapted[0][c] - base[0][c];
      direction.data()[c] = float(d / tokens);
    }
    file.add("direction." + std::to_string(l), direction);
  }
  return file;
}

}  // namespace kvt
