// kvt export: an adapter in forms that other programs read.
#include <cstdio>

#include "engine/adapter.h"
#include "engine/compress.h"
#include "engine/control_vector.h"
#include "engine/fingerprint.h"
#include "engine/ia3.h"
#include "engine/kvt_adapter.h"
#include "engine/text_classes.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/training_data.h"

namespace kvt {

namespace {

struct Options {
  ModelOptions model;
  std::string to = "lora", type, data, out;
  int64_t length = 256;
  double mean_rank = 0;
};

// Scales are folded into B: α = 0 means scale 1 whatever the rank.
Gguf plain_lora(const LoraSet& set, const std::string& architecture, const std::string& base, DType type) {
  LoraSet plain;
  for (const auto& [name, lora] : set.layers) plain.layers.push_back({name, std::make_shared<Lora>(lora->a, scale(lora->b, lora->scale), 1.f)});
  return adapter_file(plain, architecture, base, type);
}

// Attaches the adapter; what of it is a LoRA, exactly. Throws where --to `to` cannot be.
LoraSet attach(CausalLm& model, const Gguf& file, float scale, const std::string& base, bool any_base, const std::string& to) {
  const std::string kind = file.string("adapter.type", "");
  LoraSet set;
  if (kind == "ia3") {
    require(to == "merged", file.path(), ": factors of IA3 change a matrix in all its rank: no LoRA or control vector is the same; export it --to merged");
    load_ia3(model, file, scale, base, any_base);
  } else if (kind == "kvt") {
    for (const auto& layer : load_kvt(model, file, scale, base, any_base).layers) {
      const auto lora = std::dynamic_pointer_cast<Lora>(layer.attached);
      require(lora != nullptr, file.path(), ": cores that depend on the input have no form without it");
      set.layers.push_back({layer.name, lora});
    }
  } else {
    set = load_adapter(model, file, scale, base, any_base);
  }
  for (const auto& layer : set.layers)
    require(layer.name != "output" || to != "lora" || !model.config().tied_output, file.path(),
            ": it adapts an output matrix that is tied to the embedding, which a LoRA file of llama.cpp cannot say; export it --to merged");
  return set;
}

void run(const Options& o) {
  require(o.model.adapters.size() == 1, "export: expected one --adapter, got ", o.model.adapters.size());
  require((o.to == "control-vector") == !o.data.empty(), "export: --data belongs to --to control-vector, which needs it");
  require(o.mean_rank == 0 || o.to == "lora", "export: --mean-rank belongs to --to lora");
  require(o.type.empty() || o.to != "control-vector", "export: a control vector is F32");
  std::optional<DType> type;
  if (!o.type.empty()) {
    const DTypeInfo* info = find_dtype(o.type.c_str());
    require(info != nullptr, "export: unknown type '", o.type, "'");
    type = info->type;
  }
  ModelOptions base_alone = o.model;
  base_alone.adapters.clear();
  const LoadedModel m = open_model(base_alone);
  const auto [path, scale] = split_scale(o.model.adapters[0]);
  const Gguf adapter = Gguf::open(path);
  const std::string base = fingerprint(m.gguf);
  LoraSet set = attach(*m.model, adapter, scale, base, o.model.any_base, o.to);

  if (o.mean_rank > 0) std::fprintf(stderr, "mean rank %g keeps %.1f %% of the energy\n", o.mean_rank, 100 * truncate(set, o.mean_rank));
  Gguf file;
  if (o.to == "lora") file = plain_lora(set, m.model->architecture(), base, type.value_or(DType::F32));
  else if (o.to == "merged") file = merged_model(m.gguf, *m.model, type), copy_classes(adapter, file);
  else file = control_vector(*m.model, set, read_examples(o.data, *m.tokenizer, o.length));
  file.write(o.out);
  int64_t bytes = 0;
  for (const Gguf::Entry& e : file.tensors()) bytes += e.tensor.bytes();
  std::fprintf(stderr, "wrote %s: %zu tensors, %lld kB\n", o.out.c_str(), file.tensors().size(), static_cast<long long>((bytes + 500) / 1000));
}

}  // namespace

void add_export(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("export", "write an adapter as LoRA, control vector or merged model for other programs");
  add_model_options(*c, o->model);
  c->add_option("--to", o->to, "lora (default; also llama.cpp's), control-vector (llama.cpp's) or merged")->check(CLI::IsMember({"lora", "control-vector", "merged"}));
  c->add_option("--type", o->type, "lora: F32 (default), F16, BF16 or Q8_0 (A alone: B becomes F16); merged: F32, F16, Q8_0, … (default: each matrix keeps its own)");
  c->add_option("--mean-rank", o->mean_rank, "lora: truncate to factors of this mean rank, of higher rank where there is more energy")->check(CLI::Range(1.0, 1e4));
  c->add_option("--data", o->data, "control-vector: text over whose tokens the adapter's effect is averaged");
  c->add_option("--length", o->length, "control-vector: tokens in one pass (default 256)")->check(CLI::PositiveNumber);
  c->add_option("-o,--out", o->out, "GGUF file to write")->required();
  c->footer("Examples:\n  kvt export -m model.gguf --adapter domain.gguf --to lora --type F16 -o domain-lora.gguf\n"
            "  kvt export -m model.gguf --adapter domain.gguf --to lora --mean-rank 4 --type Q8_0 -o small.gguf\n"
            "  kvt export -m model.gguf --adapter domain.gguf --to control-vector --data domain.txt -o domain-vector.gguf\n"
            "  kvt export -m model.gguf --adapter domain.gguf --to merged -o merged.gguf");
  c->callback([o] { run(*o); });
}

}  // namespace kvt
