#include "tensor/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "tensor/error.h"
#include "tensor/storage.h"

namespace kvt {

namespace {

using Clock = std::chrono::steady_clock;

thread_local ThreadPool* used_pool = nullptr;
thread_local bool inside_loop = false;

std::vector<int> allowed_cores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_ISSET(i, &set)) cores.push_back(i);
  if (cores.empty()) cores.push_back(0);
  return cores;
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until done() or the time is over; says whether done. Yields now and then, for machines with more threads than cores.
template <class Done>
bool spin(Done done, Clock::duration time) {
  const auto end = Clock::now() + time;
  for (;;) {
    for (int i = 0; i < 256; ++i) {
      if (done()) return true;
      relax();
    }
    if (Clock::now() >= end) return false;
    std::this_thread::yield();
  }
}

}  // namespace

struct ThreadPool::State {
  // A loop is open to workers while `gate` has its top bit set; the bits below count the workers inside. A worker that
  // comes late finds the gate closed and holds nobody up.
  static constexpr uint32_t open = 1u << 31;

  Options options;
  std::vector<std::thread> workers;
  std::mutex one_loop;                    // held by the caller whose loop runs
  std::atomic<uint32_t> epoch{0};         // changes with every loop, and at the end
  std::atomic<uint32_t> gate{0};
  std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};

  Body* body = nullptr;
  void* context = nullptr;
  Budget* budget = nullptr;               // the caller's
  int64_t n = 0, piece = 1;
  std::atomic<int64_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;

  void work() {
    const Budget::Scope scope(budget);
    inside_loop = true;
    for (int64_t begin; (begin = next.fetch_add(piece, std::memory_order_relaxed)) < n;) {
      try {
        body(context, begin, std::min(n, begin + piece));
      } catch (...) {
        next.store(n, std::memory_order_relaxed);       // nobody starts another piece
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
    inside_loop = false;
  }

  bool enter() {
    for (uint32_t g = gate.load(); g & open;)
      if (gate.compare_exchange_weak(g, g + 1)) return true;
    return false;
  }

  void worker() {
    const auto patience = std::chrono::microseconds(options.spin_us);
    for (uint32_t seen = 0;;) {
      const auto changed = [&] { return epoch.load(std::memory_order_acquire) != seen; };
      if (!spin(changed, patience)) {
        sleepers.fetch_add(1);
        while (!changed()) epoch.wait(seen);
        sleepers.fetch_sub(1);
      }
      seen = epoch.load();
      if (stop.load()) return;
      if (enter()) {
        work();
        gate.fetch_sub(1);
      }
    }
  }

  void announce() {
    epoch.fetch_add(1);
    if (sleepers.load() > 0) epoch.notify_all();
  }
};

ThreadPool::ThreadPool(Options options) : state_(std::make_unique<State>()) {
  const std::vector<int> cores = allowed_cores();
  require(options.threads >= 0 && options.threads <= 1024, "threads: expected 0 to 1024, got ", options.threads);
  if (options.threads == 0) options.threads = int(cores.size());
  state_->options = options;
  state_->workers.reserve(size_t(options.threads));
  for (int i = 1; i < options.threads; ++i) {
    try {
      state_->workers.emplace_back([s = state_.get()] { s->worker(); });
    } catch (const std::exception&) {          // the system gives no more: those there are will do
      state_->options.threads = i;
      break;
    }
#ifndef __ANDROID__                  // has no call for it
    if (options.pin) {
      std::thread& t = state_->workers.back();
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cores[size_t(i) % cores.size()], &set);
      pthread_setaffinity_np(t.native_handle(), sizeof set, &set);      // best effort: a refusal costs speed alone
    }
#endif
  }
}

ThreadPool::~ThreadPool() {
  state_->stop = true;
  state_->epoch.fetch_add(1);
  state_->epoch.notify_all();
  for (std::thread& t : state_->workers) t.join();
}

int ThreadPool::threads() const { return state_->options.threads; }

void ThreadPool::run(int64_t n, int64_t grain, Body* body, void* context) {
  State& s = *state_;
  std::unique_lock lock(s.one_loop, std::defer_lock);
  if (s.workers.empty() || inside_loop || !lock.try_lock()) return body(context, 0, n);   // alone, nested, or the pool is busy

  const int64_t pieces = 4 * int64_t(threads());      // a few for each thread, so that a slow one holds up little
  s.body = body;
  s.context = context;
  s.budget = Budget::current();
  s.n = n;
  s.piece = std::max<int64_t>({grain, (n + pieces - 1) / pieces, 1});
  s.next.store(0, std::memory_order_relaxed);
  s.error = nullptr;
  s.gate.store(State::open);
  s.announce();
  s.work();
  s.gate.fetch_and(~State::open);
  while (!spin([&] { return s.gate.load() == 0; }, std::chrono::seconds(1))) {}
  if (s.error) std::rethrow_exception(s.error);
}

// --- the pool in use ---

static std::mutex default_mutex;
static ThreadPool::Options default_options;
static ThreadPool* default_pool = nullptr;

ThreadPool& ThreadPool::current() {
  if (used_pool) return *used_pool;
  // Made once, freed at exit through the static object; guarded so that set_default_threads() can tell.
  static const std::unique_ptr<ThreadPool> pool = [] {
    const std::lock_guard lock(default_mutex);
    auto made = std::make_unique<ThreadPool>(default_options);
    default_pool = made.get();
    return made;
  }();
  return *pool;
}

void set_default_threads(ThreadPool::Options options) {
  const std::lock_guard lock(default_mutex);
  require(!default_pool, "threads: the process-wide pool already runs");
  default_options = options;
}

ThreadPool::Use::Use(ThreadPool& pool) : outer_(used_pool) { used_pool = &pool; }
ThreadPool::Use::~Use() { used_pool = outer_; }

}  // namespace kvt
