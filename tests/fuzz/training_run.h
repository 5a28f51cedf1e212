// The run that the checkpoints among the seeds are of.
#pragma once
#include "engine/checkpoint.h"

namespace kvt::fuzz {

struct TrainingRun {
  TrainedSet trained = {{"a.lora_a", Tensor::filled({2, 4}, 1)}, {"a.lora_b", Tensor::filled({3, 2}, 2)}};
  RunIdentity identity{"0123456789abcdef", {{"batch", "4"}, {"lr", "0.001"}}};

  TrainState state(bool best) const {
    TrainState s;
    s.step = 7, s.position = {1, 2};
    for (const Trained& t : trained) {
      s.moments.push_back({Tensor::filled(t.tensor.shape(), 0.5f), Tensor::filled(t.tensor.shape(), 0.25f)});
      if (best) s.best.push_back(t.tensor);
    }
    if (best) s.evaluated = 6, s.best_step = 5, s.best_loss = 1.5, s.stale = 1;
    return s;
  }
};

}  // namespace kvt::fuzz
