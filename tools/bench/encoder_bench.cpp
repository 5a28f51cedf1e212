// Seconds of a BERT's forward pass, for tools/bench/encoders.py, which has other engines do the same work in turns.
//
//   encoder_bench MODEL.gguf THREADS      reads lines "B S" and prints for each "SECONDS SUM": one pass over ids [B, S], and the sum
//                                         of the last states' magnitudes, by which engines are compared
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "engine/load_encoder.h"
#include "tensor/error.h"
#include "tensor/parallel.h"

using namespace kvt;

int main(int argc, char** argv) try {
  require(argc == 3, "usage: encoder_bench MODEL.gguf THREADS");
  set_default_threads({.threads = std::atoi(argv[2])});
  const Gguf gguf = Gguf::open(argv[1]);
  const auto bert = load_bert(gguf);
  arrange_weights(*bert);
  for (int64_t B = 0, S = 0; std::cin >> B >> S;) {
    require(B >= 1 && S >= 1 && S <= bert->config().context, "encoder_bench: ", B, " texts of ", S, " tokens");
    Ids ids(static_cast<size_t>(B * S));
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i * 7919 % size_t(bert->config().vocabulary));
    const std::vector<int32_t> lengths(static_cast<size_t>(B), int32_t(S));
    const auto start = std::chrono::steady_clock::now();
    const Tensor states = bert->hidden(ids, lengths, S);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    double sum = 0;
    for (const float x : states.values()) sum += std::fabs(double(x));
    std::printf("%.9g %.9g\n", seconds, sum);
    std::fflush(stdout);
  }
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
