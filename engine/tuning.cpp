#include "engine/tuning.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <utility>
#include <vector>

#include "engine/atomic_file.h"
#include "engine/json.h"
#include "ops/cpu.h"
#include "ops/kernels.h"
#include "ops/tuning.h"

namespace kvt {

static constexpr int64_t format = 1;

static std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// What the kernels' speed depends on: the newest instruction set among ours.
static std::string kernels() {
  load_backends();
  Isa newest = Isa::reference;
  for (const KernelInfo* k = KernelInfo::first; k; k = k->next) newest = k->isa(k->chosen()) == Isa::blas ? newest : std::max(newest, k->isa(k->chosen()));
  return isa_name(newest);
}

std::string tuning_path() {
  const std::string named = variable("KVT_TUNING"), cache = variable("XDG_CACHE_HOME"), home = variable("HOME");
  if (!named.empty()) return named == "off" ? "" : named;
  if (!cache.empty()) return cache + "/kvt/tuning.json";
  return home.empty() ? "" : home + "/.cache/kvt/tuning.json";
}

std::string load_tuning(const std::string& path, const std::string& version) try {
  std::error_code ignored;
  if (path.empty() || (path != variable("KVT_TUNING") && !std::filesystem::exists(path, ignored))) return "";
  Fields f(Json::read(path), path);
  const auto expect = [&](const char* what, const std::string& here) {
    const std::string there = f.string(what);
    require(there == here, f.at(what), " is '", there, "', here it is '", here, "'");
  };
  f.integer("format", format, format);
  expect("version", version);
  expect("cpu", cpu_name());
  expect("kernels", kernels());
  std::vector<std::pair<Tunable*, int64_t>> values;
  Fields tunables = f.object("tunables");
  for (Tunable* t = Tunable::first; t; t = t->next)
    if (tunables.has(t->name)) values.emplace_back(t, tunables.integer(t->name, t->least, t->most));
  tunables.refuse_unknown();
  f.refuse_unknown();
  for (const auto& [tunable, value] : values) tunable->set(value);
  return "";
} catch (const std::exception& e) {
  return e.what();
}

void save_tuning(const std::string& path, const std::string& version) {
  Json::Object tunables;
  for (Tunable* t = Tunable::first; t; t = t->next)
    if (t->is_set()) tunables.emplace_back(t->name, (*t)());
  const Json profile = Json::Object{{"format", format}, {"version", version}, {"cpu", cpu_name()}, {"kernels", kernels()}, {"tunables", std::move(tunables)}};
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (path != variable("KVT_TUNING") && path == tuning_path()) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    require(!error, folder.string(), ": ", error.message());
  }
  AtomicFile file(path);
  const std::string text = profile.dump(1) + "\n";
  file.write(text.data(), text.size());
  file.commit();
}

}  // namespace kvt
