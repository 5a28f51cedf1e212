// A file that appears whole or not at all: written beside its place without a name or under a temporary one, synced, then renamed.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace kvt {

// AtomicFile f(path);  f.write(p, n); …  f.commit();
// Until commit() returns, `path` is what it was before; without commit() nothing of the new one is left; nor is it when
// the process is killed, where the file system has files without a name (Linux: ext4, XFS, Btrfs, tmpfs, …).
// Every failure (no permission, disk full) is an Error with path and reason.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);        // refuses a path that is there and no regular file, such as /dev/null
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);   // appends
  size_t size() const { return size_; }         // bytes so far
  void commit();                                // once, last

 private:
  void write_through(const char* data, size_t bytes);
  void give_name();
  [[noreturn]] void fail_with_errno(const char* what) const;

  std::string path_, temporary_;                // the latter empty while it has no name
  int fd_ = -1;
  size_t size_ = 0;
  std::vector<char> buffer_;                    // collects small pieces
};

}  // namespace kvt
