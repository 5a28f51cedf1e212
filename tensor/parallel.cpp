#include "tensor/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

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

// While it lives, threads that are made get no signals but those that they raise themselves, and a profiler's: the host's handlers run on the host's threads.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t most;
    sigfillset(&most);
    for (const int own : {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP, SIGPROF}) sigdelset(&most, own);
    pthread_sigmask(SIG_BLOCK, &most, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

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
  // Each thread has pieces that follow one another, so that what it reads does, and takes from the end of another's when its own are done.
  // First and last + 1 of those that are left, in the two halves.
  struct alignas(64) Share { std::atomic<uint64_t> left{0}; };
  std::vector<Share> shares;
  std::mutex error_mutex;
  std::exception_ptr error;

  // A piece of a share, −1 if none is left.
  static int64_t take(Share& share, bool from_end) {
    for (uint64_t left = share.left.load(std::memory_order_relaxed);;) {
      const uint64_t first = left >> 32, last = left & 0xffffffff;
      if (first >= last) return -1;
      if (share.left.compare_exchange_weak(left, from_end ? left - 1 : left + (uint64_t(1) << 32), std::memory_order_relaxed)) return int64_t(from_end ? last - 1 : first);
    }
  }

  void work(size_t thread) {
    const Budget::Scope scope(budget);
    inside_loop = true;
    for (size_t i = 0; i < shares.size(); ++i)
      for (int64_t p; (p = take(shares[(thread + i) % shares.size()], i > 0)) >= 0;) {
        try {
          body(context, p * piece, std::min(n, (p + 1) * piece));
        } catch (...) {
          for (Share& share : shares) share.left.store(0, std::memory_order_relaxed);       // nobody starts another piece
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

  void worker(size_t thread) {
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
        work(thread);
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
  state_->shares = std::vector<State::Share>(size_t(options.threads));
  state_->workers.reserve(size_t(options.threads));
  const SignalsBlocked theirs;
  for (int i = 1; i < options.threads; ++i) {
    try {
      state_->workers.emplace_back([s = state_.get(), i] { s->worker(size_t(i)); });
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
  const uint64_t count = uint64_t((n + s.piece - 1) / s.piece), each = s.shares.size();
  for (uint64_t i = 0; i < each; ++i) s.shares[i].left.store((count * i / each) << 32 | count * (i + 1) / each, std::memory_order_relaxed);
  s.error = nullptr;
  s.gate.store(State::open);
  s.announce();
  s.work(0);
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
