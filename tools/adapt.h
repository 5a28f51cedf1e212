// What the methods of `kvt adapt` share.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/fusion.h"
#include "engine/train.h"
#include "tools/common.h"
#include "tools/training_report.h"

namespace kvt {

struct AdaptOptions {
  ModelOptions model;
  std::string task = "language", method = "lora", data, valid, out, checkpoint, schedule = "cosine", layers, out_type = "F32", fuse;
  std::vector<std::string> targets = {"all"};
  double valid_split = 0, lr = 0;
  int64_t rank = 8, length = 256, drop = -1;
  float alpha = 16;
  bool resume = false, json = false, memory = false;
  TrainOptions train;
  std::string core = "extracted", k = "8";        // of kvt; k: a number or "auto"
  std::string init;                               // of low-rank methods; "" = lora: random, lora-xs: weight-svd, kvt: gradient-svd
  int64_t rounds = 0;                             // 0 = kvt 8, others 1
  float eta = 1.f / 32;
  int64_t portion = 0, refine = 0;
  bool learn_validation = false;
  double mean_rank = 0;                           // of what rounds store; 0 = as they made it
  std::vector<std::string> levels = {"concept", "sentence", "word"};      // of kvt-generated
  int64_t size = 0, vectors = 0, knowledge_layer = -1, texts = 16;
  bool no_extractor = false;
  float mu = 1e-3f;
  std::string pooling = "mean", text = "{text}", label_words;             // of --task classify
};

// What is to be learned: a base, and examples as tasks of it.
class Goal {
 public:
  enum class Part { training, validation };

  Gguf gguf;                                                   // the base's file
  std::string base;                                            // its fingerprint
  virtual ~Goal() = default;
  virtual Model& model() const = 0;                            // bears the adapters
  virtual CausalLm* language_model() const = 0;                // the same, or null where it is an encoder
  virtual bool has_validation() const = 0;
  // Of what a method has made of the language model (null: of the model as it is), and fused with its base if asked for.
  virtual std::unique_ptr<Task> task(Part part, const std::shared_ptr<CausalLm>& made = {}, const std::optional<Fusion>& fusion = {}) const = 0;
  virtual const Examples& texts() const = 0;                   // the tokens that training reads
  virtual std::vector<Tensor> knowledge_states(int64_t texts, int64_t layer) const = 0;       // of those of the model as it is (engine/kvt_adapter.h)
  virtual uint64_t fingerprint(Part part) const = 0;           // 0: there is none
  virtual std::map<std::string, std::string> identity() const { return {}; }      // what else decides the result
  virtual void print(Report& report) const = 0;                // lines about the data
  virtual nlohmann::json plan() const = 0;
  virtual std::vector<FusionLoss> fusion_losses(const std::shared_ptr<CausalLm>& made, int64_t batch) const = 0;
  // A class head: trained beside whatever a method trains, stored in the adapter's file (or the checkpoint of rounds) and read again.
  virtual TrainedSet head() const { return {}; }
  virtual std::unique_ptr<Task> head_task(Part) const { return nullptr; }            // alone, on the states of the model as it is, which are computed once
  virtual double fit_head(Report&, const TrainOptions&) { return 0; }                // by that task; returns the passes over the data
  virtual void store(Gguf&) const {}
  virtual void restore(const Gguf&) {}
};
std::unique_ptr<Goal> language_goal(const AdaptOptions& o);    // tools/adapt_language.cpp
std::unique_ptr<Goal> class_goal(const AdaptOptions& o);       // tools/adapt_classes.cpp

// The blocks that --layers or --drop name, first and last; −1 = to the last.
using BlockRange = std::pair<int64_t, int64_t>;
BlockRange blocks_of(const AdaptOptions& o, const Model& model);
DType out_type(const AdaptOptions& o);
inline bool is_lora(const AdaptOptions& o) { return o.method == "lora" || o.method == "adapterdrop"; }

// All that decides the result, for comparing a checkpoint's with it.
std::map<std::string, std::string> identity(const AdaptOptions& o, const Goal& goal);

// Sets how `adapter`'s scores are fused with the base's, as --fuse asks.
void store_fusion(Report& report, const AdaptOptions& o, const Goal& goal, const std::shared_ptr<CausalLm>& made, Gguf& adapter);

// What a method trains, what becomes of it, and its tasks. `made`: the language model it is trained with, if it is another than the goal's.
struct Method {
  TrainedSet trained;
  std::function<Gguf()> result;
  std::shared_ptr<CausalLm> made;
  std::unique_ptr<Task> task, validation;
};
Method set_up(const AdaptOptions& o, Goal& goal);              // tools/adapt_methods.cpp
Method set_up_generated(const AdaptOptions& o, Goal& goal);    // --method kvt-generated (tools/adapt_generated.cpp)

// --method kvt and lora-xs, and lora with --init or --rounds (tools/adapt_rounds.cpp). Writes the adapter.
bool in_rounds(const AdaptOptions& o);
void adapt_in_rounds(const AdaptOptions& o, Goal& goal, Report& report);

}  // namespace kvt
