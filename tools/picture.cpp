#include "tools/picture.h"

#include <cstdlib>
#include <memory>

#include "tensor/error.h"

// stb_image asks for as much as a file claims to have, before it reads on: no piece may be larger than what pixels of that many bytes can need.
static thread_local size_t largest_piece = 0;
static void* bounded_malloc(size_t n) { return n <= largest_piece ? std::malloc(n) : nullptr; }
static void* bounded_realloc(void* p, size_t n) { return n <= largest_piece ? std::realloc(p, n) : nullptr; }
#define STBI_MALLOC bounded_malloc
#define STBI_REALLOC bounded_realloc
#define STBI_FREE std::free

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#ifdef __clang__         // memcpy(null, …, 0), shifts of negative numbers: of no consequence, and not ours to mend. Memory is checked.
#pragma clang attribute push(__attribute__((no_sanitize("undefined"))), apply_to = function)
#endif
#include <stb/stb_image.h>
#ifdef __clang__
#pragma clang attribute pop
#endif
#pragma GCC diagnostic pop

namespace kvt {

Picture decode_picture(const Storage& file, int64_t channels, const std::string& name) {
  require(file.size() <= size_t(INT32_MAX), name, ": too large for a picture");
  const auto* bytes = reinterpret_cast<const stbi_uc*>(file.data());
  const int size = int(file.size());
  const int64_t most_pixels = 1100 * int64_t(size) + (1 << 16);
  largest_piece = size_t(4 * most_pixels);
  int width = 0, height = 0, stored = 0;
  if (stbi_info_from_memory(bytes, size, &width, &height, &stored))
    require(int64_t(width) * height <= most_pixels, name, ": ", width, " × ", height, " pixels in ", size, " bytes: damaged, or made to fill the memory");
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(stbi_load_from_memory(bytes, size, &width, &height, &stored, int(channels)), stbi_image_free);
  require(bool(pixels), name, ": no picture that can be read: ", pixels ? "" : stbi_failure_reason());
  Picture picture{height, width, {}};
  const int64_t area = picture.height * picture.width;
  picture.planes.resize(size_t(area * channels));                       // stored pixel by pixel; ours are channel by channel
  for (int64_t i = 0; i < area; ++i)
    for (int64_t c = 0; c < channels; ++c) picture.planes[size_t(c * area + i)] = pixels.get()[i * channels + c];
  return picture;
}

}  // namespace kvt
