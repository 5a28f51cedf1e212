// How well a language model predicts a text.
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
};

// llama-perplexity's protocol: the text is cut into chunks of `context` tokens, each read alone, and only the predictions of tokens
// context/2 + 1 … context − 1 count, so that each had at least half a context before it. on_chunk sees the running result.
Perplexity perplexity(const CausalLm& model, std::span<const int32_t> ids, const PerplexityOptions& options,
                      const std::function<bool(const Perplexity&)>& on_chunk);

// −log p of ids[t] given ids[0 … t−1], for t = first … n−1, in nats; 1 ≤ first < n.
std::vector<double> token_losses(const CausalLm& model, std::span<const int32_t> ids, int64_t first = 1);

// log Σ e^x, in double.
double log_sum_exp(std::span<const float> x);

}  // namespace kvt
