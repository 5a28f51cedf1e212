// What lies behind the handles of kvt.h, and how a call of it is made: inside guard(), which turns every exception into a status and a
// message. No other file of the engine knows of it.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/generate.h"
#include "engine/gguf.h"
#include "engine/kvt.h"
#include "models/bert.h"
#include "tensor/cancel.h"
#include "tensor/parallel.h"

namespace kvt::c_api {

// --- trouble ---

struct StatusError : Error {
  kvt_status status;
  StatusError(kvt_status s, const std::string& message) : Error(message), status(s) {}
};
[[noreturn, gnu::cold]] void fail_with(kvt_status status, std::initializer_list<Piece> parts);
template <class... Parts>
[[noreturn]] void refuse(kvt_status status, const Parts&... parts) { fail_with(status, {Piece(parts)...}); }
template <class... Parts>
void expect(bool ok, const Parts&... parts) { if (!ok) [[unlikely]] refuse(KVT_INVALID_ARGUMENT, parts...); }
template <class T>
T& given(T* p, const char* name) {
  expect(p != nullptr, name, " is NULL");
  return *p;
}

constexpr int64_t encode_batch = 8;            // texts that are encoded together

struct Message { char text[1024] = ""; };

// --- what models hold ---

struct Log {
  kvt_log_fn f = nullptr;
  void* user = nullptr;
  template <class... Parts>
  void operator()(kvt_log_level level, const Parts&... parts) const {
    if (f) f(user, level, message({Piece(parts)...}).c_str());
  }
};

// Shared by a kvt_model and all that is made of it.
struct ModelState {
  std::shared_ptr<Budget> budget;
  std::unique_ptr<ThreadPool> pool;
  Log log;
  Gguf gguf;
  std::string fingerprint, architecture, name;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Bert> encoder;             // or none, and `config` counts
  LmConfig config;
  int64_t tables = 0;                        // bytes of the tokenizer, held in the budget

  ~ModelState() { if (budget) budget->give(tables); }
  // The language model with layers of its own, which adapters may be put on; it shares the weights.
  std::unique_ptr<CausalLm> view() const;
  std::unique_ptr<Bert> encoder_view() const;
};
using Shared = std::shared_ptr<const ModelState>;

DType cache_dtype(kvt_cache_type type, int64_t head_size);      // refuses what is unknown, or does not fit

struct AdapterState {
  Shared model;
  Gguf file;
};

// --- calls ---

struct Call {
  const ModelState* model = nullptr;         // whose budget and threads count
  Message* message = nullptr;                // beside the thread's
  kvt_status otherwise = KVT_ERROR;          // of an Error that tells no more
};
kvt_status failed(const Call& call) noexcept;        // of the exception that is being handled

// While it lives, pthread_cancel() waits: unwinding by it would end the host where a destructor or noexcept is in the way.
class Uncancelled {
 public:
  Uncancelled() noexcept;
  ~Uncancelled();
 private:
  int before_ = 0;
};

template <class F>
kvt_status guard(const Call& call, F&& f) noexcept {
  const Uncancelled whole;
  try {
    std::optional<Budget::Scope> budget;
    std::optional<ThreadPool::Use> pool;
    if (call.model) budget.emplace(call.model->budget.get()), pool.emplace(*call.model->pool);
    f();
    return KVT_OK;
  } catch (...) {
    return failed(call);
  }
}

template <class T>
void release(T* handle) noexcept {
  const Uncancelled whole;
  delete handle;
}

// Options as far as the caller's header knew them; all defaults for null.
template <class T>
T options_of(const T* from) {
  T o{};
  if (from) {
    const size_t size = from->struct_size;
    expect(size >= sizeof size, "options: struct_size is ", size, "; set it to the struct's sizeof");
    for (size_t i = sizeof o; i < size; ++i)
      if (reinterpret_cast<const char*>(from)[i] != 0) refuse(KVT_UNSUPPORTED, "options: of a newer version; this library is ", kvt_version());
    std::memcpy(&o, from, std::min(size, sizeof o));
  }
  o.struct_size = sizeof o;
  return o;
}
template <class T>
void write_result(T* to, T from) {
  expect(to->struct_size >= sizeof(size_t), "result: struct_size is ", to->struct_size, "; set it to the struct's sizeof");
  from.struct_size = to->struct_size;
  std::memcpy(to, &from, std::min(to->struct_size, sizeof from));
}

inline std::string_view text_of(const char* text, size_t size) {
  expect(text != nullptr || size == 0, "text is NULL");
  return size == KVT_TEXT_END ? std::string_view(text) : std::string_view(text, size);
}
void write_text(std::string_view text, char* to, size_t capacity, size_t* length);
int64_t counted(uint64_t n, int64_t fallback, int64_t most, const char* name);      // n, or the fallback for 0

// --- progress ---

// Calls a kvt_progress_fn: at each report, and at points of cancellation (tensor/cancel.h) every 50 ms.
class Reporter {
 public:
  Reporter(kvt_progress_fn f, void* user);
  kvt_progress state;
  void operator()();                                           // reports `state`
  void operator()(kvt_stage stage, uint64_t done, uint64_t total) {
    state.stage = stage, state.done = done, state.total = total;
    (*this)();
  }
  bool cancelled();
  void stop_if_cancelled() { if (cancelled_) fail_as(Trouble::cancelled, "cancelled by the progress callback"); }

 private:
  using Clock = std::chrono::steady_clock;
  kvt_progress_fn f_;
  void* user_;
  bool cancelled_ = false, inside_ = false;
  Clock::time_point last_ = Clock::now();
  Cancellation::Scope scope_;
};

// --- files ---

// The whole source as bytes; a mapping if asked for.
Storage read_source(const kvt_source& source, std::string& name, bool map, const std::function<void(uint64_t done, uint64_t total)>& progress);
Gguf read_header(const kvt_source& source, uint64_t* size);

}  // namespace kvt::c_api

struct kvt_model { kvt::c_api::Shared state; };
struct kvt_adapter { std::shared_ptr<const kvt::c_api::AdapterState> state; };
struct kvt_sampler { kvt::Sampler sampler; };
