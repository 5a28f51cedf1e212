// kvt inspect: what a GGUF file says of itself: header, keys, tensors, totals.
#include <algorithm>
#include <charconv>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "engine/gguf.h"
#include "ops/interleave.h"
#include "tools/commands.h"

namespace kvt {

namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string file;
  bool json = false, check_tensors = false, no_mmap = false;
};

struct Totals {
  int64_t parameters = 0, bytes = 0;
  int64_t interleaved = 0, interleaved_bytes = 0;           // tensors that `kvt run` brings into another order on this machine, and their bytes
  std::map<std::string, int64_t> bytes_by_type;

  explicit Totals(const Gguf& g) {
    for (const Gguf::Entry& e : g.tensors()) {
      parameters += e.tensor.size();
      bytes += e.tensor.bytes();
      bytes_by_type[info(e.tensor.dtype()).name] += e.tensor.bytes();
      const bool rows_alone = e.name == "token_embd.weight" && g.find_tensor("output.weight");      // an embedding that is no output matrix too
      if (gains_by_interleaving(e.tensor) && !rows_alone) ++interleaved, interleaved_bytes += e.tensor.bytes();
    }
  }
  double bits_per_weight() const { return parameters ? 8. * double(bytes) / double(parameters) : 0; }
};

template <class T> struct IsVector : std::false_type {};
template <class T> struct IsVector<std::vector<T>> : std::true_type {};

template <class T>
const char* type_name() {
  if constexpr (std::is_same_v<T, std::string>) return "string";
  else if constexpr (std::is_same_v<T, bool>) return "bool";
  else if constexpr (std::is_floating_point_v<T>) return sizeof(T) == 4 ? "f32" : "f64";
  else if constexpr (sizeof(T) == 1) return std::is_signed_v<T> ? "i8" : "u8";
  else if constexpr (sizeof(T) == 2) return std::is_signed_v<T> ? "i16" : "u16";
  else if constexpr (sizeof(T) == 4) return std::is_signed_v<T> ? "i32" : "u32";
  else return std::is_signed_v<T> ? "i64" : "u64";
}

std::string type_of(const Gguf::Value& value) {
  return std::visit([](const auto& v) -> std::string {
    using T = std::decay_t<decltype(v)>;
    if constexpr (IsVector<T>::value) return std::string(type_name<typename T::value_type>()) + "[" + std::to_string(v.size()) + "]";
    else return type_name<T>();
  }, value);
}

// JSON has no infinities: such numbers become strings. A float is shown by the shortest decimal number that gives it back.
template <class T>
Json scalar_json(const T& v) {
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(v)) return std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf";
    char text[32];
    *std::to_chars(text, text + sizeof text - 1, v).ptr = 0;
    return std::strtod(text, nullptr);
  } else {
    return v;
  }
}

// The value, an array cut to its first `longest` items.
Json value_json(const Gguf::Value& value, size_t longest) {
  return std::visit([&](const auto& v) -> Json {
    using T = std::decay_t<decltype(v)>;
    if constexpr (IsVector<T>::value) {
      Json items = Json::array();
      for (size_t i = 0; i < std::min(longest, v.size()); ++i) items.push_back(scalar_json<typename T::value_type>(v[i]));
      return items;
    } else {
      return scalar_json(v);
    }
  }, value);
}

// One line of valid UTF-8: bytes of a vocabulary that are none are replaced.
std::string dump(const Json& json, int indent = -1) { return json.dump(indent, ' ', false, Json::error_handler_t::replace); }

// A name as a terminal may show it: control characters escaped.
std::string plain(const std::string& name) {
  const std::string quoted = dump(name);
  return quoted.substr(1, quoted.size() - 2);
}

Json shape_json(const Shape& shape) { return std::vector<int64_t>(shape.begin(), shape.end()); }

void print_json(const Gguf& g) {
  const Totals totals(g);
  Json keys = Json::array(), tensors = Json::array();
  for (const Gguf::Key& k : g.keys())
    keys.push_back({{"name", k.name}, {"type", type_of(k.value)}, {"value", value_json(k.value, SIZE_MAX)}});
  for (const Gguf::Entry& e : g.tensors())
    tensors.push_back({{"name", e.name}, {"shape", shape_json(e.tensor.shape())}, {"type", info(e.tensor.dtype()).name},
                       {"bytes", e.tensor.bytes()}, {"offset", e.offset}});
  const Json all = {{"file", g.path()},
                    {"version", g.version()},
                    {"alignment", g.alignment()},
                    {"keys", keys},
                    {"tensors", tensors},
                    {"totals", {{"parameters", totals.parameters}, {"bytes", totals.bytes}, {"bytes_by_type", totals.bytes_by_type},
                                {"bits_per_weight", totals.bits_per_weight()}}},
                    {"decoding", {{"interleaved_tensors", totals.interleaved}, {"interleaved_bytes", totals.interleaved_bytes}}}};
  std::printf("%s\n", dump(all, 1).c_str());
}

