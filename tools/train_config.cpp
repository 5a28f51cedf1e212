#include "tools/train_config.h"

#include "tools/common.h"

namespace kvt {

using nlohmann::json;

Config Config::open(const std::string& path) {
  json value;
  try {
    value = json::parse(read_text(path));
  } catch (const json::exception& e) {
    fail(path, ": ", e.what());
  }
  require(value.is_object(), path, ": expected a JSON object");
  return Config(std::move(value), path + ": ");
}

void Config::bad(const std::string& key, const std::string& why) const { fail(where_, "/", key, ": ", why); }

const json& Config::take(const std::string& key) {
  if (!has(key)) bad(key, "is missing");
  read_.insert(key);
  return value_[key];
}

Config Config::object(const std::string& key) {
  if (!has(key)) return Config(json::object(), where_ + "/" + key);
  if (!take(key).is_object()) bad(key, "expected an object");
  return Config(value_[key], where_ + "/" + key);
}

std::vector<Config> Config::objects(const std::string& key) {
  const json& list = take(key);
  if (!list.is_array() || list.empty()) bad(key, "expected a list of objects");
  std::vector<Config> items;
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object()) bad(key, "item " + std::to_string(i) + ": expected an object");
    items.push_back(Config(list[i], where_ + "/" + key + "/" + std::to_string(i)));
  }
  return items;
}

std::string Config::text(const std::string& key) {
  const json& v = take(key);
  if (!v.is_string()) bad(key, "expected a string");
  return v.get<std::string>();
}

std::vector<std::string> Config::texts(const std::string& key) {
  const json& v = take(key);
  if (v.is_string()) return {v.get<std::string>()};
  if (!v.is_array() || v.empty() || !std::all_of(v.begin(), v.end(), [](const json& item) { return item.is_string(); }))
    bad(key, "expected a string or a list of strings");
  return v.get<std::vector<std::string>>();
}

int64_t Config::count(const std::string& key, int64_t least, int64_t most) {
  const json& v = take(key);
  if (!v.is_number_integer() || v < least || v > most)
    bad(key, "expected a whole number from " + std::to_string(least) + " to " + std::to_string(most) + ", got " + v.dump());
  return v.get<int64_t>();
}

std::vector<int64_t> Config::counts(const std::string& key, int64_t least, int64_t most) {
  const json& list = take(key);
  if (!list.is_array() || list.empty()) bad(key, "expected a list of whole numbers");
  for (const json& v : list)
    if (!v.is_number_integer() || v < least || v > most)
      bad(key, "expected whole numbers from " + std::to_string(least) + " to " + std::to_string(most) + ", got " + v.dump());
  return list.get<std::vector<int64_t>>();
}

double Config::real(const std::string& key, double least, double most) {
  const json& v = take(key);
  if (!v.is_number() || !(v >= least && v <= most)) bad(key, "expected a number from " + json(least).dump() + " to " + json(most).dump() + ", got " + v.dump());
  return v.get<double>();
}

bool Config::flag(const std::string& key, bool fallback) {
  if (!has(key)) return fallback;
  if (!take(key).is_boolean()) bad(key, "expected true or false");
  return value_[key].get<bool>();
}

void Config::finish() const {
  for (const auto& item : value_.items())
    if (!read_.contains(item.key())) bad(item.key(), "is not a key of this task");
}

TrainOptions read_training(Config c, uint64_t seed) {
  TrainOptions o;
  constexpr int64_t many = int64_t(1) << 40;
  if (c.has("steps") == c.has("epochs")) c.bad("steps", "give either steps or epochs");
  o.steps = c.count("steps", 1, many, 0);
  o.epochs = c.count("epochs", 1, many, 1);
  o.batch = c.count("batch", 1, 1 << 20, o.batch);
  o.accumulate = c.count("accumulate", 1, 1 << 20, o.accumulate);
  o.schedule = schedule_kind(c.text("schedule", "cosine"));
  o.lr = float(c.real("lr", 1e-12, 10));
  o.warmup = c.count("warmup", 0, many, 0);
  o.clip = float(c.real("clip", 0, 1e9, double(o.clip)));
  o.optimizer.beta1 = float(c.real("beta1", 0, 0.999999, double(o.optimizer.beta1)));
  o.optimizer.beta2 = float(c.real("beta2", 0, 0.999999, double(o.optimizer.beta2)));
  o.optimizer.eps = float(c.real("eps", 1e-30, 1, double(o.optimizer.eps)));
  o.optimizer.weight_decay = float(c.real("weight_decay", 0, 100, double(o.optimizer.weight_decay)));
  const std::string precision = c.text("precision", name(o.precision));
  if (precision != "f32" && precision != "bf16") c.bad("precision", "expected f32 or bf16, got '" + precision + "'");
  o.precision = precision_named(precision);
  o.recompute = c.flag("recompute", false);
  o.eval_every = c.count("eval_every", 0, many, 0);
  o.patience = c.count("patience", 0, many, 0);
  o.save_every = c.count("save_every", 0, many, 0);
  o.seed = seed;
  c.finish();
  return o;
}

}  // namespace kvt
