#include "engine/kvt_adapter.h"

#include <algorithm>
#include <cmath>

#include "engine/adapter.h"
#include "engine/fusion.h"
#include "ops/quant.h"

namespace kvt {

static constexpr const char *suffix_a = ".weight.kvt_a", *suffix_b = ".weight.kvt_b";

static KvtConfig with_levels(KvtConfig c, const std::vector<std::string>& levels, const std::string& source) {
  c.concept_level = c.sentence_level = c.word_level = false;
  for (const std::string& level : levels) {
    require(level == "concept" || level == "sentence" || level == "word", source, ": no level is called '", level, "'; there are: concept sentence word");
    (level == "concept" ? c.concept_level : level == "sentence" ? c.sentence_level : c.word_level) = true;
  }
  return c;
}

static std::string join(const KvtConfig& c) {
  std::string text;
  for (const auto& [on, name] : {std::pair{c.concept_level, "concept"}, {c.sentence_level, "sentence"}, {c.word_level, "word"}})
    if (on) text.append(text.empty() ? "" : ",").append(name);
  return text;
}

// What lies outside has inputs that are no tokens, or scores for outputs.
static bool in_blocks(const std::string& layer) { return block_and_name(layer).first >= 0; }

static std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at < text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    parts.push_back(text.substr(at, comma - at));
    at = comma + 1;
  }
  return parts;
}

// All but language models make the cores of their passes themselves. To be called before a layer changes.
static void bind_cores(Model& model, const std::shared_ptr<Kvt>& kvt, const std::string& source) {
  if (dynamic_cast<CausalLm*>(&model)) return;
  require(!model.adapter_pass, source, ": the second adapter whose cores depend on the input; one at a time");
  make_cores(model, kvt);
}

KvtSet attach_kvt(Model& model, const KvtOptions& o) {
  const std::vector<TargetLayer> targets = target_layers(model, o.targets, o.first_layer, o.last_layer);
  for (const TargetLayer& target : targets) require(in_blocks(target.name), "kvt: layer '", target.name, "' is outside of the blocks");
  const int64_t C = model.channels(), size = o.size > 0 ? o.size : KnowledgeConfig::for_channels(C).size;
  KvtConfig c = with_levels({}, o.levels, "kvt");
  c.channels = C, c.size = size, c.vectors = o.vectors > 0 ? o.vectors : size, c.columns = o.columns > 0 ? o.columns : size;
  c.hidden = 4 * size;
  c.layers = int64_t(targets.size());
  Rng rng(o.seed);
  KvtSet set;
  set.kvt = std::make_shared<Kvt>(c);
  set.kvt->init(rng);
  if (o.extractor && c.generated()) {
    set.extractor = std::make_shared<KnowledgeExtractor>(KnowledgeConfig{.channels = C, .vectors = c.vectors, .size = size});
    set.extractor->init(rng);
  }
  for (const auto& [name, linear] : targets) {
    const Shape& w = linear->weight.shape;
    const auto core = GeneratedCore::init(set.kvt, int64_t(set.layers.size()), w[1], w[0], o.scale, rng);
    set.layers.push_back({name, core, core});
  }
  bind_cores(model, set.kvt, "kvt");
  for (size_t i = 0; i < targets.size(); ++i) targets[i].linear->adapters.push_back(set.layers[i].core);
  return set;
}

TrainedSet trained_tensors(const KvtSet& set) {
  TrainedSet trained;
  const auto add = [&](const std::string& prefix) {
    return [&trained, prefix](const std::string& name, Parameter& p) { trained.push_back({prefix + name, p.tensor, p.shape.rank() >= 2}); };
  };
  each<Parameter>(*set.kvt, [&](const std::string& name, Parameter& p) {
    if (name != "bank" || !set.extractor) add("kvt.")(name, p);
  });
  if (set.extractor) each<Parameter>(*set.extractor, add("dke."));
  for (const auto& [name, core, attached] : set.layers) {
    trained.push_back({name + suffix_a, core->a});
    trained.push_back({name + suffix_b, core->b});
  }
  return trained;
}

