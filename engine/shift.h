// Knowledge in distributions: what tuning changed in a model's predictions, or what a text would change.
//
//   shift at a position    Δp = p_tuned − p_base ∈ R^V,   δ = log p_tuned − log p_base
//   knowledge direction    u = W_Uᵀ Δp ∈ R^C = −∇_h KL(p_tuned ‖ p_base) at the base's final hidden state h, W_U [V, C] the output
//                          matrix: the steepest way for the base to move towards the tuned model
//   without a tuned model  the text's own next token takes the place of p_tuned (one-hot), and u = −∇_h of the cross-entropy
//
// A tuned model often still prefers the token that its base preferred while another has become likelier: hence distributions, not
// choices. Neighbours in print: proxy-tuning (Liu et al. 2024) and DExperts (Liu et al. 2021), which add δ to a model's scores.
#pragma once
#include <functional>

#include "engine/data.h"
#include "engine/kmeans.h"
#include "models/causal_lm.h"

namespace kvt {

// Where a prediction is made: behind token t of an example.
struct Place { int64_t example = -1, t = -1; };

// The position at which a token's probability changes most in one direction.
struct Extreme {
  float change = 0, log_change = 0;        // Δp and δ there; δ = −∞ where a one-hot target gives the token nothing
  Place place;
};

struct TokenChange { int32_t token; float change; };

struct Shift {
  int64_t positions = 0;
  double divergence = 0;                   // mean KL(p_tuned ‖ p_base) in nats; against the text: the cross-entropy
  double same_choice = 0;                  // share of positions whose likeliest token stays the same
  std::vector<double> before, after;       // [V] mean probability of each token
  std::vector<Extreme> rise, fall;         // [V]
  Tensor directions;                       // u [positions, C]
  std::vector<Place> places;               // [positions]
  std::vector<std::vector<TokenChange>> changes;      // [positions], the largest |Δp| first, as many as were asked for

  double change(int32_t token) const { return after[size_t(token)] - before[size_t(token)]; }
};

struct ShiftOptions {
  int64_t positions = 20000;               // at most; evenly spread over the text beyond that
  int64_t kept = 32;                       // of Shift::changes, at each position
};

// `tuned` null: against the text. Both models must have the same vocabulary. Throws an Error otherwise, and for a text without labels.
// `more` is asked after each example and may end the work, which then covers the examples so far.
Shift measure_shift(const CausalLm& base, const CausalLm* tuned, const Examples& text, const ShiftOptions& options,
                    const std::function<bool(int64_t done)>& more = {});

// Concepts: clusters of the directions, and how each token's probability changes within them on average.
struct Concept {
  int64_t positions = 0;
  std::vector<TokenChange> risen, fallen;  // mean Δp over its positions, from Shift::changes, the largest first
  Place example;                           // the position nearest to its centre
};
struct Concepts {
  Clusters clusters;
  std::vector<Concept> each;
};
Concepts find_concepts(const Shift& shift, int64_t count, uint64_t seed);

}  // namespace kvt
