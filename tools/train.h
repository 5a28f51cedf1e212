// What the tasks of `kvt train` share: folders, the run itself with progress, checkpoints and the learning curve.
#pragma once
#include "engine/checkpoint.h"
#include "tools/train_config.h"

namespace kvt {

struct TrainPaths {
  std::string data;                     // folder that data files are relative to
  std::string out;                      // GGUF of the result; beside it OUT.checkpoint and OUT.svg
  bool resume = false, json = false;

  std::string file(const std::string& name) const { return data.empty() || name.starts_with("/") ? name : data + "/" + name; }
};

struct TrainJob {
  std::string title;                    // of the learning curve
  const Task* task = nullptr;
  const Task* validation = nullptr;     // may be null
  TrainedSet trained;
  TrainOptions options;
  std::map<std::string, std::string> identity;      // what decides the result, beside the options: for resuming
  std::function<Gguf()> result;         // the model file once training is over
};

// Trains, shows progress on standard error (JSON lines on standard output if asked for), writes the curve and the result.
// Throws Interrupted after ^C, when the checkpoint is written.
void run_job(const TrainJob& job, const TrainPaths& paths);

// One for each value of "task".
void train_images(Config& config, const TrainPaths& paths);
void train_language(Config& config, const TrainPaths& paths);
void train_translation(Config& config, const TrainPaths& paths);

}  // namespace kvt
