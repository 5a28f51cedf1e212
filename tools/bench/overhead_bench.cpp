// What adapters cost in decoding and in reading a prompt, beside the base alone, in one process and in turns:
//
//   overhead_bench MODEL.gguf [THREADS = 2] [RUNS = 12]
//
//   LoRA r = 8      y + s B (A x) on all layers of the blocks: also the constant core of KVT, and its concept level
//   merged          the same adapters in the weights, in their types
//   word level      y + s B C_i A x with a core for each token (models/kvt.h), all three levels
//   fused           λ: base and LoRA as one (models/fusion.h)
//   fused, upper    the same with adapters in the upper 7/12 of the blocks alone, as AdapterDrop has them
//   fused, r = 5    the same with adapters of rank 5, the mean rank that KVT stores in the README's experiments
//
// Weights are arranged for decoding, as `kvt run` has them. Adapters are random: what they compute costs the same. The first run warms up; percentages are of each run's own base: the median, and the order
// statistics between which it lies with 95 %.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "engine/adapter.h"
#include "engine/generate.h"
#include "engine/kvt_adapter.h"
#include "engine/load.h"
#include "models/fusion.h"
#include "tensor/parallel.h"

using namespace kvt;

namespace {

constexpr int64_t prompt = 128, text = 64;

std::unique_ptr<CausalLm> with_lora(const Gguf& gguf, bool freeze, int64_t first_layer = 0, int64_t rank = 8) {
  auto model = load_model(gguf);
  Rng rng(1);
  std::vector<LowRankAdapter*> adapters;
  for (const auto& [name, lora] : attach_lora(*model, {.rank = rank, .alpha = 16, .targets = {"all"}, .first_layer = first_layer, .last_layer = -1, .seed = 1}).layers) {
    for (float& x : lora->b.values()) x = 1e-3f * rng.normal();
    adapters.push_back(lora.get());
  }
  if (freeze) kvt::freeze(adapters), arrange_weights(*model);
  return model;
}

std::unique_ptr<CausalLm> arranged(const Gguf& gguf) {
  auto model = load_model(gguf);
  arrange_weights(*model);
  return model;
}

std::unique_ptr<CausalLm> with_words(const Gguf& gguf) {
  std::shared_ptr<CausalLm> model = arranged(gguf);
  const KvtSet set = attach_kvt(*model, {});
  Rng rng(1);
  std::vector<LowRankAdapter*> adapters;
  for (const auto& layer : set.layers) {
    for (float& x : layer.core->b.values()) x = 1e-3f * rng.normal();
    adapters.push_back(layer.core.get());
  }
  freeze(adapters);
  return std::make_unique<KvtLm>(model, set.kvt);
}

double seconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Contender {
  const char* name;
  std::unique_ptr<CausalLm> model;
  std::vector<double> decode = {}, read = {};       // seconds of each run
};

void measure(Contender& v) {
  Session session(*v.model, {.context = prompt + text});
  std::vector<int32_t> ids(prompt);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(1000 + i * 7919 % 40000);
  v.read.push_back(seconds([&] { session.evaluate(ids); }));
  v.decode.push_back(seconds([&] {
    for (int64_t i = 0; i < text; ++i) session.evaluate(std::span(ids).subspan(size_t(i), 1));
  }));
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return (x[(x.size() - 1) / 2] + x[x.size() / 2]) / 2;
}

// The median lies between x_(j) and x_(n + 1 − j) but with probability 2 P(Bin(n, ½) < j).
std::string beside(const std::vector<double>& x, const std::vector<double>& base) {
  std::vector<double> percent;
  for (size_t i = 0; i < x.size(); ++i) percent.push_back(100 * (x[i] / base[i] - 1));
  std::sort(percent.begin(), percent.end());
  const size_t n = percent.size();
  double term = std::pow(0.5, double(n)), below = 0;
  size_t j = 0;
  for (; j + 1 < (n + 1) / 2 && 2 * (below + term) <= 0.05; ++j) below += term, term *= double(n - j) / double(j + 1);
  char text[60];
  std::snprintf(text, sizeof text, "%+.1f (%+.1f … %+.1f)", median(percent), percent[j ? j - 1 : 0], percent[n - (j ? j : 1)]);
  return text;
}

}  // namespace

int main(int argc, char** argv) try {
  require(argc >= 2 && argc <= 4, "usage: overhead_bench MODEL.gguf [THREADS] [RUNS]");
  const int threads = argc > 2 ? std::atoi(argv[2]) : 2, runs = argc > 3 ? std::atoi(argv[3]) : 12;
  require(threads >= 1 && runs >= 2, "overhead_bench: ", threads, " threads, ", runs, " runs");
  set_default_threads({.threads = threads});
  const Gguf gguf = Gguf::open(argv[1], Gguf::Access::map);
  Gguf merged_file;
  {
    const auto model = with_lora(gguf, false);
    merged_file = merged_model(gguf, *model, std::nullopt);
  }
  std::vector<Contender> contenders;
  contenders.push_back({"base", arranged(gguf)});
  contenders.push_back({"LoRA r = 8", with_lora(gguf, true)});
  contenders.push_back({"merged", arranged(merged_file)});
  contenders.push_back({"word level", with_words(gguf)});
  contenders.push_back({"fused", std::make_unique<Fused>(with_lora(gguf, true), Fusion{})});
  const int64_t blocks = contenders[0].model->layers();
  contenders.push_back({"fused, upper", std::make_unique<Fused>(with_lora(gguf, true, blocks * 5 / 12), Fusion{})});
  contenders.push_back({"fused, r = 5", std::make_unique<Fused>(with_lora(gguf, true, 0, 5), Fusion{})});
  for (int run = 0; run <= runs; ++run)
    for (Contender& v : contenders) {
      if (run == 1) v.decode.clear(), v.read.clear();
      measure(v);
    }
  std::printf("%s, %d threads, %d runs: over the base alone, %%\n%-14s %-43s %s\n", argv[1], threads, runs, "", "decoding 64 tokens", "a prompt of 128 tokens");
  for (const Contender& v : contenders) {
    const double decode = median(v.decode), read = median(v.read);
    std::printf("%-14s %8.1f tokens/s %-24s %8.1f tokens/s %s\n", v.name, double(text) / decode, &v == &contenders[0] ? "" : beside(v.decode, contenders[0].decode).c_str(),
                double(prompt) / read, &v == &contenders[0] ? "" : beside(v.read, contenders[0].read).c_str());
  }
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
