// Adapting a language model to examples, in one call: the methods that leave a small file beside any base, with checkpoints.
//
//   lora, adapterdrop, ia3, probe      one training run (engine/train.h) of what engine/adapter.h and ia3.h attach
//   kvt, lora-xs                       rounds (engine/rounds.h)
#pragma once
#include <optional>

#include "engine/rounds.h"

namespace kvt {

struct AdaptSettings {
  std::string method = "kvt", core = "extracted";          // core: of kvt
  std::vector<std::string> targets = {"all"};
  int64_t first_layer = -1;                                // blocks below stay as they are; −1 = as the method says
  int64_t k = 8, rounds = 8, rank = 8;
  float alpha = 16, eta = 1.f / 32;
  int64_t portion = 0, refine = 0;                         // of kvt, as in RoundsOptions (engine/rounds.h); refining is of rank `rank`
  bool learn_validation = false;
  double mean_rank = 0;
  TrainOptions train;                                      // lr 0: the method's own
  int64_t length = 256;                                    // of the examples
  std::string checkpoint;                                  // written on the way, removed at the end; "" = none
  bool resume = false;                                     // go on from it, if it is there

  bool in_rounds() const { return method == "kvt" || method == "lora-xs"; }
  // Of trained numbers, gradients, moments and activations, beside the base.
  int64_t bytes(CausalLm& model, bool validation) const;
};

struct AdaptCallbacks {
  std::function<void(const StepReport&)> step;
  std::function<void(const ValidationReport&)> validation;
  std::function<void(const ExtractProgress&)> extracting;
  std::function<void(float eta, double loss)> trial;       // of a round's line search
  std::function<void(const RoundReport&)> round;
  std::function<bool()> cancelled;                         // asked between steps; amid them tensor/cancel.h is
};

// Puts adapters on `model`, whose fingerprint is `base`, and returns their file; none if cancelled, with the checkpoint written. Rounds need
// validation data. Throws an Error for a checkpoint of another run (Trouble::mismatch), naming each difference, and when rounds find no step
// that lowers the validation loss.
std::optional<Gguf> adapt(CausalLm& model, const std::string& base, const Examples& data, const Examples* validation, const AdaptSettings& settings,
                          const AdaptCallbacks& callbacks);

}  // namespace kvt
