// kvt tune: measures sizes of blocks and tiles on this machine and stores the best as its profile.
#include <time.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/tune.h"
#include "engine/tuning.h"
#include "ops/cpu.h"
#include "ops/kernels.h"
#include "ops/ops.h"
#include "ops/quant.h"
#include "tensor/parallel.h"
#include "tools/commands.h"
#include "tools/common.h"

namespace kvt {

namespace {

struct Options {
  std::string profile;
  int threads = 1, turns = 5, most = 120;
  bool json = false, dry_run = false;
};

// Of one thread the processor's time, so that other work on the machine counts little; of several the clock's.
double seconds(const std::function<void()>& work) {
  const clockid_t kind = ThreadPool::current().threads() == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
  const auto now = [kind] {
    timespec t;
    clock_gettime(kind, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
  };
  const double start = now();
  work();
  return now() - start;
}

// Shapes of BERT-base: from a sentence to a long text
TuningTask attention_task() {
  struct Shape { Tensor q, k, v; int64_t times; };
  std::vector<Shape> shapes;
  Rng rng(1);
  for (const int64_t S : {128, 512, 1024})
    shapes.push_back({randn({1, S, 12, 64}, rng), randn({1, S, 12, 64}, rng), randn({1, S, 12, 64}, rng), std::max<int64_t>(1, (512 * 512) / (S * S))});
  return {"attention", {&tuning::query_block, &tuning::key_block, &tuning::panel_queries, &tuning::gather_panels}, [shapes] {
            return seconds([&] {
              for (const Shape& s : shapes)
                for (int64_t i = 0; i < s.times; ++i) attention(s.q, s.k, s.v, {});
            });
          }};
}

// The caches of 8 layers in turn, which come from memory or far caches
TuningTask decoding_task() {
  Rng rng(2);
  const Tensor q = randn({1, 1, 9, 64}, rng), cache = pack(randn({1, 4096, 3, 64}, rng), DType::F16);
  std::vector<Tensor> layers;
  for (int i = 0; i < 16; ++i) layers.push_back(cache.clone());
  AttentionOptions causal;
  causal.causal = true;
  return {"decoding", {&tuning::few_keys}, [=] {
            return seconds([&] {
              for (size_t i = 0; i < layers.size(); i += 2) attention(q, layers[i], layers[i + 1], causal);
            });
          }};
}

// Products of BERT-base and of a small model's training: linear layers of a sentence and of a long text, and small ones
TuningTask matmul_task() {
  struct Shape { Tensor x, w; int64_t times; };
  std::vector<Shape> shapes;
  Rng rng(3);
  for (const auto& [m, n, k, times] : std::initializer_list<std::array<int64_t, 4>>{{512, 768, 768, 1}, {128, 3072, 768, 1}, {128, 768, 3072, 1}, {512, 576, 64, 4}, {48, 96, 64, 40}})
    shapes.push_back({randn({m, k}, rng), randn({n, k}, rng), times});
  std::vector<Tunable*> tunables{&tuning::matmul_rows, &tuning::matmul_cols};
  if (kernel::matmul.isa(kernel::matmul.chosen()) == Isa::blas) tunables.push_back(&tuning::blas_products);
  return {"products", tunables, [shapes] {
            return seconds([&] {
              for (const Shape& s : shapes)
                for (int64_t i = 0; i < s.times; ++i) linear(s.x, s.w);
            });
          }};
}

void run(const Options& o) {
  set_default_threads({.threads = o.threads});
  const std::string path = o.profile.empty() ? tuning_path() : o.profile;
  require(o.dry_run || !path.empty(), "kvt tune: no place for a profile (KVT_TUNING=off, or no home); name one with --profile");
  for (Tunable* t = Tunable::first; t; t = t->next) t->reset();      // what an older profile said is no start
  TuneOptions options;
  options.turns = o.turns, options.most = o.most, options.stop = interrupted;
  options.progress = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  nlohmann::ordered_json tasks = nlohmann::ordered_json::array();
  for (const TuningTask& task : {attention_task(), decoding_task(), matmul_task()}) {
    const Tuned tuned = tune(task, options);
    nlohmann::ordered_json values;
    for (const Tunable* t : task.tunables) {
      values[t->name] = {{"default", t->standard()}, {"value", (*t)()}};
      if (!o.json) std::printf("%-24s %6lld  (default %lld)  %s\n", t->name, static_cast<long long>((*t)()), static_cast<long long>(t->standard()), t->meaning);
    }
    if (!o.json) std::printf("%s: %.1f %% faster than with the defaults, of %d candidates\n", task.name.c_str(), 100 * tuned.gain, tuned.candidates);
    tasks.push_back({{"task", task.name}, {"gain", tuned.gain}, {"candidates", tuned.candidates}, {"tunables", values}});
  }
  if (!o.dry_run && !interrupted()) save_tuning(path, KVT_VERSION);
  if (o.json) std::printf("%s\n", nlohmann::ordered_json{{"cpu", cpu_name()}, {"profile", o.dry_run ? "" : path}, {"tasks", tasks}}.dump(1).c_str());
  else if (!o.dry_run && !interrupted()) std::printf("Stored in %s; later runs on this machine read it (KVT_TUNING=off: not).\n", path.c_str());
  if (interrupted()) throw Interrupted();
}

}  // namespace

void add_tune(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tune", "measure sizes of blocks and tiles on this machine, and store the best for later runs");
  const auto o = std::make_shared<Options>();
  command->add_option("--profile", o->profile, "where to store them (default: KVT_TUNING, else kvt/tuning.json in XDG_CACHE_HOME or ~/.cache)");
  command->add_option("-t,--threads", o->threads, "threads")->check(CLI::Range(1, 1024))->capture_default_str();
  command->add_option("--turns", o->turns, "runs of each candidate, in turns with the best so far")->check(CLI::Range(1, 1000))->capture_default_str();
  command->add_option("--candidates", o->most, "the most that are tried for one kind of work")->check(CLI::Range(1, 100000))->capture_default_str();
  command->add_flag("--dry-run", o->dry_run, "measure, store nothing");
  command->add_flag("--json", o->json, "print JSON");
  command->footer("A profile holds for the same processor, version and kernels; any other is ignored with a message.\n"
                  "Examples:\n"
                  "  kvt tune\n"
                  "  kvt tune --profile here.json && KVT_TUNING=here.json kvt run -m model.gguf -p \"The sea\"\n"
                  "  KVT_KERNELS=avx2 kvt tune --dry-run --json");
  command->callback([o] { run(*o); });
}

}  // namespace kvt
