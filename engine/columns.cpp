#include "engine/columns.h"

#include <algorithm>

namespace kvt {

size_t columns(const std::string& text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string padded(const std::string& text, size_t width) {
  const size_t used = columns(text);
  return used < width ? text + std::string(width - used, ' ') : text;
}

std::vector<std::string> wrapped(const std::string& text, size_t width) {
  std::vector<std::string> lines(1);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (!word.empty()) {
      std::string& line = lines.back();
      if (line.empty()) line = word;
      else if (columns(line) + 1 + columns(word) <= width) line += " " + word;
      else lines.push_back(word);
    }
    begin = end + 1;
  }
  return lines;
}

}  // namespace kvt
