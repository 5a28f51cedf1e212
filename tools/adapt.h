// What the methods of `kvt adapt` share.
#pragma once
#include <map>
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
};

// "3" or "3-7" → first and last block; "" → all, (0, −1). Throws for anything else.
using BlockRange = std::pair<int64_t, int64_t>;
BlockRange parse_blocks(const std::string& text);

// All that decides the result, for comparing a checkpoint's with it.
std::map<std::string, std::string> identity(const AdaptOptions& o, const Examples& data, const Examples* validation);

// Sets how `adapter`'s scores are fused with the base's, as --fuse asks; its adapters are attached to the model.
void store_fusion(Report& report, const AdaptOptions& o, LoadedModel& m, const Examples* validation, Gguf& adapter);

// --method kvt and lora-xs, and lora with --init or --rounds (tools/adapt_rounds.cpp). Writes the adapter.
bool in_rounds(const AdaptOptions& o);
void adapt_in_rounds(const AdaptOptions& o, LoadedModel& m, const std::string& base, const Examples& data, const Examples& validation, Report& report);

}  // namespace kvt
