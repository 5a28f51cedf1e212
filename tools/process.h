// Other programs, run to their end.
#pragma once
#include <string>
#include <vector>

namespace kvt {

struct ProcessResult {
  int status = 0;              // exit status; 128 + signal if one ended it
  std::string out, error;      // what it printed; of standard error the last 4 KB
  double seconds = 0;
  long peak_memory = 0;        // bytes, resident
};

// Throws an Error naming the program if it cannot be started. ^C reaches the child, too, which decides what to do about it.
ProcessResult run_process(const std::vector<std::string>& command);

std::string own_program();     // path of the running program

}  // namespace kvt
