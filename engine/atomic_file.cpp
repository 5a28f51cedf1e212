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

static std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

static std::string name_beside(const std::string& path) {
  static std::atomic<unsigned> serial{0};
  return path + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(serial++);
}

// Linux gives a file its name when it is complete: a process that is killed leaves nothing behind. −1 where the file system cannot, or
// where a name could not be given later (Android lets no program make links).
static int open_unnamed([[maybe_unused]] const char* folder) {
#if defined(O_TMPFILE) && !defined(__ANDROID__)
  const int fd = ::open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
  if (fd < 0 || ::access("/proc/self/fd", X_OK) == 0) return fd;
  ::close(fd);
#endif
  return -1;
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  buffer_.reserve(buffer_bytes);
  struct stat old;
  const bool replaces = ::stat(path_.c_str(), &old) == 0;
  require_as(Trouble::input_output, !replaces || S_ISREG(old.st_mode), "cannot write '", path_, "': it is not a regular file");
  fd_ = open_unnamed(folder_of(path_).c_str());
  while (fd_ < 0) {
    temporary_ = name_beside(path_);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST) fail_with_errno("cannot create a file beside it");
  }
  if (replaces) ::fchmod(fd_, old.st_mode & 0777);      // as far as we may: the owner's choice outlives the old file
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

// Names the file where open_unnamed left it without.
void AtomicFile::give_name() {
  const std::string unnamed = "/proc/self/fd/" + std::to_string(fd_);
  for (;;) {
    std::string name = name_beside(path_);
    if (::linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) return temporary_.swap(name);
    if (errno != EEXIST) fail_with_errno("cannot name the file");
  }
}

void AtomicFile::commit() {
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
  const std::string folder = folder_of(path_);           // before the file is in place: from then on memory may be short
  if (::fsync(fd_) != 0) fail_with_errno("sync failed");
  if (temporary_.empty()) give_name();
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) fail_with_errno("close failed");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_with_errno("rename failed");
  temporary_.clear();

  // The new name must survive a loss of power too. Some file systems cannot sync a directory and say EINVAL.
  const int dir = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return;                                   // a folder may be writable and not readable
  const bool synced = ::fsync(dir) == 0 || errno == EINVAL;
  const int reason = errno;
  ::close(dir);
  errno = reason;
  if (!synced) fail_with_errno("sync of its folder failed");
}

}  // namespace kvt
