// Seconds of a language model's decoding and prefill, for tools/bench/peers.py, which has llama-bench do the same work in turns.
//
//   lm_bench MODEL.gguf THREADS      reads lines "decode N" and "prefill N" and prints the seconds that each takes
//
// As llama-bench does it: `decode N` reads N tokens one after the other into an empty context, with the scores of each; `prefill N`
// reads N at once, with the scores of the last. Tokens are drawn at random. The first pass of each kind warms up and is not printed.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <set>

#include "engine/generate.h"
#include "engine/load.h"
#include "tensor/error.h"
#include "tensor/parallel.h"
#include "tensor/random.h"

using namespace kvt;

int main(int argc, char** argv) try {
  require(argc == 3, "usage: lm_bench MODEL.gguf THREADS");
  set_default_threads({.threads = std::atoi(argv[2])});
  const Gguf gguf = Gguf::open(argv[1]);
  const auto model = load_model(gguf);
  arrange_weights(*model);
  constexpr int64_t most = 2048;
  Session session(*model, {.context = most});
  Rng rng(1);
  const auto seconds = [&](bool decode, int64_t n) {
    Ids ids(static_cast<size_t>(n));
    for (int32_t& id : ids) id = int32_t(rng.next() % uint64_t(model->config().vocabulary));
    session.truncate(0);
    const auto start = std::chrono::steady_clock::now();
    if (decode)
      for (const int32_t& id : ids) session.evaluate({&id, 1});
    else session.evaluate(ids);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  std::set<std::string> warm;
  int64_t n = 0;
  for (std::string what; std::cin >> what >> n;) {
    require(what == "decode" || what == "prefill", "lm_bench: '", what, "' is neither decode nor prefill");
    require(n >= 1 && n <= most, "lm_bench: ", n, " tokens; 1 to ", most, " fit the context");
    if (warm.insert(what).second) seconds(what == "decode", n);
    std::printf("%.9g\n", seconds(what == "decode", n));
    std::fflush(stdout);
  }
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
