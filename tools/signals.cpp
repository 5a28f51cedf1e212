#include "tools/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace kvt {

namespace {

// In a handler nothing may be used that allocates or locks.
void say(const char* text, size_t n) { [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, n); }
void say(const char* text) { say(text, std::strlen(text)); }

uintptr_t hexadecimal(const char*& at) {
  uintptr_t x = 0;
  for (;; ++at) {
    if (*at >= '0' && *at <= '9') x = x * 16 + uintptr_t(*at - '0');
    else if (*at >= 'a' && *at <= 'f') x = x * 16 + uintptr_t(*at - 'a' + 10);
    else return x;
  }
}

// If `line` of /proc/self/maps, "from-to rwxp offset device inode   path", has the address in its range: the path.
const char* file_at(const char* line, uintptr_t address) {
  const uintptr_t from = hexadecimal(line), to = hexadecimal(++line);
  return address >= from && address < to ? std::strchr(line, '/') : nullptr;
}

void say_file_at(uintptr_t address) {
  const int fd = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  char line[4096], buffer[4096];
  size_t length = 0;
  for (ssize_t n; fd >= 0 && (n = ::read(fd, buffer, sizeof buffer)) > 0;)
    for (ssize_t i = 0; i < n; ++i) {
      if (buffer[i] != '\n') {
        if (length < sizeof line - 1) line[length++] = buffer[i];
        continue;
      }
      line[length] = '\0';
      length = 0;
      if (const char* path = file_at(line, address)) {
        say("'");
        say(path);
        return say("'");
      }
    }
  say("a mapped file");
}

void on_bus_error(int, siginfo_t* info, void*) {
  say("kvt: ");
  say_file_at(reinterpret_cast<uintptr_t>(info->si_addr));
  say(" was cut or could not be read while it was in use; --no-mmap reads a model into memory first\n");
  ::_exit(1);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_RESETHAND;
  ::sigaction(SIGBUS, &action, nullptr);
  ::signal(SIGXFSZ, SIG_IGN);
}

}  // namespace kvt
