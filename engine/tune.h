// Measures which values of tunables (ops/tuning.h) make work fastest on this machine.
//
// First coordinate search: one tunable at a time, half and twice its value and what lies between, until a round brings nothing. Then Nelder–Mead (1965) from
// there, in log₂ of all values at once, for what they decide together. Times are noisy: a candidate and the best so far run in turns, the least time of
// each counts, and a change that wins less than `least_gain` is none.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ops/tuning.h"

namespace kvt {

// Some work, and the tunables that decide how fast it is.
struct TuningTask {
  std::string name;
  std::vector<Tunable*> tunables;
  std::function<double()> seconds;      // does it once, with the tunables as they are set
};

struct TuneOptions {
  int turns = 5;                        // runs of a candidate
  int most = 200;                       // candidates of a task
  double least_gain = 0.02;
  std::function<void(const std::string&)> progress = {};      // a line for people, now and then
  std::function<bool()> stop = {};      // true ends the search; what was found holds
};

struct Tuned {
  std::vector<int64_t> values;          // as the task's tunables; they are set so, unless these are the defaults
  double gain = 0;                      // 1 − time/time with the defaults
  int candidates = 0;
};

Tuned tune(const TuningTask& task, const TuneOptions& options = {});

}  // namespace kvt
