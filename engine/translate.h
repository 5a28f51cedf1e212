// Translation: the target with the highest score, found greedily or by beam search.
//
//   score(Y) = Σ_t log p(y_t | y_<t, X) / lp(Y),   lp(Y) = ((5 + |Y|)/6)^α      (Wu et al. 2016; the end token counts in |Y|)
//
// Beam search keeps the `beam` best unfinished targets. Of the best continuations of all of them, those that end are set aside;
// a sentence is done when `beam` targets were, or at the greatest length. With one beam that is greedy decoding.
#pragma once
#include <functional>

#include "models/seq2seq.h"

namespace kvt {

struct TranslateOptions {
  int64_t beam = 1;
  float length_penalty = 0.6f;          // α; 0 compares sums
  int64_t most = 0;                     // tokens of a target, the end included; 0 = 2 · source + 10; the context bounds it in any case
  int64_t batch = 32;                   // sentences decoded at once, sorted by length
};

struct Translation {
  Ids ids;                              // without start and end
  double log_probability = 0;           // Σ log p, the end's included
  double score = 0;                     // the same over lp
  bool finished = false;                // it ended by itself
};

// One translation for each source. `start` begins a target and `end` ends it. `cancelled` (may be empty) is asked between steps;
// if it says so, the translations so far are returned and the others are empty.
std::vector<Translation> translate(const Seq2Seq& model, std::span<const Ids> sources, int32_t start, int32_t end, const TranslateOptions& options,
                                   const std::function<bool()>& cancelled = {});

}  // namespace kvt
