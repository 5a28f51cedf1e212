// One picture file (PNG, JPEG, BMP) as numbers, by stb_image.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/storage.h"

namespace kvt {

struct Picture {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> planes;               // [channels, height, width]
};

// `channels` 1 (grey) or 3, whatever the file has. Throws an Error naming `name` for what is no picture, and for one of more than 1100 pixels a
// byte (DEFLATE gives at most 1032), which claims a size to fill the memory.
Picture decode_picture(const Storage& file, int64_t channels, const std::string& name);

}  // namespace kvt
