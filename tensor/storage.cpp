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
#include <utility>

#include "tensor/cancel.h"
#include "tensor/error.h"

namespace kvt {

namespace {

constexpr size_t alignment = 64;            // a cache line, and the widest vector
constexpr size_t chunk_bytes = 1 << 20;     // of an arena

thread_local Arena* open_arena = nullptr;

size_t round_up(size_t n) { return (n + alignment - 1) / alignment * alignment; }

std::atomic<int64_t> held{0}, most_held{0};

void raise(std::atomic<int64_t>& most, int64_t now) {
  for (int64_t old = most.load(std::memory_order_relaxed); now > old && !most.compare_exchange_weak(old, now, std::memory_order_relaxed);) {}
}

thread_local Budget* current_budget = nullptr;

// Bytes counted as held from here until the end of its life, by the process and by the thread's budget.
class Held {
 public:
  explicit Held(int64_t bytes) : bytes_(bytes), budget_(current_budget ? current_budget->shared_from_this() : nullptr) {
    if (budget_) budget_->take(bytes);
    raise(most_held, held.fetch_add(bytes, std::memory_order_relaxed) + bytes);
  }
  ~Held() {
    if (bytes_ == 0) return;
    held.fetch_sub(bytes_, std::memory_order_relaxed);
    if (budget_) budget_->give(bytes_);
  }
  Held(Held&& other) noexcept : bytes_(std::exchange(other.bytes_, 0)), budget_(std::move(other.budget_)) {}
  Held& operator=(Held&&) = delete;

 private:
  int64_t bytes_;
  std::shared_ptr<Budget> budget_;
};

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