// A value on one line. A long string or array is cut; then … and its length follow.
std::string short_text(const Gguf::Value& value) {
  constexpr size_t longest = 100, items = 6;
  if (const auto* s = std::get_if<std::string>(&value))
    return s->size() <= longest ? dump(*s) : dump(s->substr(0, longest)) + " … (" + std::to_string(s->size()) + " bytes)";
  std::string text = dump(value_json(value, items));
  const bool cut = std::visit([](const auto& v) {
    if constexpr (IsVector<std::decay_t<decltype(v)>>::value) return v.size() > items;
    else return false;
  }, value);
  if (cut) text.replace(text.size() - 1, 1, ", …]");
  return text;
}

void print_text(const Gguf& g) {
  std::printf("%s: GGUF version %u, alignment %" PRIu64 ", %zu keys, %zu tensors\n\nkeys\n", g.path().c_str(), g.version(), g.alignment(),
              g.keys().size(), g.tensors().size());
  size_t key_width = 0, name_width = 0;
  for (const Gguf::Key& k : g.keys()) key_width = std::max(key_width, k.name.size());
  for (const Gguf::Key& k : g.keys())
    std::printf("  %-*s  %-14s  %s\n", int(std::min<size_t>(key_width, 60)),
                plain(k.name).c_str(), type_of(k.value).c_str(), short_text(k.value).c_str());
  if (g.tensors().empty()) return;

  for (const Gguf::Entry& e : g.tensors()) name_width = std::max(name_width, e.name.size());
  std::printf("\ntensors\n  %-*s  %-20s  %-7s  %12s  %12s\n", int(name_width), "name", "shape", "type", "bytes", "offset");
  for (const Gguf::Entry& e : g.tensors())
    std::printf("  %-*s  %-20s  %-7s  %12" PRId64 "  %12" PRIu64 "\n", int(name_width), plain(e.name).c_str(),
                dump(shape_json(e.tensor.shape())).c_str(),
                info(e.tensor.dtype()).name, e.tensor.bytes(), e.offset);
  const Totals totals(g);
  std::printf("\ntotals\n  parameters       %" PRId64 "\n  bytes            %" PRId64 "\n", totals.parameters, totals.bytes);
  for (const auto& [type, bytes] : totals.bytes_by_type) std::printf("  bytes of %-6s  %" PRId64 "\n", type.c_str(), bytes);
  std::printf("  bits per weight  %.3f\n", totals.bits_per_weight());
  std::printf("\ndecoding on this CPU (kvt run)\n  interleaved by 16 rows   %" PRId64 " tensors, %" PRId64 " bytes, in place of the file's pages\n  in the file's order      %" PRId64
              " tensors, %" PRId64 " bytes\n", totals.interleaved, totals.interleaved_bytes, int64_t(g.tensors().size()) - totals.interleaved, totals.bytes - totals.interleaved_bytes);
}

void run(const Options& o) {
  const Gguf g = Gguf::open(o.file, o.no_mmap ? Gguf::Access::read : Gguf::Access::map);
  if (o.check_tensors) g.check_tensors();
  if (o.json) print_json(g);
  else print_text(g);
}

}  // namespace

void add_inspect(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "Show header, keys and tensors of a GGUF file");
  const auto o = std::make_shared<Options>();
  command->add_option("file", o->file, "GGUF file")->required();
  command->add_flag("--json", o->json, "Print JSON, with every array in full");
  command->add_flag("--check-tensors", o->check_tensors, "Fail unless every float and every block scale is finite");
  command->add_flag("--no-mmap", o->no_mmap, "Read the file into memory instead of mapping it");
  command->footer("Examples:\n"
                  "  kvt inspect model.gguf\n"
                  "  kvt inspect --check-tensors model.gguf\n"
                  "  kvt inspect --json model.gguf | jq '.tensors[] | select(.type == \"Q4_K\") | .name'");
  command->callback([o] { run(*o); });
}

}  // namespace kvt
