// Fields: the members of a JSON object by name and type, with errors that say where.
#include "engine/json.h"

namespace kvt {

Fields::Fields(const Json& object, std::string source, std::string path) : object_(object), source_(std::move(source)), path_(std::move(path)) {
  require(std::holds_alternative<Json::Object>(object_.value), source_, ": ", path_.empty() ? "the file" : "'" + path_ + "'", " is ", object_.type_name(),
          ", expected an object");
}

std::string Fields::at(std::string_view name) const { return source_ + ": '" + (path_.empty() ? "" : path_ + ".") + std::string(name) + "'"; }

void Fields::wrong(std::string_view name, const Json& got, const char* expected) const {
  const bool scalar = !std::holds_alternative<Json::Array>(got.value) && !std::holds_alternative<Json::Object>(got.value);
  fail(at(name), " is ", scalar ? got.dump() : got.type_name(), ", expected ", expected);
}

bool Fields::has(std::string_view name) const {
  const Json* found = object_.find(name);
  return found && !std::holds_alternative<std::nullptr_t>(found->value);
}

const Json* Fields::any(std::string_view name) {
  asked_.emplace(name);
  return has(name) ? object_.find(name) : nullptr;
}

const Json& Fields::needed(std::string_view name) {
  const Json* found = any(name);
  require(found, at(name), " is missing");
  return *found;
}

int64_t Fields::integer(std::string_view name, int64_t least, int64_t most) {
  const Json& j = needed(name);
  const int64_t* n = std::get_if<int64_t>(&j.value);
  if (!n) wrong(name, j, "an integer");
  require(*n >= least && *n <= most, at(name), " is ", *n, ", expected ", least, " to ", most);
  return *n;
}
int64_t Fields::integer(std::string_view name, int64_t least, int64_t most, int64_t fallback) {
  return any(name) ? integer(name, least, most) : fallback;
}

double Fields::real(std::string_view name) {
  const Json& j = needed(name);
  if (const double* d = std::get_if<double>(&j.value)) return *d;
  if (const int64_t* n = std::get_if<int64_t>(&j.value)) return double(*n);
  wrong(name, j, "a number");
}
double Fields::real(std::string_view name, double fallback) { return any(name) ? real(name) : fallback; }

bool Fields::boolean(std::string_view name, bool fallback) {
  const Json* j = any(name);
  if (!j) return fallback;
  if (const bool* b = std::get_if<bool>(&j->value)) return *b;
  wrong(name, *j, "true or false");
}

std::string Fields::string(std::string_view name) {
  const Json& j = needed(name);
  if (const std::string* s = std::get_if<std::string>(&j.value)) return *s;
  wrong(name, j, "a string");
}
std::string Fields::string(std::string_view name, std::string_view fallback) { return any(name) ? string(name) : std::string(fallback); }

std::string Fields::one_of(std::string_view name, std::initializer_list<std::string_view> known, std::string_view fallback) {
  const std::string s = fallback.empty() ? string(name) : string(name, fallback);
  std::string list;
  for (const std::string_view k : known) {
    if (s == k) return s;
    list += list.empty() ? std::string(k) : ", " + std::string(k);
  }
  fail(at(name), " is \"", s, "\"; known: ", list);
}

std::vector<double> Fields::reals(std::string_view name) {
  std::vector<double> numbers;
  const Json* j = any(name);
  if (!j) return numbers;
  const Json::Array* items = std::get_if<Json::Array>(&j->value);
  if (!items) wrong(name, *j, "an array of numbers");
  for (const Json& item : *items) {
    if (const double* d = std::get_if<double>(&item.value)) numbers.push_back(*d);
    else if (const int64_t* n = std::get_if<int64_t>(&item.value)) numbers.push_back(double(*n));
    else wrong(name, *j, "an array of numbers");
  }
  return numbers;
}

std::vector<std::string> Fields::strings(std::string_view name) {
  std::vector<std::string> texts;
  const Json* j = any(name);
  if (!j) return texts;
  const Json::Array* items = std::get_if<Json::Array>(&j->value);
  if (!items) wrong(name, *j, "an array of strings");
  for (const Json& item : *items) {
    const std::string* s = std::get_if<std::string>(&item.value);
    if (!s) wrong(name, *j, "an array of strings");
    texts.push_back(*s);
  }
  return texts;
}

Fields Fields::object(std::string_view name) { return Fields(needed(name), source_, path_.empty() ? std::string(name) : path_ + "." + std::string(name)); }

void Fields::refuse_unknown() const {
  for (const Json::Member& m : std::get<Json::Object>(object_.value)) {
    if (asked_.contains(m.first)) continue;
    std::string known;
    for (const std::string& name : asked_) known += known.empty() ? name : ", " + name;
    fail(at(m.first), " is not known; known: ", known);
  }
}

}  // namespace kvt
