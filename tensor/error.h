// How every layer reports trouble: an exception whose message names the operation (or file) and the offending values.
#pragma once
#include <concepts>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace kvt {

// What kind of trouble, for callers that act on it; the message is for people.
enum class Trouble { other, input_output, unsupported, mismatch, context_full, memory, memory_limit, cancelled };

struct Error : std::runtime_error {
  explicit Error(const std::string& message, Trouble kind = Trouble::other) : std::runtime_error(message), trouble(kind) {}
  Trouble trouble;
};

// Append what a message shows; types of other headers have such a function of their own. Numbers look the same whatever locale the host has chosen.
void append(std::string& to, std::string_view text);
void append(std::string& to, char letter);
void append(std::string& to, int64_t x);
void append(std::string& to, uint64_t x);
void append(std::string& to, double x);                // six digits, as %g
void append(std::string& to, const void* address);

// A part of a message, as long as the expression lasts that it was written in: a value, and how it is appended. Two words, made in place: hundreds of
// places may fail, and none is to be large for that.
class Piece {
 public:
  Piece(const char* text) : value_{.address = text}, append_([](std::string& to, Value v) { append(to, std::string_view(static_cast<const char*>(v.address))); }) {}
  template <std::signed_integral T>
  Piece(T x) : value_{.integer = x}, append_([](std::string& to, Value v) { append(to, v.integer); }) {}
  template <std::unsigned_integral T>
  Piece(T x) : value_{.natural = x}, append_([](std::string& to, Value v) { append(to, v.natural); }) {}
  Piece(double x) : value_{.real = x}, append_([](std::string& to, Value v) { append(to, v.real); }) {}
  Piece(char letter) : value_{.integer = letter}, append_([](std::string& to, Value v) { append(to, char(v.integer)); }) {}
  Piece(const void* p) : value_{.address = p}, append_([](std::string& to, Value v) { append(to, v.address); }) {}
  template <class T>
    requires std::is_class_v<T> || std::is_enum_v<T>
  Piece(const T& x) : value_{.address = &x}, append_([](std::string& to, Value v) { append(to, *static_cast<const T*>(v.address)); }) {}

  void append_to(std::string& text) const { append_(text, value_); }

 private:
  union Value {
    const void* address;
    int64_t integer;
    uint64_t natural;
    double real;
  };
  Value value_;
  void (*append_)(std::string&, Value);
};

std::string message(std::initializer_list<Piece> parts);
[[noreturn, gnu::cold]] void fail_with(Trouble trouble, std::initializer_list<Piece> parts);

// fail_as(Trouble::input_output, "cannot open '", path, "'");
template <class... Parts>
[[noreturn]] void fail_as(Trouble trouble, const Parts&... parts) { fail_with(trouble, {Piece(parts)...}); }

// fail("gguf: unknown type ", id, " of tensor '", name, "'");
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) { fail_with(Trouble::other, {Piece(parts)...}); }

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
