// Version, status, messages, progress, and files as the other parts of the C interface use them.
#include "engine/c_api.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace kvt::c_api {

static thread_local Message thread_message;

void fail_with(kvt_status status, std::initializer_list<Piece> parts) { throw StatusError(status, message(parts)); }

static void keep(Message& message, std::string_view text) noexcept {
  size_t n = std::min(text.size(), sizeof message.text - 1);
  if (n < text.size())
    while (n > 0 && (static_cast<unsigned char>(text[n]) & 0xC0) == 0x80) --n;      // whole characters
  std::memcpy(message.text, text.data(), n);
  message.text[n] = 0;
}

#ifdef PTHREAD_CANCEL_DISABLE           // Android has no pthread_cancel()
Uncancelled::Uncancelled() noexcept { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
Uncancelled::~Uncancelled() { pthread_setcancelstate(before_, nullptr); }
#else
Uncancelled::Uncancelled() noexcept = default;
Uncancelled::~Uncancelled() = default;
#endif

static kvt_status status_of(Trouble trouble, kvt_status otherwise) noexcept {
  switch (trouble) {
    case Trouble::input_output: return KVT_IO_ERROR;
    case Trouble::unsupported: return KVT_UNSUPPORTED;
    case Trouble::mismatch: return KVT_MISMATCH;
    case Trouble::context_full: return KVT_CONTEXT_FULL;
    case Trouble::memory: return KVT_OUT_OF_MEMORY;
    case Trouble::memory_limit: return KVT_MEMORY_LIMIT;
    case Trouble::cancelled: return KVT_CANCELLED;
    case Trouble::other: break;
  }
  return otherwise;
}

kvt_status failed(const Call& call) noexcept {
  kvt_status status = KVT_ERROR;
  const auto say = [&](std::string_view text) {
    keep(thread_message, text);
    if (call.message) keep(*call.message, text);
  };
  try {
    throw;
  } catch (const StatusError& e) {
    status = e.status;
    say(e.what());
  } catch (const Error& e) {
    status = status_of(e.trouble, call.otherwise);
    say(e.what());
  } catch (const std::bad_alloc&) {
    status = KVT_OUT_OF_MEMORY;
    say("out of memory");
  } catch (const std::exception& e) {
    say(e.what());
  } catch (...) {
    say("an unknown exception");
  }
  return status;
}

void write_text(std::string_view text, char* to, size_t capacity, size_t* length) {
  if (length) *length = text.size();
  expect(to != nullptr || capacity == 0, "buffer is NULL, capacity ", capacity);
  if (capacity <= text.size()) refuse(KVT_TOO_SMALL, "a buffer of ", capacity, " bytes for a text of ", text.size(), " and its terminating zero");
  std::memcpy(to, text.data(), text.size());
  to[text.size()] = 0;
}

int64_t counted(uint64_t n, int64_t fallback, int64_t most, const char* name) {
  expect(n <= uint64_t(most), name, " is ", n, ", at most ", most);
  return n == 0 ? fallback : int64_t(n);
}

// --- progress ---

Reporter::Reporter(kvt_progress_fn f, void* user) : state{}, f_(f), user_(user), scope_(f ? std::function<bool()>([this] { return cancelled(); }) : nullptr) {
  state.struct_size = sizeof state;
  state.loss = state.validation_loss = state.learning_rate = state.tokens_per_second = state.seconds_left = NAN;
}

void Reporter::operator()() {
  if (!f_ || inside_) return;
  inside_ = true;
  if (f_(user_, &state) != 0) cancelled_ = true;
  inside_ = false;
  last_ = Clock::now();
}

bool Reporter::cancelled() {
  if (f_ && !cancelled_ && Clock::now() - last_ > std::chrono::milliseconds(50)) (*this)();
  return cancelled_;
}

// --- files ---

namespace {

struct Place {
  std::unique_ptr<File> file;          // of a path
  int fd = -1;
  uint64_t offset = 0, size = 0;
  std::string name;
};

Place open(const kvt_source& s) {
  Place p;
  if (s.kind == KVT_SOURCE_PATH) {
    p.name = &given(s.path, "source: path");
    p.file = std::make_unique<File>(p.name);
    p.fd = p.file->fd, p.size = p.file->size;
    return p;
  }
  expect(s.kind == KVT_SOURCE_DESCRIPTOR, "source: unknown kind ", int(s.kind));
  p.fd = s.descriptor, p.offset = s.offset;
  p.name = "descriptor " + std::to_string(s.descriptor);
  struct stat st;
  require_as(Trouble::input_output, ::fstat(p.fd, &st) == 0, p.name, ": ", std::strerror(errno));
  require_as(Trouble::input_output, S_ISREG(st.st_mode), p.name, " is not a regular file");
  const auto end = uint64_t(st.st_size);
  require_as(Trouble::input_output, s.offset <= end && s.size <= end - s.offset, p.name, ": ", s.size, " bytes from ", s.offset, " on in a file of ", end);
  p.size = s.size ? s.size : end - s.offset;
  return p;
}

Storage memory_of(const kvt_source& s, std::string& name) {
  name = "memory";
  expect(s.memory != nullptr && s.size > 0, "source: ", s.size, " bytes at ", s.memory);
  expect(reinterpret_cast<uintptr_t>(s.memory) % 8 == 0, "source: memory at ", s.memory, ", expected a multiple of 8");
  return Storage::borrow(const_cast<void*>(s.memory), s.size, false);
}

}  // namespace

Storage read_source(const kvt_source& source, std::string& name, bool map, const std::function<void(uint64_t, uint64_t)>& progress) {
  expect(!map || source.kind == KVT_SOURCE_PATH, "KVT_ACCESS_MAP is of a path alone");
  if (source.kind == KVT_SOURCE_MEMORY) return memory_of(source, name);
  if (map) return Storage::map_file(name = &given(source.path, "source: path"));
  const Place p = open(source);
  name = p.name;
  require_as(Trouble::input_output, p.size > 0, "'", name, "' is empty");
  return Storage::read(p.fd, p.offset, p.size, p.name, [&](uint64_t done) { progress(done, p.size); });
}

Gguf read_header(const kvt_source& source, uint64_t* size) {
  *size = source.size;
  if (source.kind == KVT_SOURCE_MEMORY) {
    std::string name;
    return Gguf::parse(memory_of(source, name), name);
  }
  const Place p = open(source);
  *size = p.size;
  return Gguf::header(p.fd, p.offset, p.size, p.name);
}

}  // namespace kvt::c_api

// --- kvt.h ---

int kvt_version(void) { return KVT_VERSION_MAJOR * 10000 + KVT_VERSION_MINOR * 100 + KVT_VERSION_PATCH; }

const char* kvt_features(void) {
  return ""
#ifdef KVT_TRAINING
         "training "
#endif
         "models:" KVT_MODELS
#ifdef KVT_OPENBLAS
         " openblas"
#endif
      ;
}

const char* kvt_status_name(kvt_status status) {
  static constexpr const char* names[] = {"KVT_OK", "KVT_CANCELLED", "KVT_ERROR", "KVT_INVALID_ARGUMENT", "KVT_IO_ERROR", "KVT_BAD_FILE", "KVT_UNSUPPORTED",
                                          "KVT_MISMATCH", "KVT_CONTEXT_FULL", "KVT_OUT_OF_MEMORY", "KVT_MEMORY_LIMIT", "KVT_TOO_SMALL", "KVT_BUSY"};
  return size_t(status) < std::size(names) ? names[size_t(status)] : "unknown status";
}

const char* kvt_message(void) { return kvt::c_api::thread_message.text; }
