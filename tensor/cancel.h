// Asking a long computation to stop.
//
//   const Cancellation::Scope scope([&] { return stop.load(); });
//   train(…);                                      // throws an Error (Trouble::cancelled) soon after `stop` is set, or ends as it says
//
// Whatever computes for long passes Cancellation::point() often: each linear layer, each step of backward, each piece of a file.
#pragma once
#include <functional>

namespace kvt {

class Cancellation {
 public:
  // Asks on this thread, at every point(); of nested scopes all are asked.
  class Scope {
   public:
    explicit Scope(std::function<bool()> asked);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
   private:
    friend class Cancellation;
    std::function<bool()> asked_;
    Scope* outer_;
  };

  // Throws if a scope of this thread says so; else nearly free.
  static void point() {
    if (innermost) ask();
  }

 private:
  static void ask();
  static thread_local Scope* innermost;
};

}  // namespace kvt
