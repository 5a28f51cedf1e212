// Bytes, and who keeps them alive: the heap, an arena, a mapped file, or the caller.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace kvt {

// A regular file, open for reading until the end of its scope. Throws an Error naming the path.
struct File {
  explicit File(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd;
  uint64_t size;
};

class Storage {
 public:
  Storage() = default;

  // Uninitialised, 64-byte aligned; taken from the thread's open Arena::Scope if there is one, else from the heap.
  static Storage allocate(size_t bytes);
  // From the heap even inside an Arena::Scope: for what outlives it (weights, gradients, caches).
  static Storage allocate_owned(size_t bytes);
  // The same, of more than a few megabytes in pages of 2 MB where the system has them: for what is read from one end to the other, such as weights. Memory
  // is read about half as fast again as through pages of 4 KB, and is there after a third of the time.
  static Storage allocate_large(size_t bytes);
  // The whole file, read-only. Throws an Error naming the path. The mapping ends with the last Storage that shares it.
  static Storage map_file(const std::string& path);
  // The whole file, copied into memory. A file that another process cuts short meanwhile is an Error, where a mapping would end the process.
  static Storage read_file(const std::string& path);
  // `bytes` of an open file from `offset` on, copied into memory; `name` stands in errors. `progress` is told the bytes so far.
  static Storage read(int fd, uint64_t offset, uint64_t bytes, const std::string& name, const std::function<void(uint64_t done)>& progress = {});
  // The caller's bytes, which must outlive every user. `writable` = false promises that nothing writes to them.
  static Storage borrow(void* data, size_t bytes, bool writable);

  // Bytes on the heap that storages of the whole process hold now, and the most they held since the start or reset_use().
  struct Use { int64_t now, most; };
  static Use use();
  static void reset_use();

  // While one lives, in any thread, large blocks that are freed wait for tensors of about their size: training asks for the same sizes
  // step after step, and fresh pages cost time. Within a limited Budget they do not: it counts what is in use. What waits and what is in use are never more than 9/8 of the most that was in use at once.
  class Reuse {
   public:
    Reuse();
    ~Reuse();
    Reuse(const Reuse&) = delete;
    Reuse& operator=(const Reuse&) = delete;
  };

  // A part of these bytes that keeps the whole alive. Throws when it does not lie within.
  Storage part(size_t offset, size_t bytes) const;

  // Of a mapped file, lets the system take these bytes' pages from memory; they come back when they are read. Of other bytes nothing.
  void leave_memory() const;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  bool writable() const { return writable_; }
  bool mapped() const { return mapped_; }      // part of a mapped file
  explicit operator bool() const { return data_ != nullptr; }

 private:
  friend class Arena;
  Storage(std::shared_ptr<void> owner, void* data, size_t size, bool writable)
      : owner_(std::move(owner)), data_(static_cast<std::byte*>(data)), size_(size), writable_(writable) {}

  std::shared_ptr<void> owner_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  bool writable_ = true, mapped_ = false;
};

// What the storages of one owner hold together, and a limit that they keep: those allocated while a Scope is open on the thread, and
// by the loops that the thread runs in parallel, count until they are freed, wherever that is. What would exceed the limit is an Error
// (Trouble::memory_limit), and nothing is allocated. Mapped and borrowed bytes do not count.
class Budget : public std::enable_shared_from_this<Budget> {
 public:
  static constexpr int64_t none = std::numeric_limits<int64_t>::max();
  explicit Budget(int64_t limit = none) : limit_(limit) {}

  int64_t limit() const { return limit_; }
  int64_t held() const { return held_.load(std::memory_order_relaxed); }
  int64_t most() const { return most_.load(std::memory_order_relaxed); }      // at once, since the start or reset_most()
  void reset_most() { most_.store(held(), std::memory_order_relaxed); }

  class Scope {
   public:
    explicit Scope(Budget* budget);            // of a shared_ptr; null = none
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
   private:
    Budget* outer_;
  };
  static Budget* current();

  void take(int64_t bytes);
  void give(int64_t bytes) { held_.fetch_sub(bytes, std::memory_order_relaxed); }

 private:
  const int64_t limit_;
  std::atomic<int64_t> held_{0}, most_{0};
};

// Memory for the short-lived tensors of one decoding step: allocation moves a pointer, the end of the Scope takes all back.
//
//   Arena arena;
//   for (;;) { Arena::Scope scope(arena); logits = model(token, cache); … }
//
// A tensor that escapes its scope is safe: it keeps its chunk, and the arena makes a new one.
class Arena {
 public:
  class Scope {
   public:
    explicit Scope(Arena& arena);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
   private:
    Arena* outer_;
  };

  size_t reserved() const;      // bytes held in chunks

  // Memory for small objects, from the thread's open Arena::Scope if there is one, else from the heap; at a multiple of 16. Outlives the scope if it must.
  static void* take_object(size_t bytes);
  static void give_object(void* p) noexcept;

 private:
  friend class Storage;
  struct Chunk { std::shared_ptr<void> memory; size_t size, used; };
  Storage take(size_t bytes);
  void reset();

  std::vector<Chunk> chunks_;
};

// Has the standard library's containers and shared pointers take what they hold from the thread's open Arena::Scope if there is one: a decoding step whose
// tensors and lists all come from there asks the heap for nothing.
template <class T>
struct ArenaAllocator {
  using value_type = T;
  ArenaAllocator() = default;
  template <class U> ArenaAllocator(const ArenaAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(Arena::take_object(n * sizeof(T))); }
  void deallocate(T* p, size_t) noexcept { Arena::give_object(p); }
  friend bool operator==(const ArenaAllocator&, const ArenaAllocator&) { return true; }
};
template <class T> using ArenaVector = std::vector<T, ArenaAllocator<T>>;      // a short list of one step

}  // namespace kvt
