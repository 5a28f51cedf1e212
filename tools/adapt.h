// What the methods of `kvt adapt` share.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/train.h"
#include "tools/common.h"
#include "tools/training_report.h"

namespace kvt {

struct AdaptOptions {
  ModelOptions model;
  std::string method = "lora", data, valid, out, checkpoint, schedule = "cosine", layers, out_type = "F32", fuse;
  std::vector<std::string> targets = {"all"};
  double valid_split = 0, lr = 0;
  int64_t rank = 8, length = 256;
  float alpha = 16;
  bool resume = false, json = false;
  TrainOptions train;
  std::string core = "extracted", k = "8";        // of kvt; k: a number or "auto"
  std::string init;                               // of low-rank methods; "" = lora: random, lora-xs: weight-svd, kvt: gradient-svd
  int64_t rounds = 0;                             // 0 = kvt 8, others 1
  float eta = 1.f / 32;
  std::vector<std::string> levels = {"concept", "sentence", "word"};      // of kvt-generated
  int64_t size = 0, vectors = 0, knowledge_layer = -1, texts = 16;
  bool no_extractor = false;
  float mu = 1e-3f;
};

// "3" or "3-7" → first and last block; "" → all, (0, −1). Throws for anything else.
using BlockRange = std::pair<int64_t, int64_t>;
BlockRange parse_blocks(const std::string& text);

// All that decides the result, for comparing a checkpoint's with it.
std::map<std::string, std::string> identity(const AdaptOptions& o, const Examples& data, const Examples* validation);

// Sets how `adapter`'s scores are fused with the base's, as --fuse asks; `model` has it attached.
void store_fusion(Report& report, const AdaptOptions& o, const std::shared_ptr<CausalLm>& model, const Examples* validation, Gguf& adapter);
inline std::shared_ptr<CausalLm> unowned(CausalLm& model) { return {&model, [](CausalLm*) {}}; }

// What a method trains, what becomes of it, and the model and the losses that it is trained with.
struct Method {
  TrainedSet trained;
  std::function<Gguf()> result;
  std::shared_ptr<CausalLm> model;
  std::function<std::unique_ptr<Task>(const Examples&, bool learned)> task;
};
// --method kvt-generated (tools/adapt_generated.cpp)
Method set_up_generated(const AdaptOptions& o, LoadedModel& m, const std::string& base, const Examples& data);

// --method kvt and lora-xs, and lora with --init or --rounds (tools/adapt_rounds.cpp). Writes the adapter.
bool in_rounds(const AdaptOptions& o);
void adapt_in_rounds(const AdaptOptions& o, LoadedModel& m, const std::string& base, const Examples& data, const Examples& validation, Report& report);

}  // namespace kvt
