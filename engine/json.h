// JSON (RFC 8259), read strictly and written: for safetensors' headers, configurations and lists of results.
//
// A text is not trusted: nesting is limited, strings are valid UTF-8 with paired surrogates, an object has no name twice, nothing
// follows the value; an Error names source, line, column and offset.
#pragma once
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/variant.h"
#include "tensor/error.h"

namespace kvt {

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;                    // in the text's order
  // A number without fraction and exponent that fits is an integer; every other one is a double.
  using Value = Variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object>;

  static constexpr int max_depth = 64;

  Json() = default;                                      // null
  Json(bool b) : value(b) {}
  Json(int i) : value(int64_t(i)) {}
  Json(int64_t i) : value(i) {}
  Json(double d) : value(d) {}
  Json(const char* s) : value(std::string(s)) {}
  Json(std::string s) : value(std::move(s)) {}
  Json(Array a) : value(std::move(a)) {}
  Json(Object o) : value(std::move(o)) {}

  // `source` (a path) stands in errors.
  static Json parse(std::string_view text, const std::string& source);
  static Json read(const std::string& path);             // a whole file
  // On one line, or indented by so many spaces. Throws for a number that is not finite: JSON has none.
  std::string dump(int indent = -1) const;

  const Json* find(std::string_view name) const;         // of an object; null if it is none or has no such member
  const char* type_name() const;                         // "null", "boolean", "integer", "number", "string", "array", "object"

  Value value = nullptr;
};

// The members of an object, asked for by name. Errors name source and path: "train.json: 'model.layers' is 0, expected 1 to 1024".
//
//   Fields f(Json::read(path), path);  const int64_t n = f.integer("layers", 1, 1024);  …  f.refuse_unknown();
class Fields {
 public:
  Fields(const Json& object, std::string source, std::string path = "");        // throws if it is no object; keeps a copy

  bool has(std::string_view name) const;                                        // a member that is not null
  int64_t integer(std::string_view name, int64_t least, int64_t most);          // throws if absent
  int64_t integer(std::string_view name, int64_t least, int64_t most, int64_t fallback);
  double real(std::string_view name);
  double real(std::string_view name, double fallback);
  bool boolean(std::string_view name, bool fallback);
  std::string string(std::string_view name);
  std::string string(std::string_view name, std::string_view fallback);
  std::string one_of(std::string_view name, std::initializer_list<std::string_view> known, std::string_view fallback = "");   // "" = required
  std::vector<double> reals(std::string_view name);                             // empty if absent
  std::vector<std::string> strings(std::string_view name);                      // empty if absent
  Fields object(std::string_view name);                                         // throws if absent
  const Json* any(std::string_view name);                                       // null if absent

  // Throws an Error for members nobody asked for, listing those that were.
  void refuse_unknown() const;
  // For errors about a member: fail(f.at("layers"), …)
  std::string at(std::string_view name) const;

 private:
  const Json& needed(std::string_view name);
  [[noreturn]] void wrong(std::string_view name, const Json& got, const char* expected) const;

  Json object_;
  std::string source_, path_;
  std::set<std::string, std::less<>> asked_;
};

}  // namespace kvt
