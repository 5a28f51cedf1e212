#include "engine/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "tensor/error.h"

namespace kvt {

static constexpr size_t buffer_bytes = 1 << 16;

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  struct stat old;
  const bool replaces = ::stat(path_.c_str(), &old) == 0;
  require_as(Trouble::input_output, !replaces || S_ISREG(old.st_mode), "cannot write '", path_, "': it is not a regular file");
  static std::atomic<unsigned> serial{0};
  do {
    temporary_ = path_ + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(serial++);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd_ < 0 && errno == EEXIST);
  if (fd_ < 0) fail_with_errno("cannot create a file beside it");
  if (replaces) ::fchmod(fd_, old.st_mode & 0777);      // as far as we may: the owner's choice outlives the old file
  buffer_.reserve(buffer_bytes);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::fail_with_errno(const char* what) const { fail_as(Trouble::input_output, "cannot write '", path_, "': ", what, ": ", std::strerror(errno)); }

void AtomicFile::write(const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  if (buffer_.size() + bytes > buffer_bytes) {
    write_through(buffer_.data(), buffer_.size());
    buffer_.clear();
  }
  if (bytes >= buffer_bytes) write_through(from, bytes);
  else buffer_.insert(buffer_.end(), from, from + bytes);
  size_ += bytes;
}

void AtomicFile::write_through(const char* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = ::write(fd_, data, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_with_errno("write failed");
    data += n;
    bytes -= size_t(n);
  }
}

void AtomicFile::commit() {
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
  if (::fsync(fd_) != 0) fail_with_errno("sync failed");
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) fail_with_errno("close failed");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_with_errno("rename failed");
  temporary_.clear();

  // The new name must survive a loss of power too. Some file systems cannot sync a directory and say EINVAL.
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  const int dir = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return;                                   // a folder may be writable and not readable
  const bool synced = ::fsync(dir) == 0 || errno == EINVAL;
  const int reason = errno;
  ::close(dir);
  errno = reason;
  if (!synced) fail_with_errno("sync of its folder failed");
}

}  // namespace kvt
