#include "tensor/cancel.h"

#include <utility>

#include "tensor/error.h"

namespace kvt {

thread_local Cancellation::Scope* Cancellation::innermost = nullptr;

Cancellation::Scope::Scope(std::function<bool()> asked) : asked_(std::move(asked)), outer_(std::exchange(innermost, this)) {}
Cancellation::Scope::~Scope() { innermost = outer_; }

void Cancellation::ask() {
  for (const Scope* s = innermost; s; s = s->outer_)
    if (s->asked_ && s->asked_()) fail_as(Trouble::cancelled, "cancelled");
}

}  // namespace kvt
