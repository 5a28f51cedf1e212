#include "tensor/error.h"

#include <charconv>

namespace kvt {

void append(std::string& to, std::string_view text) { to += text; }
void append(std::string& to, char letter) { to += letter; }

template <class... Format>
static void append_number(std::string& to, Format... format) {
  char text[32];
  to.append(text, std::to_chars(text, text + sizeof text, format...).ptr);
}
void append(std::string& to, int64_t x) { append_number(to, x); }
void append(std::string& to, uint64_t x) { append_number(to, x); }
void append(std::string& to, double x) { append_number(to, x, std::chars_format::general, 6); }
void append(std::string& to, const void* address) { to += "0x", append_number(to, reinterpret_cast<uintptr_t>(address), 16); }

std::string message(std::initializer_list<Piece> parts) {
  std::string text;
  for (const Piece& part : parts) part.append_to(text);
  return text;
}

void fail_with(Trouble trouble, std::initializer_list<Piece> parts) { throw Error(message(parts), trouble); }

}  // namespace kvt
