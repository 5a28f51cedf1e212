// A persistent pool of threads and the one loop that uses it.
//
//   parallel_for(rows, 16, [&](int64_t begin, int64_t end) { … });      // at least 16 rows a piece
//
// Threads spin for a short while after a loop, so that the next one (a few microseconds later when decoding) starts
// without a system call; then they sleep. Which thread runs a piece varies; the pieces themselves depend on n, grain and
// the number of threads alone. A loop inside a loop runs on its own thread. Exceptions reach the caller.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>

namespace kvt {

class ThreadPool {
 public:
  struct Options {
    int threads = 0;          // the calling thread included; 0 = one for each core this process may use
    bool pin = false;         // bind the pool's own threads, one to a core; the caller's thread stays the host's affair
    int spin_us = 100;        // how long a thread looks for work before it sleeps, in microseconds
  };

  explicit ThreadPool(Options options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // body(context, begin, end) over pieces of [0, n)
  using Body = void(void* context, int64_t begin, int64_t end);
  void run(int64_t n, int64_t grain, Body* body, void* context);

  // The pool of this thread: the innermost Use, else one for the whole process, made at first use.
  static ThreadPool& current();
  class Use {
   public:
    explicit Use(ThreadPool& pool);
    ~Use();
   private:
    ThreadPool* outer_;
  };

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The process-wide pool's options; throws once that pool has started with others.
void set_default_threads(ThreadPool::Options options);

template <class F>
void parallel_for(int64_t n, int64_t grain, F&& body) {
  using Fn = std::remove_reference_t<F>;
  if (n <= 0) return;
  if (n <= grain) return body(int64_t(0), n);
  ThreadPool::current().run(n, grain, [](void* f, int64_t begin, int64_t end) { (*static_cast<Fn*>(f))(begin, end); },
                            const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace kvt
