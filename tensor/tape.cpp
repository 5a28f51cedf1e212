#include "tensor/tape.h"

#include <algorithm>

namespace kvt {

static thread_local Tape* active = nullptr;

Tape::Tape() : outer_(active) { active = this; }
Tape::~Tape() { active = outer_; }
Tape* Tape::current() { return active; }

Tape::Pause::Pause() : tape_(active) { active = nullptr; }
Tape::Pause::~Pause() { active = tape_; }

void Tape::backward(const Tensor& loss) {
  require(loss.size() == 1, "backward: expected a scalar loss, got ", loss.shape());
  loss.grad()[0] = 1;
  backward_from_grads();
}

void Tape::backward_from_grads() {
  const Pause pause;      // what the steps compute is not recorded
  for (; !steps_.empty(); steps_.pop_back()) steps_.back()();
}

Tensor recompute(const std::function<Tensor(const Tensor&)>& f, const Tensor& x) {
  if (!Tape::current()) return f(x);
  Tensor y;
  {
    const Tape scratch;       // tells whether y depends on anything that wants a gradient; its steps are dropped with it
    y = f(x);
  }
  if (!y.wants_grad()) return y;
  Tape::current()->push([f, x, y] {
    if (!y.has_grad()) return;
    const Tensor leaf = Tensor(x.shape(), x.dtype(), x.storage()).want_grad(x.wants_grad());
    Tape tape;
    const Tensor again = f(leaf);
    std::copy_n(y.grad(), y.size(), again.grad());
    y.drop_grad();
    tape.backward_from_grads();
    if (x.wants_grad() && leaf.has_grad())
      for (int64_t i = 0; i < x.size(); ++i) x.grad()[i] += leaf.grad()[i];
  });
  return y;
}

}  // namespace kvt
