#include "tensor/storage.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

#include "tensor/error.h"

namespace kvt {

namespace {

constexpr size_t alignment = 64;            // a cache line, and the widest vector
constexpr size_t chunk_bytes = 1 << 20;

thread_local Arena* open_arena = nullptr;

size_t round_up(size_t n) { return (n + alignment - 1) / alignment * alignment; }

std::atomic<int64_t> held{0}, most_held{0};

void count(int64_t bytes) {
  const int64_t now = held.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  for (int64_t most = most_held.load(std::memory_order_relaxed); now > most && !most_held.compare_exchange_weak(most, now, std::memory_order_relaxed);) {}
}

// The blocks of Storage::Reuse: whole pages of the system's, so that what is released is the system's again at once.
class Blocks {
 public:
  struct Block { void* p; size_t size; };
  static constexpr size_t least = 128 << 10;

  static Blocks& shared() {
    static Blocks* const blocks = new Blocks;        // tensors may outlive whatever is destroyed at exit
    return *blocks;
  }
  bool open() const { return users_.load(std::memory_order_relaxed) > 0; }
  void enter() { ++users_; }
  void leave() {
    const std::lock_guard lock(mutex_);
    if (--users_ == 0) release_until(0);
  }

  // A block of at least so many bytes; null if the system has none.
  Block take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = waiting_.lower_bound(bytes);
    if (found != waiting_.end() && found->first <= bytes + bytes / 8) {
      const Block block{found->second, found->first};
      total_ -= block.size;
      waiting_.erase(found);
      return block;
    }
    const Storage::Use use = Storage::use();
    const int64_t room = use.most + use.most / 8 - use.now - int64_t(bytes);
    release_until(size_t(std::max<int64_t>(room, 0)));
    void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return {p == MAP_FAILED ? nullptr : p, bytes};
  }

  void give(Block block) {
    const std::lock_guard lock(mutex_);
    total_ += block.size;
    waiting_.emplace(block.size, block.p);
    if (!open()) release_until(0);
  }

 private:
  void release_until(size_t most) {
    while (total_ > most) {
      const auto largest = std::prev(waiting_.end());
      ::munmap(largest->second, largest->first);
      total_ -= largest->first;
      waiting_.erase(largest);
    }
  }

  std::mutex mutex_;
  std::atomic<int> users_{0};
  std::multimap<size_t, void*> waiting_;
  size_t total_ = 0;
};

std::shared_ptr<void> aligned_memory(size_t bytes) {
  require(bytes <= SIZE_MAX / 2, "storage: cannot allocate ", bytes, " bytes");
  const auto n = int64_t(bytes);
  if (bytes >= Blocks::least && Blocks::shared().open()) {
    const Blocks::Block block = Blocks::shared().take(bytes);
    require(block.p, "storage: out of memory for ", bytes, " bytes");
    count(n);
    return std::shared_ptr<void>(block.p, [block, n](void*) {
      held.fetch_sub(n, std::memory_order_relaxed);
      Blocks::shared().give(block);
    });
  }
  void* p = std::aligned_alloc(alignment, std::max(round_up(bytes), alignment));
  require(p, "storage: out of memory for ", bytes, " bytes");
  count(n);
  return std::shared_ptr<void>(p, [n](void* q) {
    std::free(q);
    held.fetch_sub(n, std::memory_order_relaxed);
  });
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

Storage::Reuse::Reuse() { Blocks::shared().enter(); }
Storage::Reuse::~Reuse() { Blocks::shared().leave(); }

Storage::Use Storage::use() { return {held.load(std::memory_order_relaxed), most_held.load(std::memory_order_relaxed)}; }
void Storage::reset_use() { most_held.store(held.load(std::memory_order_relaxed), std::memory_order_relaxed); }

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