// states(i): of example i, [1, T, C]
template <class F> static std::vector<Tensor> states_of(const Model& model, const auto& data, int64_t texts, int64_t layer, F&& states) {
  require(layer >= -1 && layer <= model.layers(), "kvt: hidden states behind block ", layer, " of ", model.layers());
  const Tape::Pause inference;
  std::vector<Tensor> all;
  for (int64_t i = 0; i < std::min(texts, data.size()); ++i) {
    const Tensor h = states(i);
    all.push_back(h.view({h.dim(1), h.dim(2)}));
  }
  return all;
}

std::vector<Tensor> knowledge_states(const CausalLm& model, const Examples& data, int64_t texts, int64_t layer) {
  return states_of(model, data, texts, layer, [&](int64_t i) {
    const Ids& tokens = data[i].tokens;
    return model.hidden(tokens, 1, int64_t(tokens.size()), {.blocks = layer});
  });
}

std::vector<Tensor> knowledge_states(const Bert& model, const Examples& data, int64_t texts, int64_t layer) {
  return states_of(model, data, texts, layer, [&](int64_t i) {
    const Ids& tokens = data[i].tokens;
    return model.hidden(tokens, {int32_t(tokens.size())}, int64_t(tokens.size()), layer);
  });
}

std::vector<Tensor> knowledge_states(const Seq2Seq& model, const SentencePairs& pairs, int64_t texts, int64_t layer) {
  require(layer <= model.config().encoder_layers, "kvt: hidden states behind block ", layer, " of an encoder of ", model.config().encoder_layers);
  return states_of(model, pairs, texts, layer, [&](int64_t i) {
    const Ids& source = pairs.source(i);
    return model.encode(source, std::vector{int32_t(source.size())}, int64_t(source.size()), nullptr, layer).states;
  });
}

void fill_bank(const KvtSet& set, const std::vector<Tensor>& states) {
  if (!set.extractor) return;
  const Tape::Pause inference;
  std::vector<Tensor> features;
  for (const Tensor& h : states) features.push_back(set.extractor->features(h).f);
  set.kvt->bank.tensor = set.extractor->knowledge(concat(features, 0));
}

Tensor KvtTask::loss(std::span<const int64_t> indices, const Pass& pass) const {
  if (!set_.extractor) return task_->loss(indices, pass);
  if (!pass.random) {
    fill_bank(set_, states_);
    return task_->loss(indices, pass);
  }
  constexpr int64_t texts_at_once = 2;
  std::vector<int64_t> others;
  for (int64_t i = 0; i < int64_t(states_.size()); ++i)
    if (!learns_texts_ || std::find(indices.begin(), indices.end(), i) == indices.end()) others.push_back(i);
  require(!others.empty(), "kvt: every text that knowledge is extracted from is in this batch; give more data or smaller batches");
  std::vector<Tensor> features, gates;
  for (int64_t n = 0; n < std::min(texts_at_once, int64_t(others.size())); ++n) {
    const Tensor& h = states_[size_t(others[size_t(pass.random->below(uint64_t(others.size())))])];
    const auto [f, g] = set_.extractor->features(h, set_.extractor->sample_mask(h.dim(0), *pass.random));
    features.push_back(f);
    gates.push_back(g);
  }
  set_.kvt->bank.tensor = set_.extractor->knowledge(concat(features, 0));
  return task_->loss(indices, pass) + scale(mean(concat(gates, 0)), mu_);
}

