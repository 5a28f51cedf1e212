#include "tensor/storage.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "tensor/error.h"

namespace kvt {

namespace {

constexpr size_t alignment = 64;            // a cache line, and the widest vector
constexpr size_t chunk_bytes = 1 << 20;

thread_local Arena* open_arena = nullptr;

size_t round_up(size_t n) { return (n + alignment - 1) / alignment * alignment; }

std::shared_ptr<void> aligned_memory(size_t bytes) {
  require(bytes <= SIZE_MAX / 2, "storage: cannot allocate ", bytes, " bytes");
  void* p = std::aligned_alloc(alignment, std::max(round_up(bytes), alignment));
  require(p, "storage: out of memory for ", bytes, " bytes");
  return std::shared_ptr<void>(p, std::free);
}

// An open file descriptor, closed at the end of its scope.
struct File {
  explicit File(const std::string& path) : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    require(fd >= 0, "cannot open '", path, "': ", std::strerror(errno));
    struct stat st;
    if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
      ::close(fd);
      fail("'", path, "' is not a regular file");
    }
    size = size_t(st.st_size);
  }
  ~File() { ::close(fd); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd;
  size_t size;
};

}  // namespace

Storage Storage::allocate(size_t bytes) { return open_arena ? open_arena->take(bytes) : allocate_owned(bytes); }

Storage Storage::allocate_owned(size_t bytes) {
  auto memory = aligned_memory(bytes);
  void* p = memory.get();
  return {std::move(memory), p, bytes, true};
}

Storage Storage::map_file(const std::string& path) {
  File file(path);
  require(file.size > 0, "'", path, "' is empty");
  void* p = ::mmap(nullptr, file.size, PROT_READ, MAP_SHARED, file.fd, 0);
  require(p != MAP_FAILED, "cannot map '", path, "' (", file.size, " bytes): ", std::strerror(errno));
  const size_t size = file.size;
  return {std::shared_ptr<void>(p, [size](void* q) { ::munmap(q, size); }), p, size, false};
}

Storage Storage::read_file(const std::string& path) {
  File file(path);
  Storage out = allocate_owned(file.size);
  for (size_t at = 0; at < file.size;) {
    const ssize_t n = ::read(file.fd, out.data() + at, file.size - at);
    if (n < 0 && errno == EINTR) continue;
    require(n > 0, "cannot read '", path, "' at offset ", at, " of ", file.size, ": ", n < 0 ? std::strerror(errno) : "the file ends early");
    at += size_t(n);
  }
  return out;
}

Storage Storage::borrow(void* data, size_t bytes, bool writable) { return {nullptr, data, bytes, writable}; }

Storage Storage::part(size_t offset, size_t bytes) const {
  require(offset <= size_ && bytes <= size_ - offset, "storage: [", offset, ", +", bytes, ") lies outside of ", size_, " bytes");
  return {owner_, data_ + offset, bytes, writable_};
}

Arena::Scope::Scope(Arena& arena) : outer_(open_arena) { open_arena = &arena; }

Arena::Scope::~Scope() {
  open_arena->reset();
  open_arena = outer_;
}

size_t Arena::reserved() const {
  size_t total = 0;
  for (const Chunk& c : chunks_) total += c.size;
  return total;
}

Storage Arena::take(size_t bytes) {
  const size_t need = std::max(round_up(bytes), alignment);
  for (Chunk& c : chunks_)
    if (c.size - c.used >= need) {
      std::byte* p = static_cast<std::byte*>(c.memory.get()) + c.used;
      c.used += need;
      return {c.memory, p, bytes, true};
    }
  const size_t size = std::max(need, chunk_bytes);
  chunks_.push_back({aligned_memory(size), size, need});
  return {chunks_.back().memory, chunks_.back().memory.get(), bytes, true};
}

void Arena::reset() {
  std::erase_if(chunks_, [](const Chunk& c) { return c.memory.use_count() > 1; });   // a tensor escaped: the chunk is its own now
  for (Chunk& c : chunks_) c.used = 0;
}

}  // namespace kvt