  void give(Block block) noexcept {
    const std::lock_guard lock(mutex_);
    try {
      waiting_.emplace(block.size, block.p);
    } catch (const std::bad_alloc&) {        // freeing memory must not fail
      ::munmap(block.p, block.size);
      return;
    }
    total_ += block.size;
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

// Fresh memory at a multiple of `large_page`, which the system is asked to give in pages of that size; null if it has none.
constexpr size_t large_page = 2 << 20;
void* map_large(size_t bytes) {
  void* const p = ::mmap(nullptr, bytes + large_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  char *const begin = static_cast<char*>(p), *const from = begin + (large_page - uintptr_t(p) % large_page) % large_page;
  if (from > begin) ::munmap(begin, size_t(from - begin));
  ::munmap(from + bytes, size_t(begin + large_page - from));
#ifdef MADV_HUGEPAGE
  ::madvise(from, bytes, MADV_HUGEPAGE);      // advice: a refusal costs speed alone
#endif
  return from;
}

enum class Pages { any, large };
std::shared_ptr<void> aligned_memory(size_t bytes, Pages pages = Pages::any) {
  require_as(Trouble::memory, bytes <= SIZE_MAX / 2, "storage: cannot allocate ", bytes, " bytes");
  struct Owner {                       // allocated first: from there on nothing fails that would leave memory behind
    Held held;
    void* heap = nullptr;
    Blocks::Block block{}, large{};
    explicit Owner(size_t n) : held(int64_t(n)) {}
    ~Owner() {
      std::free(heap);
      if (block.p) Blocks::shared().give(block);
      if (large.p) ::munmap(large.p, large.size);
    }
  };
  auto owner = std::make_shared<Owner>(bytes);
  const bool limited = current_budget && current_budget->limit() != Budget::none;
  if (pages == Pages::large && bytes >= 2 * large_page) owner->large.size = (bytes + large_page - 1) / large_page * large_page, owner->large.p = map_large(owner->large.size);
  else if (bytes >= Blocks::least && !limited && Blocks::shared().open()) owner->block = Blocks::shared().take(bytes);
  else owner->heap = std::aligned_alloc(alignment, std::max(round_up(bytes), alignment));
  void* p = owner->large.p ? owner->large.p : owner->block.p ? owner->block.p : owner->heap;
  require_as(Trouble::memory, p, "storage: out of memory for ", bytes, " bytes");
  return {std::move(owner), p};
}

}  // namespace

File::File(const std::string& path) : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  require_as(Trouble::input_output, fd >= 0, "cannot open '", path, "': ", std::strerror(errno));
  struct stat st;
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    ::close(fd);
    fail_as(Trouble::input_output, "'", path, "' is not a regular file");
  }
  size = uint64_t(st.st_size);
}
File::~File() { ::close(fd); }

Storage Storage::allocate(size_t bytes) { return open_arena ? open_arena->take(bytes) : allocate_owned(bytes); }

Storage Storage::allocate_owned(size_t bytes) {
  auto memory = aligned_memory(bytes);
  void* p = memory.get();
  return {std::move(memory), p, bytes, true};
}

Storage Storage::allocate_large(size_t bytes) {
  auto memory = aligned_memory(bytes, Pages::large);
  void* p = memory.get();
  return {std::move(memory), p, bytes, true};
}

Storage Storage::map_file(const std::string& path) {
  File file(path);
  require_as(Trouble::input_output, file.size > 0, "'", path, "' is empty");
  void* p = ::mmap(nullptr, file.size, PROT_READ, MAP_SHARED, file.fd, 0);
  require_as(Trouble::input_output, p != MAP_FAILED, "cannot map '", path, "' (", file.size, " bytes): ", std::strerror(errno));
  const size_t size = file.size;
  Storage out(std::shared_ptr<void>(p, [size](void* q) { ::munmap(q, size); }), p, size, false);
  out.mapped_ = true;
  return out;
}

Storage Storage::read_file(const std::string& path) {
  const File file(path);
  return read(file.fd, 0, file.size, path);
}

Storage Storage::read(int fd, uint64_t offset, uint64_t bytes, const std::string& name, const std::function<void(uint64_t)>& progress) {
  constexpr uint64_t piece = 4 << 20;          // so that cancelling takes no longer than reading this
  Storage out = allocate_large(bytes);
  for (uint64_t at = 0; at < bytes;) {
    Cancellation::point();
    const ssize_t n = ::pread(fd, out.data() + at, std::min(piece, bytes - at), off_t(offset + at));
    if (n < 0 && errno == EINTR) continue;
    require_as(Trouble::input_output, n > 0, "cannot read '", name, "' at offset ", offset + at, " of ", offset + bytes, ": ",
               n < 0 ? std::strerror(errno) : "the file ends early");
    at += uint64_t(n);
    if (progress) progress(at);
  }
  return out;
}

Storage::Reuse::Reuse() { Blocks::shared().enter(); }
Storage::Reuse::~Reuse() { Blocks::shared().leave(); }

Budget* Budget::current() { return current_budget; }
Budget::Scope::Scope(Budget* budget) : outer_(std::exchange(current_budget, budget)) {}
Budget::Scope::~Scope() { current_budget = outer_; }

void Budget::take(int64_t bytes) {
  int64_t before = held();
  do {
    require_as(Trouble::memory_limit, bytes <= limit_ - before, "memory limit of ", limit_, " bytes: ", before, " are held, ", bytes, " more are needed");
  } while (!held_.compare_exchange_weak(before, before + bytes, std::memory_order_relaxed));
  raise(most_, before + bytes);
}

Storage::Use Storage::use() { return {held.load(std::memory_order_relaxed), most_held.load(std::memory_order_relaxed)}; }
void Storage::reset_use() { most_held.store(held.load(std::memory_order_relaxed), std::memory_order_relaxed); }

Storage Storage::borrow(void* data, size_t bytes, bool writable) { return {nullptr, data, bytes, writable}; }

Storage Storage::part(size_t offset, size_t bytes) const {
  require(offset <= size_ && bytes <= size_ - offset, "storage: [", offset, ", +", bytes, ") lies outside of ", size_, " bytes");
  Storage out(owner_, data_ + offset, bytes, writable_);
  out.mapped_ = mapped_;
  return out;
}

void Storage::leave_memory() const {
  if (!mapped_) return;
  const auto page = uintptr_t(::sysconf(_SC_PAGESIZE)), begin = (uintptr_t(data_) + page - 1) / page * page, end = (uintptr_t(data_) + size_) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);      // advice: failing costs memory alone
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

// Before each object lies who keeps its memory alive: a chunk, or nobody where it is the heap's.
using Keeper = std::shared_ptr<void>;
constexpr size_t keeper_bytes = 16;
static_assert(sizeof(Keeper) <= keeper_bytes && alignof(Keeper) <= keeper_bytes);

void* Arena::take_object(size_t bytes) {
  std::byte* p;
  if (open_arena) {
    Storage memory = open_arena->take(keeper_bytes + bytes);
    p = memory.data();
    new (p) Keeper(std::move(memory.owner_));
  } else {
    p = static_cast<std::byte*>(::operator new(keeper_bytes + bytes));
    new (p) Keeper;
  }
  return p + keeper_bytes;
}

void Arena::give_object(void* object) noexcept {
  std::byte* const p = static_cast<std::byte*>(object) - keeper_bytes;
  auto* const place = reinterpret_cast<Keeper*>(p);
  const Keeper keeper = std::move(*place);
  place->~Keeper();
  if (!keeper) ::operator delete(p);
}

void Arena::reset() {
  std::erase_if(chunks_, [](const Chunk& c) { return c.memory.use_count() > 1; });   // a tensor escaped: the chunk is its own now
  for (Chunk& c : chunks_) c.used = 0;
}

}  // namespace kvt