Gguf kvt_file(const KvtSet& set, const std::string& architecture, const std::string& base, DType type) {
  require(type == DType::F32 || type == DType::F16, "kvt: adapters are stored as F32 or F16, not ", type);
  Gguf file = new_adapter("kvt", architecture, base);
  file.set("kvt.levels", join(set.kvt->config()));
  file.set("kvt.scale", set.layers.at(0).core->scale);
  if (set.fusion) write_fusion(file, *set.fusion);
  std::vector<std::string> names;
  for (const auto& layer : set.layers) names.push_back(layer.name);
  file.set("kvt.layers", names);
  const auto stored = [&](const Tensor& x) { return type == DType::F32 || x.rank() < 2 ? x : pack(x, type); };
  each<Parameter>(*set.kvt, [&](const std::string& name, Parameter& p) { file.add("kvt." + name, name == "bank" ? p.tensor : stored(p)); });
  for (const auto& [name, core, attached] : set.layers) {
    file.add(name + suffix_a, stored(core->a));
    file.add(name + suffix_b, stored(core->b));
  }
  return file;
}

KvtSet load_kvt(Model& model, const Gguf& file, float scale, const std::string& base, bool any_base) {
  require_adapter(file, "kvt", model, base, any_base);
  const std::string& path = file.path();
  const auto s = float(file.real("kvt.scale"));
  require(std::isfinite(s) && std::isfinite(scale), path, ": kvt.scale ", s, ", scale ", scale);

  std::map<std::string, Linear*> linears;
  model.each_linear([&](const std::string& name, Linear& linear) { linears[name] = &linear; });
  const std::vector<std::string>& names = file.array<std::string>("kvt.layers");
  require(!names.empty(), path, ": the adapter has no layers");
  const auto matrix = [&](const std::string& name) {
    const Tensor x = file.tensor(name);
    require(x.rank() == 2 && x.size() > 0 && is_float(x.dtype()), path, ": tensor '", name, "' is ", x.dtype(), " ", x.shape(), ", expected a matrix of F32, F16 or BF16");
    return unpack(x);
  };

  KvtConfig c = with_levels({}, split(file.string("kvt.levels")), path);
  c.channels = model.channels();
  c.layers = int64_t(names.size());
  c.columns = matrix(names[0] + suffix_a).dim(0);
  c.size = matrix(names[0] + suffix_b).dim(1);
  c.hidden = matrix("kvt.mlp_down.weight").dim(1);
  c.vectors = c.generated() ? matrix("kvt.bank").dim(0) : 1;
  KvtSet set;
  set.kvt = std::make_shared<Kvt>(c);
  std::map<std::string, Tensor> tensors;
  for (const Gguf::Entry& e : file.tensors())
    if (e.name.starts_with("kvt.")) tensors[e.name.substr(4)] = is_float(e.tensor.dtype()) ? unpack(e.tensor) : e.tensor;
  load_parameters(*set.kvt, tensors, path);
  for (const auto& [name, x] : tensors) require(x.dtype() == DType::F32, path, ": tensor 'kvt.", name, "' is ", x.dtype(), ", expected F32, F16 or BF16");

  std::vector<LowRankAdapter*> frozen;
  for (const std::string& name : names) {
    require(linears.contains(name) && in_blocks(name), path, ": the base has no linear layer '", name, "' in its blocks");
    const auto core = std::make_shared<GeneratedCore>();
    core->kvt = set.kvt, core->layer = int64_t(set.layers.size()), core->scale = s * scale;
    core->a = matrix(name + suffix_a);
    core->b = matrix(name + suffix_b);
    const Shape& w = linears.at(name)->weight.shape;
    require(core->a.shape() == Shape({c.columns, w[1]}) && core->b.shape() == Shape({w[0], c.size}), path, ": '", name, "': factors A ", core->a.shape(), " and B ",
            core->b.shape(), " do not fit weights ", w, " and cores ", c.size, " × ", c.columns);
    std::shared_ptr<LowRankAdapter> attached = core;
    if (!c.per_token()) attached = core->folded();
    frozen.push_back(attached.get());
    set.layers.push_back({name, core, attached});
  }
  freeze(frozen);
  set.fusion = read_fusion(file);
  if (c.per_token()) bind_cores(model, set.kvt, path);
  for (const auto& layer : set.layers) linears.at(layer.name)->adapters.push_back(layer.attached);
  return set;
}

}  // namespace kvt
