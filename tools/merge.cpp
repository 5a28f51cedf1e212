// kvt merge: a model with LoRA adapters merged into its weights,  W + Σ scale · (α/r) B A.
#include <cstdio>

#include "engine/adapter.h"
#include "tools/commands.h"
#include "tools/common.h"

namespace kvt {

namespace {

struct Options {
  ModelOptions model;
  std::string out, type = "same";
};

void run(const Options& o) {
  require(!o.model.adapters.empty() || o.type != "same", "merge: nothing to do; name an --adapter or a --type");
  std::optional<DType> type;
  if (o.type != "same") {
    const DTypeInfo* info = find_dtype(o.type.c_str());
    require(info != nullptr, "merge: unknown type '", o.type, "'");
    type = info->type;
  }
  const LoadedModel m = open_model(o.model, false);
  const Gguf merged = merged_model(m.gguf, *m.model, type);
  merged.write(o.out);
  int64_t bytes = 0;
  for (const Gguf::Entry& e : merged.tensors()) bytes += e.tensor.bytes();
  std::fprintf(stderr, "wrote %s: %zu tensors, %lld MB\n", o.out.c_str(), merged.tensors().size(), static_cast<long long>((bytes + 500000) / 1000000));
}

}  // namespace

void add_merge(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("merge", "merge LoRA adapters into a model's weights");
  add_model_options(*c, o->model);
  c->add_option("-o,--out", o->out, "GGUF file to write")->required();
  c->add_option("--type", o->type, "element type of all matrices: F32, F16, BF16, Q8_0, …; same (default) keeps each its own");
  c->footer("Examples:\n  kvt merge -m model.gguf --adapter domain.gguf -o merged.gguf\n"
            "  kvt merge -m model.gguf --adapter a.gguf:0.5 --adapter b.gguf:0.5 -o merged.gguf --type Q8_0");
  c->callback([o] { run(*o); });
}

}  // namespace kvt
