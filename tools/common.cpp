#include "tools/common.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdio>

#include "engine/adapted.h"
#include "engine/fingerprint.h"
#include "engine/load.h"
#include "ops/quant.h"
#include "tensor/parallel.h"

namespace kvt {

void add_model_options(CLI::App& command, ModelOptions& o, bool with_adapters) {
  command.add_option("-m,--model", o.model, "GGUF file of the model")->required();
  if (with_adapters) {
    command.add_option("--adapter", o.adapters, "adapter GGUF (LoRA, KVT), FILE or FILE:SCALE; may be repeated");
    command.add_flag("--any-base", o.any_base, "take adapters that were trained on another base model too");
  }
  command.add_option("-t,--threads", o.threads, "threads (default: one per core)")->check(CLI::Range(1, 1024));
  command.add_option("--activations", o.activations, "activations beside quantized weights when few rows are computed: q8 (default) or f32")
      ->check(CLI::IsMember({"f32", "q8"}));
  command.add_flag("--no-mmap", o.no_mmap, "read the file into memory instead of mapping it");
  command.add_flag("--check-tensors", o.check_tensors, "refuse a file with infinities or NaNs among its numbers");
}

void add_cache_option(CLI::App& command, DType& cache) {
  command.add_option_function<std::string>("--cache,--cache-type", [&cache](const std::string& name) { cache = find_dtype(name.c_str())->type; },
                                           "what the cache keeps keys and values as: f16 (default), f32, or q8_0, about half of f16")
      ->check(CLI::IsMember({"f16", "f32", "q8_0"}));
}

void add_fusion_options(CLI::App& command, ModelOptions& o) {
  auto* fuse = command.add_option_function<float>("--fuse", [&o](float x) { o.fusion = {Fusion::Form::residual, x}; },
      "fuse adapted and base scores, (base + LAMBDA adapted) / (1 + LAMBDA); default: as the last adapter's file says")->check(CLI::NonNegativeNumber);
  auto* extrapolate = command.add_option_function<float>("--extrapolate", [&o](float x) { o.fusion = {Fusion::Form::extrapolating, x}; },
      "fuse them as adapted + GAMMA (adapted - base)")->check(CLI::NonNegativeNumber)->excludes(fuse);
  auto* domain = command.add_option("--domain", o.domain, "of a bank of domains (kvt bank): this one for the whole text");
  command.add_option("--route", o.route, "of a bank: each token chooses its domain by the text up to it (sentence, default) or by itself (word)")
      ->check(CLI::IsMember({"sentence", "word"}))->excludes(domain);
  command.add_flag("--no-fusion", o.no_fusion, "the adapted scores alone, whatever the adapter's file says")->excludes(fuse)->excludes(extrapolate);
}

// The adapters' files, FILE or FILE:SCALE each
struct AdapterFiles {
  std::vector<Gguf> files;
  std::vector<AdapterUse> uses;
  explicit AdapterFiles(const std::vector<std::string>& adapters) {
    files.reserve(adapters.size());
    for (const std::string& adapter : adapters) {
      const auto [path, scale] = split_scale(adapter);
      files.push_back(Gguf::open(path));
      uses.push_back({&files.back(), scale});
    }
  }
};

std::string describe(const Fusion& fusion) {
  char text[48];
  std::snprintf(text, sizeof text, "%s %g", fusion.form == Fusion::Form::residual ? "lambda" : "gamma", double(fusion.value));
  return text;
}

LoadedModel open_model(const ModelOptions& o, bool fused) {
  set_default_threads({.threads = o.threads});
  if (!o.activations.empty()) set_activations(o.activations == "f32" ? Activations::f32 : Activations::q8);
  LoadedModel m;
  m.gguf = Gguf::open(o.model, o.no_mmap ? Gguf::Access::read : Gguf::Access::map);
  if (o.check_tensors) m.gguf.check_tensors();
  const AdapterFiles adapters(o.adapters);
  AdaptedLm adapted = with_adapters(load_model(m.gguf), adapters.uses, o.adapters.empty() ? "" : fingerprint(m.gguf),
                                    {.any_base = o.any_base, .as_base = !fused, .by_word = o.route == "word", .domain = o.domain});
  m.model = std::move(adapted.model);
  std::optional<Fusion> fusion = adapted.fusion;
  require(!o.fusion || !o.adapters.empty(), "fusion is of an adapter with its base: name an --adapter");
  if (o.fusion) fusion = o.fusion;
  m.fusion = fusion;
  if (fused && fusion && !o.no_fusion && fusion->weight() != 1) m.model = std::make_shared<Fused>(std::move(m.model), *fusion);
  m.tokenizer = Tokenizer::from(m.gguf);
  require(m.tokenizer->vocab().size() == m.model->config().vocabulary, o.model, ": the tokenizer has ", m.tokenizer->vocab().size(),
          " tokens, the model ", m.model->config().vocabulary);
  return m;
}

std::optional<Fusion> load_adapters(Model& model, const Gguf& base, const std::vector<std::string>& adapters, bool any_base, bool as_base) {
  return attach_adapters(model, AdapterFiles(adapters).uses, adapters.empty() ? "" : fingerprint(base), {.any_base = any_base, .as_base = as_base, .by_word = false, .domain = {}});
}

std::pair<std::string, float> split_scale(const std::string& adapter) {
  const size_t colon = adapter.rfind(':');
  if (colon == std::string::npos || colon + 1 == adapter.size()) return {adapter, 1.f};
  float scale = 0;
  const char* end = adapter.data() + adapter.size();
  const auto [stopped, error] = std::from_chars(adapter.data() + colon + 1, end, scale);
  if (error != std::errc() || stopped != end) return {adapter, 1.f};
  return {adapter.substr(0, colon), scale};
}

std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  const char *p = text.data(), *end = p + text.size();
  while (p != end) {
    if (*p == ' ' || *p == ',' || *p == '\n' || *p == '\t') {
      ++p;
      continue;
    }
    int32_t id = 0;
    const auto [stopped, error] = std::from_chars(p, end, id);
    require(error == std::errc(), "ids: '", std::string(p, std::find(p, end, ' ')), "' is not a token id");
    ids.push_back(id);
    p = stopped;
  }
  return ids;
}

static std::atomic<bool> interrupt_seen{false};

bool interrupted() {
  static const bool installed = [] {
    std::signal(SIGINT, [](int) {
      if (interrupt_seen.exchange(true)) std::signal(SIGINT, SIG_DFL), std::raise(SIGINT);
    });
    return true;
  }();
  return installed && interrupt_seen;
}

}  // namespace kvt
