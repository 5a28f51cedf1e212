// KVT's core at concept level, in rounds r = 1 … R. Each adds k columns to one low-rank adapter per layer, so that the result is a LoRA
// of rank k R and no weight of the base is ever rewritten:
//
//   extract   G_l = mean ∂L/∂W_l over the training data, at the weights of round r;   G_l ≈ U S Vᵀ to rank k       (engine/extract.h)
//   step      extracted   D_l = U (S/s_1) Vᵀ,  W_l ← W_l − η D_l;  one η for all layers, by a line search on validation loss
//             spectral    W_l ← W_l + s U diag(c) (S/s_1) Vᵀ,  c [k] trained from zero, s = 2
//             dense       W_l ← W_l + s U C Vᵀ,  C [k, k] trained from zero, s = 2
//             lora        W_l ← W_l + s B A,  A from Vᵀ, B from zero, both trained
//   refine    extracted: after the rounds, one of the form lora from random A, of a fixed number of steps
//
// What a line search has found on validation text it need not be kept from: with `learn_validation` η is the best for D_l of the training data on
// the validation data, and the step then taken is D_l of both, by their labels. Losses after it are of learned text, and better than on any other. A number
// of steps that is fixed asks nothing of validation text either: refining then learns both.
//
// With other bases than the gradient's the same rounds are other methods:
//
//   random A, lora               LoRA merged and restarted: in each round a new pair, the earlier ones kept (as ReLoRA, Lialin et al. 2023)
//   W_l ≈ U S Vᵀ, lora           LoRA that starts in the weight's leading directions
//   W_l ≈ U S Vᵀ, dense          LoRA-XS (Bałazy et al. 2024):  W_l + s U S C Vᵀ, one round
//
// A run ends when a round does not lower the validation loss any more. The extracted core has no learning rate, no optimizer and no
// random start. D_l divides by s_1 so that every matrix moves by the same greatest step.
#pragma once
#include "engine/compress.h"
#include "engine/extract.h"

namespace kvt {

enum class CoreForm { extracted, spectral, dense, lora };
const char* name(CoreForm core);
CoreForm core_form(const std::string& name);             // throws, listing the names there are

enum class Basis { gradient, weight, random };           // where U, S and V come from; the extracted core knows the gradient alone
Basis basis(const std::string& name);                    // "gradient-svd", "weight-svd", "random"; throws likewise

struct RoundsOptions {
  CoreForm core = CoreForm::extracted;
  Basis basis = Basis::gradient;
  float scale = 2;                   // s of trained cores
  int64_t k = 8;                     // directions a layer and round; 0 = automatic
  int64_t rounds = 8;                // at most
  float eta = 1.f / 32;              // where the first line search starts
  int64_t portion = 0;               // labels that a round extracts from, in turns through the data; 0 = all of the data
  bool learn_validation = false;     // extracted: see above
  int64_t refine = 0;                // extracted: steps of the last round; 0 = there is none
  int64_t refine_rank = 8;           // of its A and B
  double mean_rank = 0;              // of the result, 0 = as it comes: the rounds are cut (engine/compress.h) to what refining leaves, which makes up for it; if that
                                     // is less than 1, or there is no refining, cutting is the caller's affair, at the end
  bool cut_at_end() const { return mean_rank > 0 && !cut_before_refining(); }
  bool cut_before_refining() const { return refine > 0 && mean_rank >= double(refine_rank + 1); }
  ExtractOptions extract;            // its k is ignored, its seed is that of the first round
  TrainOptions train;                // of trained cores: steps of all rounds together; also the size of validation batches
  TrainedSet beside;                 // trained together with each round's core: a class head. The extracted core leaves it as it is
};

// k = 0: the first round extracts the leading 32 directions, takes the fewest that hold 90 % of the gradient's energy, and halves that
// as long as the round's validation loss does not rise by more than a hundredth of what the round gains.
constexpr int64_t automatic_k_most = 32;
constexpr double automatic_k_share = 0.9;

// All that rounds leave behind: stored and restored between two of them, a run goes on as if nothing had been.
struct RoundsState {
  int64_t k = 0;                     // 0 until the first round has chosen it
  LoraSet set;                       // in the layers' order; empty before the first round; α = 0: scale 1 whatever the rank
  std::vector<float> etas;           // of the rounds done (trained ones: 1)
  std::vector<double> losses;        // validation, in nats per label: of the base, then after each round
  std::vector<float> singular;       // s_1 … s_k of each layer, round after round; none when the sum of the rounds was cut
  double extractions = 0;            // passes for gradients, in labels seen by labels of the training data: validation data that are learned count
  int64_t evaluations = 0;           // validation passes
  bool finished = false;
  int64_t rounds() const { return int64_t(etas.size()); }
  double cut(double mean_rank) { return singular.clear(), truncate(set, mean_rank); }      // engine/compress.h
};

struct RoundReport {
  int64_t round;                     // from 1
  float eta;                         // 0: no step helped
  double training_loss;              // before the round; 0 without extraction, as is `energy`
  double loss, before;               // validation: at the step found, and before the round
  double energy;                     // share of the gradient's that the k directions hold, mean over layers
  int64_t k, rank, evaluations;      // rank of the result so far; validation passes of this round
  double seconds, seconds_left;      // left: if all rounds take place and take as long; refining reports its own
};
struct RoundsCallbacks {
  std::function<void(const ExtractProgress&)> extracting;
  std::function<void(float eta, double loss)> trial;       // one candidate of the line search
  TrainCallbacks training;                                 // of trained rounds; `save` is not called
  std::function<void(const RoundReport&)> round;
  std::function<void(const RoundsState&)> save;            // after each round
  std::function<bool()> cancelled;
};

// Runs rounds from `state` (a new one, or one restored with its adapters attached) until it is finished; the adapters are then attached
// to `layers`. False if cancelled: the round under way has left no trace.
bool run_rounds(const Task& data, const Task& validation, const std::vector<TargetLayer>& layers, const RoundsOptions& options,
                RoundsState& state, const RoundsCallbacks& callbacks);

// The η = start · 2^n with the least f(η), found by doubling or halving as long as that helps, |n| ≤ `most`; η = 0 with f(0) = `at_zero` if
// nothing does. Not-a-number counts as infinite. Asks `cancelled` before each evaluation and then returns what it has.
struct Step { float eta; double loss; };
Step line_search(const std::function<double(float)>& f, double at_zero, float start, int most = 8, const std::function<bool()>& cancelled = {});

// An adapter file (engine/adapter.h) with these keys beside a LoRA's:
//
//   kvt.core               string   "extracted", "spectral", "dense"         kvt.k  u32        kvt.rounds  u32
//   kvt.etas               f32[]    one a round                              kvt.losses  f64[]    RoundsState::losses
//   kvt.singular_values    f32[]    RoundsState::singular, if there are any
//   kvt.extraction_passes  f64      kvt.validation_passes  u32      kvt.finished  bool
Gguf rounds_file(const RoundsState& state, CoreForm core, const std::string& architecture, const std::string& base, DType type);
// Attaches the adapters of such a file, as it was written in F32, and returns the state. Throws an Error for a file of another base or of
// other layers than `layers`.
RoundsState read_rounds(Model& model, const Gguf& file, const std::vector<TargetLayer>& layers, const std::string& base);

}  // namespace kvt
