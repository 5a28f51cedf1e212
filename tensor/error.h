// How every layer reports trouble: an exception whose message names the operation (or file) and the offending values.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace kvt {

// What kind of trouble, for callers that act on it; the message is for people.
enum class Trouble { other, input_output, unsupported, mismatch, context_full, memory, memory_limit, cancelled };

struct Error : std::runtime_error {
  explicit Error(const std::string& message, Trouble kind = Trouble::other) : std::runtime_error(message), trouble(kind) {}
  Trouble trouble;
};

// A message on its way. Out of line, as is fail_as: hundreds of places may fail, and none is fast for carrying the code along.
struct Complaint {
  std::ostringstream text;                     // numbers in it look the same whatever locale the host has chosen
  Complaint();
  ~Complaint();
  [[noreturn]] void raise(Trouble trouble) const;
};

// fail_as(Trouble::input_output, "cannot open '", path, "'");
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail_as(Trouble trouble, const Parts&... parts) {
  Complaint c;
  (c.text << ... << parts);
  c.raise(trouble);
}

// fail("gguf: unknown type ", id, " of tensor '", name, "'");
template <class... Parts>
[[noreturn, gnu::cold]] void fail(const Parts&... parts) { fail_as(Trouble::other, parts...); }

// require(x.rank() == 2, "matmul: expected a matrix, got ", x.shape());
template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]] fail(parts...);
}
template <class... Parts>
void require_as(Trouble trouble, bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]] fail_as(trouble, parts...);
}

}  // namespace kvt
