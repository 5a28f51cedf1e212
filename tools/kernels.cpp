// kvt kernels: which variants of each kernel this build has for this CPU, and which of them run.
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ops/cpu.h"
#include "ops/kernels.h"
#include "ops/quant.h"
#include "tensor/parallel.h"
#include "tools/commands.h"

namespace kvt {

namespace {

using Json = nlohmann::ordered_json;

struct Options {
  bool json = false;
  int threads = 0;
};

std::string machine() {
  utsname name;
  return uname(&name) == 0 ? name.machine : "unknown";
}

std::vector<const KernelInfo*> slots_by_name() {
  load_backends();
  std::vector<const KernelInfo*> slots;
  for (const KernelInfo* k = KernelInfo::first; k; k = k->next) slots.push_back(k);
  std::sort(slots.begin(), slots.end(), [](const auto* a, const auto* b) { return std::string_view(a->name) < b->name; });
  return slots;
}

const char* activations_name() { return activations() == Activations::q8 ? "q8" : "f32"; }

void print_json(int threads) {
  Json slots = Json::array();
  for (const KernelInfo* k : slots_by_name()) {
    Json variants = Json::array();
    for (int v = 0; v < k->variants(); ++v) variants.push_back(isa_name(k->isa(v)));
    slots.push_back({{"name", k->name}, {"variants", variants}, {"chosen", isa_name(k->isa(k->chosen()))}});
  }
  const Json all = {{"machine", machine()}, {"cpu", cpu_features()}, {"threads", threads}, {"activations", activations_name()}, {"kernels", slots}};
  std::printf("%s\n", all.dump(1).c_str());
}

void print_text(int threads) {
  std::string features;
  for (const std::string_view f : cpu_features()) features += " " + std::string(f);
  std::printf("machine      %s\ncpu         %s\nthreads      %d\nactivations  %s\n\n%-20s %-10s variants\n", machine().c_str(), features.c_str(), threads,
              activations_name(), "kernel", "chosen");
  for (const KernelInfo* k : slots_by_name()) {
    std::printf("%-20s %-10s", k->name, isa_name(k->isa(k->chosen())));
    for (int v = 0; v < k->variants(); ++v) std::printf(" %s", isa_name(k->isa(v)));
    std::printf("\n");
  }
}

void run(const Options& o) {
  set_default_threads({.threads = o.threads});
  const int threads = ThreadPool::current().threads();
  if (o.json) print_json(threads);
  else print_text(threads);
}

}  // namespace

void add_kernels(CLI::App& app) {
  CLI::App* command = app.add_subcommand("kernels", "list the kernels, their variants on this CPU, and which of them run");
  const auto o = std::make_shared<Options>();
  command->add_flag("--json", o->json, "print JSON");
  command->add_option("-t,--threads", o->threads, "threads (default: one per core)")->check(CLI::Range(1, 1024));
  command->footer("Examples:\n"
                  "  kvt kernels\n"
                  "  KVT_KERNELS=reference,matmul=blocked kvt kernels\n"
                  "  KVT_ACTIVATIONS=f32 kvt kernels --json | jq '.kernels[] | select(.chosen == \"reference\") | .name'");
  command->callback([o] { run(*o); });
}

}  // namespace kvt
