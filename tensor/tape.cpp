#include "tensor/tape.h"

#include <algorithm>

#include "tensor/cancel.h"

namespace kvt {

static thread_local Tape* active = nullptr;
static thread_local Precision active_precision = Precision::f32;

Tape::Tape(Precision precision) : outer_(std::exchange(active, this)), outer_precision_(std::exchange(active_precision, precision)) {}
Tape::~Tape() {
  active = outer_;
  active_precision = outer_precision_;
}
Tape* Tape::current() { return active; }
Precision Tape::precision() { return active_precision; }

Tape::Pause::Pause() : tape_(active) { active = nullptr; }
Tape::Pause::~Pause() { active = tape_; }

void Tape::backward(const Tensor& loss) {
  require(loss.size() == 1, "backward: expected a scalar loss, got ", loss.shape());
  loss.grad()[0] = 1;
  backward_from_grads();
}

void Tape::backward_from_grads() {
  const Pause pause;      // what the steps compute is not recorded
  for (; !steps_.empty(); steps_.pop_back()) {
    Cancellation::point();
    steps_.back()();
  }
}

Tensor recompute(const std::function<Tensor(const Tensor&)>& f, const Tensor& x) {
  if (!Tape::current()) return f(x);
  Tensor y;
  {
    const Tape scratch;       // tells whether y depends on anything that wants a gradient; its steps are dropped with it
    y = f(x);
  }
  if (!y.wants_grad()) return y;
  Tape::current()->push([f, x, dy = y.gradient(), precision = Tape::precision()] {
    if (!dy.has_grad()) return;
    const Tensor leaf = Tensor(x.shape(), x.dtype(), x.storage()).want_grad(x.wants_grad());
    Tape tape(precision);
    const Tensor again = f(leaf);
    std::copy_n(dy.grad(), dy.size(), again.grad());
    dy.drop_grad();
    tape.backward_from_grads();
    if (!x.wants_grad() || !leaf.has_grad()) return;
    float* const dx = x.grad();
    const float* const more = leaf.grad();
    for (int64_t i = 0; i < x.size(); ++i) dx[i] += more[i];
  });
  return y;
}

}  // namespace kvt
