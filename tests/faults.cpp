// By the linker's --wrap (meson.build): __wrap_write stands where the library calls write, __real_write is the C library's.
#include "tests/faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>

namespace kvt {

namespace {

constexpr size_t calls = std::size(all_calls);
std::atomic<int64_t> counts[calls], objects, files, maps;
std::atomic<int> armed{-1};
std::atomic<int64_t> nth{0};
std::atomic<bool> for_good{false}, has_struck{false}, interrupt_next{true};
std::atomic<Faults::Trouble> troubled{Faults::Trouble::none};

bool fails(Call call) {
  const int64_t n = ++counts[size_t(call)];
  if (armed.load(std::memory_order_relaxed) != int(call) || (for_good ? n < nth : n != nth)) return false;
  has_struck = true;
  return true;
}
int fail_with(int error) { return errno = error, -1; }

// The length that a troubled transfer gets; 0: it is interrupted instead
size_t allowed(size_t n) {
  if (troubled == Faults::Trouble::partial && n > 1) return n - n / 3 - (n > 2);
  if (troubled == Faults::Trouble::interrupted && interrupt_next.exchange(!interrupt_next)) return 0;
  return n;
}

}  // namespace

const char* name(Call call) {
  static constexpr const char* names[] = {"allocation", "storage", "map", "open", "status", "read", "write", "sync", "close", "link", "rename", "thread"};
  return names[size_t(call)];
}
void Faults::arm(Call call, int64_t n, bool good) {
  for (auto& count : counts) count = 0;
  has_struck = false, nth = n, for_good = good, armed = n > 0 ? int(call) : -1;
}
void Faults::disarm() { armed = -1; }
int64_t Faults::made(Call call) { return counts[size_t(call)]; }
bool Faults::struck() { return has_struck; }
void Faults::trouble(Trouble kind) { troubled = kind, interrupt_next = true; }
Faults::Live Faults::live() { return {objects, files, maps}; }

}  // namespace kvt

using namespace kvt;

// --- memory ---

static void* object(size_t n) {
  if (fails(Call::allocate)) return nullptr;
  void* p = std::malloc(n ? n : 1);
  if (p) ++objects;
  return p;
}
[[gnu::noinline]] void* operator new(size_t n) {
  if (void* p = object(n)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(size_t n, const std::nothrow_t&) noexcept { return object(n); }
[[gnu::noinline]] void operator delete(void* p) noexcept {
  if (p) --objects;
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { operator delete(p); }
[[gnu::noinline]] void operator delete(void* p, const std::nothrow_t&) noexcept { operator delete(p); }

extern "C" {

void* __real_aligned_alloc(size_t alignment, size_t n);
void* __wrap_aligned_alloc(size_t alignment, size_t n) { return fails(Call::storage) ? nullptr : __real_aligned_alloc(alignment, n); }

// With large-file support the C library's functions have a 64 in their names.
#define WRAP_MMAP(mmap)                                                                                        \
  void* __real_##mmap(void* at, size_t n, int protection, int flags, int fd, off_t offset);                   \
  void* __wrap_##mmap(void* at, size_t n, int protection, int flags, int fd, off_t offset) {                  \
    if (fails(Call::map)) return errno = ENOMEM, MAP_FAILED;                                                  \
    void* p = __real_##mmap(at, n, protection, flags, fd, offset);                                            \
    if (p != MAP_FAILED) ++maps;                                                                              \
    return p;                                                                                                 \
  }
WRAP_MMAP(mmap)
WRAP_MMAP(mmap64)
int __real_munmap(void* p, size_t n);
int __wrap_munmap(void* p, size_t n) { return --maps, __real_munmap(p, n); }

// --- files ---

static constexpr Call opening = Call::open;
#define WRAP_OPEN(open)                                                                                        \
  int __real_##open(const char* path, int flags, ...);                                                        \
  int __wrap_##open(const char* path, int flags, ...) {                                                       \
    va_list rest;                                                                                             \
    va_start(rest, flags);                                                                                    \
    const bool creates = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;                               \
    const mode_t mode = creates ? mode_t(va_arg(rest, unsigned)) : 0;                                         \
    va_end(rest);                                                                                             \
    if (fails(opening)) return fail_with(EMFILE);                                                         \
    const int fd = __real_##open(path, flags, mode);                                                          \
    if (fd >= 0) ++files;                                                                                     \
    return fd;                                                                                                \
  }
WRAP_OPEN(open)
WRAP_OPEN(open64)
int __real_close(int fd);
int __wrap_close(int fd) {
  --files;
  const bool bad = fails(Call::close);
  const int result = __real_close(fd);          // the descriptor is gone even so
  return bad ? fail_with(EIO) : result;
}
#define WRAP_FSTAT(fstat)                                 \
  int __real_##fstat(int fd, struct stat* st);            \
  int __wrap_##fstat(int fd, struct stat* st) { return fails(Call::status) ? fail_with(EIO) : __real_##fstat(fd, st); }
WRAP_FSTAT(fstat)
WRAP_FSTAT(fstat64)
ssize_t __real_read(int fd, void* p, size_t n);
ssize_t __wrap_read(int fd, void* p, size_t n) {
  if (fails(Call::read)) return fail_with(EIO);
  const size_t some = allowed(n);
  return some == 0 && n > 0 ? fail_with(EINTR) : __real_read(fd, p, some);
}
#define WRAP_PREAD(pread)                                                       \
  ssize_t __real_##pread(int fd, void* p, size_t n, off_t at);                  \
  ssize_t __wrap_##pread(int fd, void* p, size_t n, off_t at) {                 \
    if (fails(Call::read)) return fail_with(EIO);                               \
    const size_t some = allowed(n);                                             \
    return some == 0 && n > 0 ? fail_with(EINTR) : __real_##pread(fd, p, some, at); \
  }
WRAP_PREAD(pread)
WRAP_PREAD(pread64)
ssize_t __real_write(int fd, const void* p, size_t n);
ssize_t __wrap_write(int fd, const void* p, size_t n) {
  if (fails(Call::write)) return fail_with(ENOSPC);
  const size_t some = allowed(n);
  return some == 0 && n > 0 ? fail_with(EINTR) : __real_write(fd, p, some);
}
int __real_fsync(int fd);
int __wrap_fsync(int fd) { return fails(Call::sync) ? fail_with(EIO) : __real_fsync(fd); }
int __real_linkat(int from_folder, const char* from, int to_folder, const char* to, int flags);
int __wrap_linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) {
  return fails(Call::link) ? fail_with(EPERM) : __real_linkat(from_folder, from, to_folder, to, flags);
}
int __real_rename(const char* from, const char* to);
int __wrap_rename(const char* from, const char* to) { return fails(Call::rename) ? fail_with(EACCES) : __real_rename(from, to); }

// libstdc++ starts threads. In a program that is linked statically its call is wrapped like the others; else this function stands in front for all of the process.
using Create = int(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
#if defined(FAULTS_STATIC)
Create __real_pthread_create, __wrap_pthread_create;
int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) {
  return fails(Call::thread) ? EAGAIN : __real_pthread_create(thread, attributes, body, argument);
}
#else
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) {
  static const auto real = reinterpret_cast<Create*>(dlsym(RTLD_NEXT, "pthread_create"));
  return fails(Call::thread) ? EAGAIN : real(thread, attributes, body, argument);
}
#endif

}  // extern "C"
