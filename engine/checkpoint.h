// A training run stored between two steps, in one GGUF file that is replaced as a whole or not at all.
//
//   general.type                 "checkpoint"
//   kvt.checkpoint.version       u32   1
//   kvt.checkpoint.base          string   fingerprint of the base model (engine/fingerprint.h)
//   kvt.checkpoint.option_names, .option_values   strings: all that decides the result, data and method included
//   kvt.checkpoint.step, .epoch, .index           i64   steps done, and the position in the data. The order of an epoch depends on
//                                the seed (an option) and the epoch alone: there is no other random state
//   kvt.checkpoint.evaluated, .best_step, .stale  i64;  .best_loss f64      validation and early stopping
//   kvt.checkpoint.checksum      u64   over everything above and the tensors
//   tensors, all F32:            <name>, <name>.m, <name>.v (AdamW's moments), <name>.best (if there is a best)
//
// A run that is killed and resumed from here ends with the same bytes as one that was not, given the same program, kernels and
// number of threads.
#pragma once
#include "engine/gguf.h"
#include "engine/train.h"

namespace kvt {

// What a run is, beside its state; both must agree for it to continue.
struct RunIdentity {
  std::string base;                                  // fingerprint
  std::map<std::string, std::string> options;        // TrainOptions::describe(), method, data, …
};

// The keys .base, .option_names and .option_values, set and compared; the latter throws an Error naming each difference.
void set_identity(Gguf& file, const RunIdentity& run);
void require_identity(const Gguf& file, const RunIdentity& run);

void write_checkpoint(const std::string& path, const TrainState& state, const TrainedSet& trained, const RunIdentity& run);
// Fills `state` and the trained tensors. Throws an Error for a damaged file and for one of another run, naming each difference;
// neither state nor tensors have changed then.
void read_checkpoint(const std::string& path, TrainState& state, const TrainedSet& trained, const RunIdentity& run);
void read_checkpoint(const Gguf& file, TrainState& state, const TrainedSet& trained, const RunIdentity& run);
uint64_t checkpoint_checksum(const Gguf& file);        // kvt.checkpoint.checksum, computed anew

}  // namespace kvt
