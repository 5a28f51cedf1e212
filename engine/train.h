// Training: of a language model to predict the next token, of adapters on it, or of any Task.
//
//   for each step t:   L = Σ over the labels of `accumulate` batches of the task's loss / number of labels
//                      g = ∂L/∂w, clipped to the norm `clip`;   w ← AdamW(w, g, η(t))
//
// What is trained is a list of named tensors that the model reads (methods: engine/adapter.h for LoRA, all_weights() for the
// whole model). All that changes in training lies in TrainState: stored and restored between two steps (engine/checkpoint.h),
// training continues bit for bit.
#pragma once
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "engine/data.h"
#include "engine/optim.h"
#include "models/causal_lm.h"

namespace kvt {

struct Trained {
  std::string name;
  Tensor tensor;             // F32, in memory of its own
  bool decay = true;         // weight decay is for matrices; norms and biases go without
};
using TrainedSet = std::vector<Trained>;

// One parameter with float weights, copied out of the file's mapping as F32 and put in the model's place. Throws an Error naming it
// if it is quantized. all_weights: every parameter of a model that there is.
Trained trainable(const std::string& name, Parameter& p);
template <class Model>
TrainedSet all_weights(Model& model) {
  TrainedSet set;
  model.each_parameter([&](const std::string& name, Parameter& p) {
    if (p) set.push_back(trainable(name, p));
  });
  return set;
}

// Examples, and the loss that a model has on them: all that train() and evaluate() know of both.
class Task {
 public:
  virtual ~Task() = default;
  virtual int64_t size() const = 0;                                            // examples
  struct Extent { int64_t labels = 0, tokens = 0; };                           // labels: what the loss is the mean over
  virtual Extent extent(std::span<const int64_t> indices) const = 0;
  virtual BatchOrder order(int64_t batch, uint64_t seed) const { return BatchOrder(size(), batch, seed); }

  struct Pass {
    Rng* random = nullptr;             // of this batch alone, for dropout and augmentation; null in validation, which has neither
    bool recompute = false;
  };
  // Mean loss per label of the examples `indices`, in nats; not asked for batches without a label.
  virtual Tensor loss(std::span<const int64_t> indices, const Pass& pass) const = 0;
};

// Next-token prediction.
class CausalTask : public Task {
 public:
  CausalTask(const CausalLm& model, const Examples& data) : model_(model), data_(data) {}
  int64_t size() const override { return data_.size(); }
  Extent extent(std::span<const int64_t> indices) const override;
  Tensor loss(std::span<const int64_t> indices, const Pass& pass) const override;

 private:
  const CausalLm& model_;
  const Examples& data_;
};

const char* name(Precision precision);                     // "f32", "bf16"
Precision precision_named(const std::string& name);        // throws, listing the names there are

struct TrainOptions {
  int64_t steps = 0;                 // 0: as many as `epochs` take
  int64_t epochs = 1;
  int64_t batch = 4;                 // examples in one forward pass
  int64_t accumulate = 1;            // forward passes in one step; the gradient is that of their labels together
  int64_t pass_tokens = 0;           // tokens of one forward pass at most, 0 = any: a batch of more goes through in parts, whose gradients add up to its own
  Schedule::Kind schedule = Schedule::Kind::cosine;
  float lr = 2e-4f;
  int64_t warmup = 0;                // steps
  int64_t schedule_offset = 0, schedule_steps = 0;      // a run that is part of a longer one: steps before it, and steps of the whole; 0 = it is not
  float clip = 1.f;                  // largest gradient norm; 0 = any
  AdamW optimizer;
  uint64_t seed = 0;
  Precision precision = Precision::f32;      // of each step's forward and backward pass, and of validation (ops/precision.h)
  bool recompute = false;            // recompute activations in backward: less memory, about a third more time
  int64_t eval_every = 0;            // steps; validation data also counts before the first step and after the last
  int64_t patience = 0;              // stop after so many validations without a better loss; 0 = never
  int64_t save_every = 0;            // steps between calls of TrainCallbacks::save; 0 = at cancellation only

  // What decides the result, as text, for comparing a checkpoint's with these. save_every is not among them.
  std::map<std::string, std::string> describe() const;
};

struct TrainState {
  int64_t step = 0;                                   // steps done
  DataPosition position;                              // of the next batch
  std::vector<AdamW::Moments> moments;                // of each trained tensor
  int64_t evaluated = -1;                             // the step of the last validation
  double best_loss = std::numeric_limits<double>::infinity();
  int64_t best_step = -1;
  std::vector<Tensor> best;                           // the trained tensors at best_step; empty before
  int64_t stale = 0;                                  // validations since then
};

struct StepReport {
  int64_t step, steps;                                // step counts from 1
  int64_t epoch;
  double loss, lr, gradient_norm;                     // nats per token; the norm before clipping
  double tokens_per_second, seconds_left;             // since this call of train()
};
struct ValidationReport { int64_t step; double loss; bool best; };

struct TrainCallbacks {
  std::function<void(const StepReport&)> step;
  std::function<void(const ValidationReport&)> validation;
  std::function<void(const TrainState&)> save;
  std::function<bool()> cancelled;                    // asked between steps and between validation batches; within them tensor/cancel.h is
};

enum class TrainEnd { finished, stopped_early, cancelled };

// A batch in parts of about as many examples each, none of more than `most` tokens if an example is not; 0 = any.
std::vector<std::vector<int64_t>> in_passes(const Task& task, std::vector<int64_t> batch, int64_t most);
int64_t train_steps(const TrainOptions& options, int64_t examples);           // how many steps training takes
inline int64_t train_steps(const TrainOptions& options, const Examples& data) { return train_steps(options, data.size()); }

// Trains from `state` (a new one, or a checkpoint's) on. With validation data (not null) the best weights seen, those before the
// first step included, are in place at the end. A cancelled run is saved by TrainCallbacks::save, if there is one.
// Throws an Error naming step and learning rate when the loss or the gradient stops being finite.
TrainEnd train(const Task& task, const TrainedSet& trained, const TrainOptions& options, const Task* validation, TrainState& state,
               const TrainCallbacks& callbacks);
TrainEnd train(const CausalLm& model, const TrainedSet& trained, const TrainOptions& options, const Examples& data,
               const Examples* validation, TrainState& state, const TrainCallbacks& callbacks);

// Mean loss per label in nats, computed in `precision`; NaN if cancelled() says so on the way.
double evaluate(const Task& task, int64_t batch, const std::function<bool()>& cancelled = {}, Precision precision = Precision::f32);
double evaluate(const CausalLm& model, const Examples& data, int64_t batch, const std::function<bool()>& cancelled = {});

// What training needs, in bytes, beside the weights that stay as they are. Found by trying it: forward and backward on the batch of most tokens,
// after which nothing is changed. Work: what comes and goes beside activations, gradients of theirs included, at the fullest moment.
struct TrainingMemory {
  int64_t trained = 0, gradients = 0, moments = 0, best = 0, activations = 0, work = 0;
  int64_t total() const { return trained + gradients + moments + best + activations + work; }
};
TrainingMemory try_memory(const Task& task, const TrainedSet& trained, const TrainOptions& options, bool validation);

// An estimate of the same without trying, for language models. Bytes that training takes beside the weights of the base: trained numbers, gradients, moments, best weights and activations.
// `adapted` = Σ of the outputs of all layers that bear an adapter, which has results of the same size.
int64_t training_bytes(const LmConfig& config, int64_t trained_numbers, int64_t adapted, const TrainOptions& options, int64_t length, bool validation);

}  // namespace kvt
