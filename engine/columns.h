// Text in columns, for people.
#pragma once
#include <string>
#include <vector>

namespace kvt {

size_t columns(const std::string& text);                                    // on the screen: one for each UTF-8 character
std::string padded(const std::string& text, size_t width);
std::vector<std::string> wrapped(const std::string& text, size_t width);    // lines of at most `width` columns, broken at spaces

}  // namespace kvt
