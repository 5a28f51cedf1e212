// From scores to the next token.
#pragma once
#include <span>
#include <vector>

#include "tensor/random.h"

namespace kvt {

struct SamplerOptions {
  float temperature = 0.8f;       // 0 = greedy: always the highest score
  int top_k = 40;                 // keep the k most likely; 0 = all
  float top_p = 0.95f;            // keep the fewest most likely tokens that hold this much probability; 1 = all
  float min_p = 0.05f;            // drop tokens less likely than this share of the most likely one's probability; 0 = none
  float repeat_penalty = 1.f;     // divides positive (multiplies negative) scores of recent tokens (Keskar et al. 2019); 1 = off
  int repeat_last = 64;           // how many tokens count as recent
  uint64_t seed = 0;              // the same seed gives the same text
};

// Penalty, then top-k, top-p, min-p, then temperature, then one draw. The filters see the probabilities at temperature 1.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);     // throws for values out of range
  // `recent` is the whole sequence so far, newest last. Ties go to the lower id. Throws if no score is finite.
  int32_t operator()(std::span<const float> logits, std::span<const int32_t> recent);

 private:
  struct Candidate { float logit; int32_t id; };
  SamplerOptions options_;
  Rng rng_;
  std::vector<Candidate> candidates_;
  std::vector<int32_t> seen_;           // recent tokens, in order
};

}  // namespace kvt
