// IDX and CIFAR-10 files, and what training does with the images. A CIFAR file, or, behind bytes "I" and the labels' length (u16), an IDX pair.
#include "engine/images.h"
#include "tests/fuzz/fuzz.h"

using namespace kvt;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::works_or_refuses([&] {
    Images images;
    if (size >= 3 && data[0] == 'I') {
      const size_t labels = std::min<size_t>(size - 3, size_t(data[1]) | size_t(data[2]) << 8), rest = size - 3 - labels;
      images = parse_idx(fuzz::storage(data + 3 + labels, rest), "f-images", fuzz::storage(data + 3, labels), "f-labels");
    } else {
      images = parse_cifar(fuzz::storage(data, size), "f.bin");
    }
    fuzz::expect(images.pixels.size() == size_t(images.count() * images.bytes_each()), "images of another size");
    images.fingerprint();
    images.class_count();
    const Normalisation n = measure(images);
    const int64_t chosen[] = {0, images.count() - 1};
    Rng rng(images.labels[0] + 1);
    if (images.bytes_each() <= 4096) image_batch(images, chosen, n, {.shift = data[size - 1] % 8, .flip = true, .crop = 0.5f}, &rng);
    if (images.bytes_each() <= 4096) square(images[0], images.channels, images.size, images.size, 1 + data[size - 1] % 40);
  });
  return 0;
}
