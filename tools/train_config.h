// The configuration of `kvt train` and `kvt experiment`: one JSON object. Each reader takes its keys; a key that nothing read is an error, as is one of
// another type. Errors name file and path: "config.json: /training/lr: expected a number".
#pragma once
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "engine/train.h"

namespace kvt {

class Config {
 public:
  static Config open(const std::string& path);

  bool has(const std::string& key) const { return value_.contains(key); }
  Config object(const std::string& key);                          // empty if absent; call its finish(), too
  std::vector<Config> objects(const std::string& key);            // a list of at least one; call the finish() of each, too
  std::string text(const std::string& key);
  std::string text(const std::string& key, const std::string& fallback) { return has(key) ? text(key) : fallback; }
  nlohmann::json value(const std::string& key) { return take(key); }      // whatever it is
  std::vector<std::string> texts(const std::string& key);         // a list of strings, or one
  int64_t count(const std::string& key, int64_t least, int64_t most);
  std::vector<int64_t> counts(const std::string& key, int64_t least, int64_t most);      // a list of at least one
  int64_t count(const std::string& key, int64_t least, int64_t most, int64_t fallback) { return has(key) ? count(key, least, most) : fallback; }
  double real(const std::string& key, double least, double most);
  double real(const std::string& key, double least, double most, double fallback) { return has(key) ? real(key, least, most) : fallback; }
  bool flag(const std::string& key, bool fallback);
  void finish() const;                                            // throws for the first key that was not read

  [[noreturn]] void bad(const std::string& key, const std::string& why) const;

 private:
  Config(nlohmann::json value, std::string where) : value_(std::move(value)), where_(std::move(where)) {}
  const nlohmann::json& take(const std::string& key);

  nlohmann::json value_;
  std::string where_;                                             // "config.json: /training"
  std::set<std::string> read_;
};

// "training": steps or epochs, batch, accumulate, schedule, lr, warmup, clip, beta1, beta2, eps, weight_decay, precision, recompute, eval_every,
// patience, save_every; and seed
TrainOptions read_training(Config config, uint64_t seed);

}  // namespace kvt
