#include "engine/train.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <numeric>

#include "engine/fingerprint.h"
#include "ops/quant.h"

namespace kvt {

static Tensor owned(const Shape& shape) {
  return Tensor(shape, DType::F32, Storage::allocate_owned(size_t(byte_size(DType::F32, shape.numel()))));
}

Trained trainable(const std::string& name, Parameter& p) {
  require(is_float(p.tensor.dtype()), "train: '", name, "' is ", p.tensor.dtype(), "; only float weights (F32, F16, BF16) can be trained whole");
  const Tensor copy = owned(p.tensor.shape());
  unpack(copy.data(), p.tensor.dtype(), p.tensor.raw(), p.tensor.size());
  p.tensor.storage().leave_memory();                     // of a mapped file: nobody reads these pages now
  copy.want_grad();
  p.tensor = copy;
  return {name, copy, copy.rank() >= 2};
}

Task::Extent CausalTask::extent(std::span<const int64_t> indices) const {
  Extent e;
  int64_t longest = 0;
  for (int64_t i : indices) {
    const Ids& labels = data_[i].labels;
    e.labels += int64_t(labels.size()) - std::count(labels.begin(), labels.end(), ignored_label);
    longest = std::max(longest, int64_t(labels.size()));
  }
  e.tokens = longest * int64_t(indices.size());
  return e;
}

Tensor CausalTask::loss(std::span<const int64_t> indices, const Pass& pass) const {
  const Batch b = data_.batch(indices);
  return model_.loss(model_.hidden(b.tokens, b.B, b.T, {.cache = nullptr, .recompute = pass.recompute}), b.labels);
}

const char* name(Precision precision) { return precision == Precision::bf16 ? "bf16" : "f32"; }

Precision precision_named(const std::string& name) {
  if (name == "bf16") return Precision::bf16;
  require(name == "f32", "train: no precision '", name, "'; there are f32 and bf16");
  return Precision::f32;
}

std::map<std::string, std::string> TrainOptions::describe() const {
  const auto real = [](float x) {          // in the C locale's form, whatever the host's
    char text[32];
    return std::string(text, std::to_chars(text, text + sizeof text, x).ptr);
  };
  return {{"steps", std::to_string(steps)}, {"epochs", std::to_string(epochs)}, {"batch", std::to_string(batch)},
          {"accumulate", std::to_string(accumulate)}, {"pass-tokens", std::to_string(pass_tokens)}, {"schedule", name(schedule)}, {"lr", real(lr)}, {"warmup", std::to_string(warmup)},
          {"clip", real(clip)}, {"beta1", real(optimizer.beta1)}, {"beta2", real(optimizer.beta2)}, {"eps", real(optimizer.eps)},
          {"weight-decay", real(optimizer.weight_decay)}, {"seed", std::to_string(seed)}, {"precision", name(precision)}, {"recompute", recompute ? "yes" : "no"},
          {"eval-every", std::to_string(eval_every)}, {"patience", std::to_string(patience)}};
}

int64_t train_steps(const TrainOptions& options, int64_t examples) {
  if (options.steps > 0) return options.steps;
  require(options.batch >= 1, "train: batch size ", options.batch);
  const int64_t batches = (examples + options.batch - 1) / options.batch * options.epochs;
  return (batches + options.accumulate - 1) / options.accumulate;
}

double evaluate(const Task& task, int64_t batch, const std::function<bool()>& cancelled, Precision precision) {
  const Tape in(precision);          // for its precision alone
  const Tape::Pause pause;
  double total = 0;
  int64_t labels = 0;
  std::vector<int64_t> indices;
  for (int64_t begin = 0; begin < task.size(); begin += batch) {
    if (cancelled && cancelled()) return std::numeric_limits<double>::quiet_NaN();
    indices.resize(size_t(std::min(batch, task.size() - begin)));
    std::iota(indices.begin(), indices.end(), begin);
    const int64_t n = task.extent(indices).labels;
    if (n > 0) total += double(task.loss(indices, {}).item()) * double(n);
    labels += n;
  }
  return total / double(labels);
}

double evaluate(const CausalLm& model, const Examples& data, int64_t batch, const std::function<bool()>& cancelled) {
  return evaluate(CausalTask(model, data), batch, cancelled);
}

std::vector<std::vector<int64_t>> in_passes(const Task& task, std::vector<int64_t> batch, int64_t most) {
  const auto n = int64_t(batch.size());
  const int64_t tokens = most > 0 ? task.extent(batch).tokens : 0, parts = most > 0 ? std::clamp<int64_t>((tokens + most - 1) / most, 1, n) : 1;
  if (parts == 1) return {std::move(batch)};
  std::vector<std::vector<int64_t>> all;
  for (int64_t i = 0; i < parts; ++i) all.emplace_back(batch.begin() + i * n / parts, batch.begin() + (i + 1) * n / parts);
  return all;
}

namespace {

class Run {
 public:
  Run(const Task& task, const TrainedSet& trained, const TrainOptions& options, const Task* validation, TrainState& state,
      const TrainCallbacks& callbacks)
      : task_(task), options_(options), validation_(validation), state_(state), callbacks_(callbacks), trained_(trained),
        order_(task.order(options.batch, options.seed)),
        steps_(train_steps(options, task.size())),
        schedule_{options.schedule, options.lr, options.warmup, options.schedule_steps > 0 ? options.schedule_steps : steps_}, began_(Clock::now()) {
    require(!trained.empty(), "train: nothing to train");
    require(options.accumulate >= 1, "train: accumulate ", options.accumulate, ", expected at least 1");
    require(options.epochs >= 1 && options.steps >= 0, "train: ", options.epochs, " epochs, ", options.steps, " steps");
    require(options.lr > 0 && std::isfinite(options.lr), "train: learning rate ", options.lr);
    require(has_labels(task) && (!validation || has_labels(*validation)), "train: the data has no token to learn");
    for (const Trained& t : trained) {
      weights_.push_back(t.tensor);
      t.tensor.drop_grad();
    }
    if (state.moments.empty())
      for (const Tensor& w : weights_) state.moments.push_back(AdamW::moments(w.shape()));
    require(state.moments.size() == weights_.size(), "train: the state is that of ", state.moments.size(), " tensors, not ", weights_.size());
    order_.seek(state.position);
    first_step_ = state.step;
  }

