#include "engine/checkpoint.h"

#include <algorithm>
#include <cmath>

#include "engine/fingerprint.h"

namespace kvt {

static const std::string prefix = "kvt.checkpoint.";

uint64_t checkpoint_checksum(const Gguf& file) {
  Hash64 hash;
  for (const char* key : {"step", "epoch", "index", "evaluated", "best_step", "stale"}) hash.add(uint64_t(file.integer(prefix + key)));
  hash.add(std::bit_cast<uint64_t>(file.real(prefix + "best_loss")));
  hash.add(std::string_view(file.string(prefix + "base")));
  for (const char* key : {"option_names", "option_values"})
    for (const std::string& text : file.array<std::string>(prefix + key)) hash.add(std::string_view(text));
  for (const Gguf::Entry& e : file.tensors()) {
    hash.add(std::string_view(e.name));
    hash.add(e.tensor.raw(), size_t(e.tensor.bytes()));
  }
  return hash.value();
}

void set_identity(Gguf& file, const RunIdentity& run) {
  file.set(prefix + "base", run.base);
  std::vector<std::string> names, values;
  for (const auto& [name, value] : run.options) {
    names.push_back(name);
    values.push_back(value);
  }
  file.set(prefix + "option_names", names);
  file.set(prefix + "option_values", values);
}

void write_checkpoint(const std::string& path, const TrainState& state, const TrainedSet& trained, const RunIdentity& run) {
  Gguf file;
  file.set("general.type", std::string("checkpoint"));
  file.set(prefix + "version", uint32_t(1));
  set_identity(file, run);
  file.set(prefix + "step", state.step);
  file.set(prefix + "epoch", state.position.epoch);
  file.set(prefix + "index", state.position.index);
  file.set(prefix + "evaluated", state.evaluated);
  file.set(prefix + "best_step", state.best_step);
  file.set(prefix + "best_loss", state.best_loss);
  file.set(prefix + "stale", state.stale);
  for (size_t i = 0; i < trained.size(); ++i) {
    file.add(trained[i].name, trained[i].tensor);
    file.add(trained[i].name + ".m", state.moments[i].m);
    file.add(trained[i].name + ".v", state.moments[i].v);
    if (!state.best.empty()) file.add(trained[i].name + ".best", state.best[i]);
  }
  file.set(prefix + "checksum", checkpoint_checksum(file));
  file.write(path);
}

// "batch is 4 there and 8 here; seed is missing there"
static std::string differences(const std::map<std::string, std::string>& there, const std::map<std::string, std::string>& here) {
  std::string text;
  const auto say = [&](const std::string& what) { text += (text.empty() ? "" : "; ") + what; };
  for (const auto& [name, value] : here) {
    const auto other = there.find(name);
    if (other == there.end()) say(name + " is missing there and " + value + " here");
    else if (other->second != value) say(name + " is " + other->second + " there and " + value + " here");
  }
  for (const auto& [name, value] : there)
    if (!here.contains(name)) say(name + " is " + value + " there and missing here");
  return text;
}

void require_identity(const Gguf& file, const RunIdentity& run) {
  const std::string& path = file.path();
  const std::string& base = file.string(prefix + "base");
  require_as(Trouble::mismatch, base == run.base, path, ": a checkpoint on another base model (fingerprint ", base, " there, ", run.base, " here)");
  const auto &names = file.array<std::string>(prefix + "option_names"), &values = file.array<std::string>(prefix + "option_values");
  require(names.size() == values.size(), path, ": ", names.size(), " option names, ", values.size(), " values");
  std::map<std::string, std::string> options;
  for (size_t i = 0; i < names.size(); ++i) options[names[i]] = values[i];
  const std::string different = differences(options, run.options);
  require_as(Trouble::mismatch, different.empty(), path, ": a checkpoint of a run with other options: ", different);
}

void read_checkpoint(const std::string& path, TrainState& state, const TrainedSet& trained, const RunIdentity& run) {
  read_checkpoint(Gguf::open(path, Gguf::Access::read), state, trained, run);
}

void read_checkpoint(const Gguf& file, TrainState& state, const TrainedSet& trained, const RunIdentity& run) {
  const std::string& path = file.path();
  require(file.string("general.type", "") == "checkpoint", path, ": not a checkpoint (general.type is '", file.string("general.type", ""), "')");
  const int64_t version = file.integer(prefix + "version");
  require(version == 1, path, ": checkpoint version ", version, ", this program reads version 1");
  const Gguf::Value* stored = file.find(prefix + "checksum");
  require(stored && std::holds_alternative<uint64_t>(*stored), path, ": ", prefix, "checksum is missing");
  require(std::get<uint64_t>(*stored) == checkpoint_checksum(file), path, ": the checksum does not fit the contents; the file is damaged");

  require_identity(file, run);

  TrainState read;
  const auto count = [&](const char* key, int64_t least) {
    const int64_t n = file.integer(prefix + key);
    require(n >= least, path, ": ", prefix, key, " is ", n);
    return n;
  };
  read.step = count("step", 0);
  read.position = {count("epoch", 0), count("index", 0)};
  read.evaluated = count("evaluated", -1);
  read.best_step = count("best_step", -1);
  read.best_loss = file.real(prefix + "best_loss");
  read.stale = count("stale", 0);
  require(!std::isnan(read.best_loss) && read.evaluated <= read.step && read.best_step <= read.evaluated, path, ": inconsistent validation state");

  const auto tensor = [&](const std::string& name, const Shape& shape) {
    const Tensor t = file.tensor(name);
    require(t.dtype() == DType::F32 && t.shape() == shape, path, ": tensor '", name, "' is ", t.dtype(), " ", t.shape(), ", expected F32 ", shape);
    return t.clone();                                // aligned, writable and free of the file
  };
  const bool has_best = read.best_step >= 0;
  const size_t expected = trained.size() * (has_best ? 4 : 3);
  require(file.tensors().size() == expected, path, ": ", file.tensors().size(), " tensors, expected ", expected);
  std::vector<Tensor> weights;
  for (const Trained& t : trained) {
    const Shape& shape = t.tensor.shape();
    weights.push_back(tensor(t.name, shape));
    read.moments.push_back({tensor(t.name + ".m", shape), tensor(t.name + ".v", shape)});
    if (has_best) read.best.push_back(tensor(t.name + ".best", shape));
  }
  for (size_t i = 0; i < trained.size(); ++i) std::copy_n(weights[i].data(), weights[i].size(), trained[i].tensor.data());
  state = std::move(read);
}

}  // namespace kvt
