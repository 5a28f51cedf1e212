// What a user sees of training: a plan, progress, results. On a terminal progress rewrites one line; a log gets about a hundred lines.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "engine/fusion.h"
#include "engine/train.h"

namespace kvt {

class Report {
 public:
  explicit Report(bool as_json);

  void line(const std::string& text);                      // for people, on standard error; nothing with JSON
  void progress(const std::string& text);                  // a line that the next one replaces; only on a terminal
  void event(const nlohmann::json& object) const;          // one JSON line on standard output; nothing without
  void step(const StepReport& r);
  void validation(const ValidationReport& r);
  // How it ended, and which step's weights are kept: the best on the validation data (null: there are none), or, where these were learned, the last, whose loss on them
  // `state` gets. Throws Interrupted.
  void end(TrainEnd how, TrainState& state, const Task* validation, bool learned, const TrainOptions& options);
  [[noreturn]] void nothing(const std::string& what, double loss);      // of rounds that did not gain: says so to who reads JSON, and throws
  void memory(const TrainingMemory& planned, int64_t weights);      // before the run; weights: bytes of those that stay
  void peak(const std::string& out, int64_t planned);      // after it; 0 = nothing was planned

 private:
  bool json_, terminal_, open_ = false;
};

// The fusion with the least of `losses` (engine/fusion.h), reported. Throws Interrupted when there are none.
Fusion best_fusion(Report& report, const std::vector<FusionLoss>& losses);

std::string megabytes(int64_t bytes);                      // "12 MB"
std::string in_thousands(int64_t n);                       // "12 345"
int64_t peak_memory();                                     // of this process, in bytes

}  // namespace kvt
