// What training takes of memory: tried, or estimated.
#include <algorithm>

#include "engine/train.h"

namespace kvt {

TrainingMemory try_memory(const Task& task, const TrainedSet& trained, const TrainOptions& options, bool validation) {
  TrainingMemory memory;
  for (const Trained& t : trained) {
    memory.trained += t.tensor.bytes();
    t.tensor.drop_grad();
  }
  memory.gradients = memory.trained;
  memory.moments = 2 * memory.trained;
  memory.best = validation ? memory.trained : 0;

  std::vector<int64_t> fullest;
  int64_t most_tokens = 0;
  BatchOrder order = task.order(options.batch, options.seed);
  for (int64_t i = 0; i < order.batches(); ++i) {
    for (const std::vector<int64_t>& part : in_passes(task, order.next(), options.pass_tokens)) {
      const Task::Extent e = task.extent(part);
      if (e.labels > 0 && e.tokens > most_tokens) most_tokens = e.tokens, fullest = part;
    }
  }
  require(!fullest.empty(), "train: the data has no token to learn");
  Rng random(options.seed);
  const int64_t before = Storage::use().now;
  Storage::reset_use();
  {
    Tape tape(options.precision);
    const Tensor loss = task.loss(fullest, {.random = &random, .recompute = options.recompute});
    memory.activations = Storage::use().now - before;
    tape.backward(loss);
  }
  memory.work = std::max<int64_t>(0, Storage::use().most - before - memory.activations - memory.gradients);
  for (const Trained& t : trained) t.tensor.drop_grad();
  return memory;
}

// What one token keeps alive for backward: of each block the two states that its norms read, F32; and what attention and the gate
// read and the former gives, in the run's precision. All else, gradients and what adapters add included, comes and goes within a block.
int64_t training_bytes(const LmConfig& c, int64_t trained_numbers, int64_t adapted, const TrainOptions& options, int64_t length, bool validation) {
  const int64_t operands = 2 * c.heads * c.head_size + 2 * c.kv_heads * c.head_size + 2 * c.hidden, number = sizeof(float);
  const int64_t block = 2 * c.channels * number + operands * (options.precision == Precision::bf16 ? number / 2 : number);
  const int64_t passing = number * (4 * c.channels + 2 * c.hidden + adapted / c.layers);
  const int64_t per_token = options.recompute ? c.layers * c.channels * number + block + passing : c.layers * block + passing;
  const int64_t score_chunk = 128 * c.vocabulary;
  const int64_t tokens = options.pass_tokens > 0 ? std::min(options.batch * length, std::max(options.pass_tokens, length)) : options.batch * length;
  return number * (trained_numbers * (validation ? 5 : 4) + score_chunk) + tokens * per_token;
}

}  // namespace kvt
