// Reverse-mode automatic differentiation, whole.
//
// A Tape records the operations executed on this thread while it is alive; without one nothing is recorded, and that is
// inference. Creation order reversed is a topological order, so backward() needs neither sort nor recursion.
// The tape owns the closures, so that capturing a result in its own closure makes no reference cycle.
// Only operations that some wanted gradient depends on are recorded: backward stops below the first tensor that wants one.
// First-order gradients only.
#pragma once
#include <functional>
#include <initializer_list>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace kvt {

class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // Adds d loss / d x to x.grad() of every recorded x; loss is a scalar. Steps are released as they run, and with them
  // the activations they held.
  void backward(const Tensor& loss);
  // The same for any y with y.grad() already set.
  void backward_from_grads();

  static Tape* current();
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
};

// True if an operation on these inputs has to be recorded.
template <class Inputs>
bool recording(const Inputs& inputs) {
  if (!Tape::current()) return false;
  for (const Tensor& x : inputs)
    if (x && x.wants_grad()) return true;
  return false;
}

// Declares how the gradient of `y` flows back to `inputs`; returns y. Nothing is kept unless recording(inputs).
// `step` adds to x.grad() for each input x that wants_grad(); it is skipped if nothing ever flowed into y.
template <class Inputs, class Step>
Tensor on_backward(const Tensor& y, const Inputs& inputs, Step step) {
  if (!recording(inputs)) return y;
  y.want_grad();
  Tape::current()->push([y, step = std::move(step)] {
    if (y.has_grad()) step();
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
