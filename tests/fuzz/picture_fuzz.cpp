// Pictures (PNG, JPEG, BMP by stb_image): one and three channels, and the square that a model gets.
#include "engine/images.h"
#include "tests/fuzz/fuzz.h"
#include "tools/picture.h"

using namespace kvt;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::works_or_refuses([&] {
    const int64_t channels = size % 2 ? 1 : 3;
    const Picture p = decode_picture(fuzz::storage(data, size), channels, "f.png");
    fuzz::expect(p.height > 0 && p.width > 0 && p.planes.size() == size_t(channels * p.height * p.width), "a picture of another size");
    if (p.height * p.width <= 1 << 14) square(p.planes.data(), channels, p.height, p.width, 8);
  });
  return 0;
}