  TrainEnd go() {
    try {
      return run();
    } catch (const Error& e) {                           // amid a pass: the step under way has left no trace but gradients
      if (e.trouble != Trouble::cancelled) throw;
      for (const Tensor& w : weights_) w.drop_grad();
      return cancel();
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  TrainEnd run() {
    for (;;) {
      if (validation_due()) {
        validate();
        if (state_.evaluated != state_.step) return cancel();
      }
      const bool stop = options_.patience > 0 && state_.stale >= options_.patience;
      if (stop || state_.step == steps_) {
        restore_best();
        return stop ? TrainEnd::stopped_early : TrainEnd::finished;
      }
      if (cancelled()) return cancel();
      step();
      if (options_.save_every > 0 && state_.step % options_.save_every == 0 && callbacks_.save) callbacks_.save(state_);
    }
  }

  static bool has_labels(const Task& task) {
    for (int64_t i = 0; i < task.size(); ++i)
      if (task.extent({&i, 1}).labels > 0) return true;
    return false;
  }

  bool cancelled() const { return callbacks_.cancelled && callbacks_.cancelled(); }

  TrainEnd cancel() const {
    if (callbacks_.save) callbacks_.save(state_);
    return TrainEnd::cancelled;
  }

  bool validation_due() const {
    const int64_t t = state_.step;
    return validation_ && state_.evaluated < t && (t == 0 || t == steps_ || (options_.eval_every > 0 && t % options_.eval_every == 0));
  }

  void validate() {
    const double loss = evaluate(*validation_, options_.batch, callbacks_.cancelled, options_.precision);
    if (cancelled()) return;                         // the loss may lack batches: asked again after resuming
    require(std::isfinite(loss), "train: the validation loss is ", loss, " after step ", state_.step);
    state_.evaluated = state_.step;
    const bool best = loss < state_.best_loss;
    state_.stale = best ? 0 : state_.stale + 1;
    if (best) {
      state_.best_loss = loss;
      state_.best_step = state_.step;
      if (state_.best.empty())
        for (const Tensor& w : weights_) state_.best.push_back(owned(w.shape()));
      for (size_t i = 0; i < weights_.size(); ++i) std::copy_n(weights_[i].data(), weights_[i].size(), state_.best[i].data());
    }
    if (callbacks_.validation) callbacks_.validation({state_.step, loss, best});
  }

  void restore_best() {
    for (size_t i = 0; i < state_.best.size(); ++i) std::copy_n(state_.best[i].data(), weights_[i].size(), weights_[i].data());
  }

  void step() {
    const int64_t t = state_.step + 1, epoch = order_.position().epoch;
    const float lr = schedule_(t + options_.schedule_offset);
    std::vector<std::vector<int64_t>> batches;
    std::vector<int64_t> labels;
    int64_t learned = 0;
    for (int64_t i = 0; i < options_.accumulate; ++i)
      for (std::vector<int64_t>& part : in_passes(task_, order_.next(), options_.pass_tokens)) {
        const Task::Extent e = task_.extent(part);
        labels.push_back(e.labels);
        learned += e.labels;
        tokens_ += e.tokens;
        batches.push_back(std::move(part));
      }
    double loss = 0;
    for (size_t i = 0; i < batches.size(); ++i) {
      if (labels[i] == 0) continue;
      const float share = float(labels[i]) / float(learned);
      // Random numbers depend on seed, step and batch alone: a resumed run draws the same.
      Hash64 mixed;
      for (uint64_t part : {options_.seed, uint64_t(t), uint64_t(i)}) mixed.add(part);
      Rng random(mixed.value());
      Tape tape(options_.precision);
      const Tensor l = task_.loss(batches[i], {.random = &random, .recompute = options_.recompute});
      loss += double(l.item()) * double(share);
      require(std::isfinite(loss), "train: the loss is ", loss, " at step ", t, " (learning rate ", lr,
              "); a lower rate, more warm-up or clipping may help");
      tape.backward(scale(l, share));
    }
    const double norm = gradient_norm(weights_);
    require(std::isfinite(norm), "train: the gradient's norm is ", norm, " at step ", t, " (learning rate ", lr, ")");
    clip_gradients(weights_, norm, options_.clip);
    for (size_t i = 0; i < weights_.size(); ++i) {
      options_.optimizer(weights_[i], state_.moments[i], t, lr, trained_[i].decay);
      weights_[i].drop_grad();
    }
    state_.step = t;
    state_.position = order_.position();
    if (!callbacks_.step) return;
    const double seconds = std::chrono::duration<double>(Clock::now() - began_).count();
    callbacks_.step({t, steps_, epoch, loss, lr, norm, double(tokens_) / seconds,
                     seconds / double(t - first_step_) * double(steps_ - t)});
  }

  const Task& task_;
  const TrainOptions& options_;
  const Task* validation_;
  TrainState& state_;
  const TrainCallbacks& callbacks_;
  const TrainedSet& trained_;
  BatchOrder order_;
  int64_t steps_;
  Schedule schedule_;
  Clock::time_point began_;
  std::vector<Tensor> weights_;
  int64_t first_step_ = 0, tokens_ = 0;
};

}  // namespace

TrainEnd train(const Task& task, const TrainedSet& trained, const TrainOptions& options, const Task* validation, TrainState& state,
               const TrainCallbacks& callbacks) {
  const Storage::Reuse blocks;
  return Run(task, trained, options, validation, state, callbacks).go();
}

TrainEnd train(const CausalLm& model, const TrainedSet& trained, const TrainOptions& options, const Examples& data,
               const Examples* validation, TrainState& state, const TrainCallbacks& callbacks) {
  const CausalTask task(model, data);
  if (!validation) return train(task, trained, options, nullptr, state, callbacks);
  const CausalTask held_out(model, *validation);
  return train(task, trained, options, &held_out, state, callbacks);
}

}  // namespace kvt
