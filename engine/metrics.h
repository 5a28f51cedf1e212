// How well a language model predicts a text, and how well a classifier tells classes apart.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "models/causal_lm.h"

namespace kvt {

struct Perplexity {
  double nll = 0;                // Σ −log p over the predictions counted
  double nll_squares = 0;        // Σ (log p)²: for the standard error
  int64_t predictions = 0, chunks = 0;

  double mean() const;           // nats per token
  double value() const;          // e^mean
  double error() const;          // standard error of value()
};

struct PerplexityOptions {
  int64_t context = 512;         // tokens per chunk
  int64_t chunks = 0;            // how many chunks at most; 0 = all the text has
  int32_t bos = -1;              // replaces each chunk's first token; −1 = none
  bool whole = false;            // count all context − 1 predictions instead of the second half's
  int64_t batch = 0;             // tokens computed at once, behind those in a cache: few of them as decoding does; 0 = a chunk, without a cache
  DType cache = DType::F16;      // what the cache keeps
};

// llama-perplexity's protocol: the text is cut into chunks of `context` tokens, each read alone, and only the predictions of tokens
// context/2 + 1 … context − 1 count, so that each had at least half a context before it. on_chunk sees the running result.
Perplexity perplexity(const CausalLm& model, std::span<const int32_t> ids, const PerplexityOptions& options,
                      const std::function<bool(const Perplexity&)>& on_chunk);

// −log p of ids[t] given ids[0 … t−1], for t = first … n−1, in nats; 1 ≤ first < n. `batch` and `cache` as above.
std::vector<double> token_losses(const CausalLm& model, std::span<const int32_t> ids, int64_t first = 1, int64_t batch = 0, DType cache = DType::F16);

// Decisions of a classifier by class, for the F-measure (van Rijsbergen 1979):
//   F1 = 2 TP / (2 TP + FP + FN),   the harmonic mean of precision TP/(TP + FP) and recall TP/(TP + FN)
class ClassCounts {
 public:
  explicit ClassCounts(int64_t classes) : counts_(size_t(classes)) {}      // at least 1
  void add(int64_t decided, int64_t truth);                                // throws an Error for a class there is not
  double f1(int64_t c) const;                                              // NaN for a class that neither occurs nor was decided for
  double macro_f1() const;                                                 // the mean over all other classes

 private:
  struct Counts { int64_t hits = 0, decided = 0, occurs = 0; };
  std::vector<Counts> counts_;
};

// log Σ e^x, in double.
double log_sum_exp(std::span<const float> x);

}  // namespace kvt
