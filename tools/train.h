// What the tasks of `kvt train` share: folders, the run itself with progress, checkpoints and the learning curve.
#pragma once
#include "engine/adapter.h"
#include "engine/checkpoint.h"
#include "engine/kvt_adapter.h"
#include "engine/rounds.h"
#include "tools/train_config.h"
#include "tools/training_report.h"

namespace kvt {

struct TrainPaths {
  std::string data;                     // folder that data files are relative to
  std::string out;                      // GGUF of the result; beside it OUT.checkpoint and OUT.svg
  bool resume = false, json = false, memory = false;

  std::string file(const std::string& name) const { return data.empty() || name.starts_with("/") ? name : data + "/" + name; }
};

struct TrainJob {
  std::string title;                    // of the learning curve
  const Task* task = nullptr;
  const Task* validation = nullptr;     // may be null
  bool learn_validation = false;        // it is learned as well, and chooses nothing
  TrainedSet trained;
  TrainOptions options;
  std::map<std::string, std::string> identity;      // what decides the result, beside the options: for resuming
  std::function<Gguf(Report&)> result;  // the model file once training is over
  Linear* head = nullptr;               // of a classifier
  std::function<std::vector<Tensor>(int64_t n, int64_t layer)> knowledge_states;      // of the first n examples, [T, C] each, behind block `layer` (engine/kvt_adapter.h)
  std::function<std::vector<FusionLoss>()> fusion_losses;      // of a classifier with validation data: its scores fused with its base's (engine/fusion.h)
};

// "base": GGUF of a trained model to go on from, instead of random weights; "method": what becomes of it.
//   full                     all weights; the result is a model, that of all others an adapter (engine/adapter.h)
//   probe                    the class head alone
//   lora, adapterdrop        {"rank", "alpha", "targets"}
//   ia3                      (engine/ia3.h)
//   lora-xs, kvt             {"rank", "alpha", "init"} and {"core", "k", "rounds", "eta", "init", "refine", "refine_rank"}, with "targets" (engine/rounds.h);
//                            need validation data. "mean_rank" and "out_type": how the result is stored (engine/compress.h)
//   kvt-generated            {"levels": ["concept", "sentence", "word"], "size", "vectors", "knowledge_layer", "texts", "extractor", "mu", "targets"}, levels "none" = the constant core: of images,
//                            whose words are patches, and of translation, whose sentence is the source on both sides (engine/kvt_adapter.h)
// "learn_validation": true has validation data learned as well, so that they choose nothing: of kvt (engine/rounds.h) and of what is not in rounds.
// All but the first two: "head": true trains the class head as well, "fuse": "auto" fuses with the base as validation says, "drop": N leaves the
// first N blocks alone (adapterdrop: 5/12 of them).
struct TrainMethod {
  std::string name = "full";
  bool head = false, fuse = false, learn_validation = false;
  DType out_type = DType::F32;
  int64_t drop = -1;
  LoraOptions lora;
  RoundsOptions rounds;
  KvtOptions generated;
  int64_t knowledge_layer = -1, texts = 16;
  float mu = 1e-3f;
};
TrainMethod read_method(Config config, const TrainOptions& options);
// The job's title, tasks, options and identity are set; the rest follows from the method.
void run_method(TrainJob job, const TrainMethod& method, Model& model, const Gguf& base, const TrainPaths& paths);

// Trains, shows progress on standard error (JSON lines on standard output if asked for), writes the curve and the result.
// Throws Interrupted after ^C, when the checkpoint is written.
void run_job(const TrainJob& job, const TrainPaths& paths);

// One for each value of "task".
void train_images(Config& config, const TrainPaths& paths);
void train_language(Config& config, const TrainPaths& paths);
void train_translation(Config& config, const TrainPaths& paths);

}  // namespace kvt
