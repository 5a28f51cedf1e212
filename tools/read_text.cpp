#include <iostream>
#include <iterator>

#include "tools/common.h"

namespace kvt {

std::string read_text(const std::string& path) {
  if (path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
  const Storage bytes = Storage::read_file(path);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace kvt
