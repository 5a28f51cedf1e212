#include "tools/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "tensor/error.h"

extern char** environ;

namespace kvt {

namespace {

struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int ends[2];
    require(::pipe2(ends, O_CLOEXEC) == 0, "cannot make a pipe: ", std::strerror(errno));
    read = ends[0], write = ends[1];
  }
  ~Pipe() { close_end(read), close_end(write); }
  static void close_end(int& fd) {
    if (fd >= 0) ::close(fd);
    fd = -1;
  }
};

// Appends what there is to read; closes the pipe at its end.
void drain(Pipe& pipe, std::string& text) {
  char buffer[4096];
  const ssize_t n = ::read(pipe.read, buffer, sizeof buffer);
  if (n > 0) text.append(buffer, size_t(n));
  else if (n == 0 || (errno != EINTR && errno != EAGAIN)) Pipe::close_end(pipe.read);
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& command) {
  // Asked first: an emulated posix_spawn (qemu's) tells of a missing program only by status 127.
  const bool path = command.at(0).find('/') != std::string::npos;
  require(!path || ::access(command[0].c_str(), X_OK) == 0, "cannot run '", command[0], "': ", std::strerror(errno));
  Pipe out, error;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out.write, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, error.write, STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const auto start = std::chrono::steady_clock::now();
  pid_t child = 0;
  const int failed = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  require(failed == 0, "cannot run '", command[0], "': ", std::strerror(failed));
  Pipe::close_end(out.write);
  Pipe::close_end(error.write);

  ProcessResult result;
  while (out.read >= 0 || error.read >= 0) {
    pollfd ends[2] = {{out.read, POLLIN, 0}, {error.read, POLLIN, 0}};
    if (::poll(ends, 2, -1) < 0 && errno != EINTR) break;
    if (ends[0].revents) drain(out, result.out);
    if (ends[1].revents) drain(error, result.error);
    if (result.error.size() > 8192) result.error.erase(0, result.error.size() - 4096);
  }
  int status = 0;
  rusage usage{};
  while (::wait4(child, &status, 0, &usage) < 0 && errno == EINTR) {}
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.peak_memory = usage.ru_maxrss * 1024;
  return result;
}

std::string own_program() { return std::filesystem::read_symlink("/proc/self/exe").string(); }

}  // namespace kvt
