// Reverse-mode automatic differentiation, whole.
//
// A Tape records the operations executed on this thread while it is alive; without one nothing is recorded, and that is
// inference. Creation order reversed is a topological order, so backward() needs neither sort nor recursion.
// The tape owns the closures, so that capturing a result in its own closure makes no reference cycle.
// Only operations that some wanted gradient depends on are recorded: backward stops below the first tensor that wants one.
// First-order gradients only.
//
// A step of backward captures what it needs: the numbers of some tensors, of others the Gradient alone. What no step captures is freed as
// soon as the forward pass is done with it.
#pragma once
#include <functional>
#include <initializer_list>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace kvt {

// How operations compute while a tape records: in F32, or with operands of products and what backward keeps in BF16 (ops/precision.h).
enum class Precision { f32, bf16 };

class Tape {
 public:
  explicit Tape(Precision precision = Tape::precision());      // without one: as the tape around it
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // Adds d loss / d x to x.grad() of every recorded x; loss is a scalar. Steps are released as they run, and with them
  // the activations they held.
  void backward(const Tensor& loss);
  // The same for any y with y.grad() already set.
  void backward_from_grads();

  static Tape* current();
  static Precision precision();      // of the tape alive on this thread, paused or not; f32 without one
  void push(std::function<void()> step) { steps_.push_back(std::move(step)); }

  // Suspends recording on this thread for a scope.
  class Pause {
   public:
    Pause();
    ~Pause();
   private:
    Tape* tape_;
  };

 private:
  std::vector<std::function<void()>> steps_;
  Tape* outer_;
  Precision outer_precision_;
};

// True if an operation on these inputs has to be recorded.
template <class Inputs>
bool recording(const Inputs& inputs) {
  if (!Tape::current()) return false;
  for (const Tensor& x : inputs)
    if (x && x.wants_grad()) return true;
  return false;
}
inline bool recording(std::initializer_list<Tensor> inputs) { return recording<std::initializer_list<Tensor>>(inputs); }

// Declares how the gradient of `y` flows back to `inputs`; returns y. Nothing is kept unless recording(inputs).
// `step` adds to x.grad() for each input x that wants_grad(); it is skipped if nothing ever flowed into y.
template <class Inputs, class Step>
Tensor on_backward(const Tensor& y, const Inputs& inputs, Step step) {
  if (!recording(inputs)) return y;
  y.want_grad();
  Tape::current()->push([dy = y.gradient(), step = std::move(step)] {
    if (dy.has_grad()) step();
  });
  return y;
}
template <class Step>
Tensor on_backward(const Tensor& y, std::initializer_list<Tensor> inputs, Step step) {
  return on_backward<std::initializer_list<Tensor>, Step>(y, inputs, std::move(step));
}

// f(x), keeping x alone for backward, which runs f again to recompute the activations inside (Chen et al. 2016,
// "Training Deep Nets with Sublinear Memory Cost"). f must be deterministic: the same x gives the same result.
Tensor recompute(const std::function<Tensor(const Tensor&)>& f, const Tensor& x);

}  // namespace kvt
