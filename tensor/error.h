// How every layer reports trouble: an exception whose message names the operation (or file) and the offending values.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace kvt {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// fail("gguf: unknown type ", id, " of tensor '", name, "'");
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

// require(x.rank() == 2, "matmul: expected a matrix, got ", x.shape());
template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]] fail(parts...);
}

}  // namespace kvt
