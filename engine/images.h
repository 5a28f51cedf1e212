// Labelled images: the binary files they come in, what training does to them at random, and the numbers a model gets.
//
//   IDX (LeCun)   "00 00 08 03" n rows columns, big-endian u32, then n · rows · columns bytes;  labels: "00 00 08 01" n, then n bytes
//   CIFAR-10      records of 3073 bytes: label, then 32 × 32 red, green and blue values
//
// Compressed files and picture formats are the command line's affair (tools/image_files.h): the core needs no library for them.
#pragma once
#include <string>
#include <vector>

#include "tensor/random.h"
#include "tensor/storage.h"
#include "tensor/tensor.h"

namespace kvt {

struct Images {
  int64_t channels = 0, size = 0;             // square
  std::vector<uint8_t> pixels;                // [n, channels, size, size]
  std::vector<int32_t> labels;                // [n]
  std::vector<std::string> classes;           // names, where the source has them

  int64_t count() const { return int64_t(labels.size()); }
  int64_t bytes_each() const { return channels * size * size; }
  const uint8_t* operator[](int64_t i) const { return pixels.data() + i * bytes_each(); }
  int64_t class_count() const;                // one more than the largest label
  uint64_t fingerprint() const;
};

// `name`s stand in errors for paths. Throw an Error for anything but a whole, consistent file.
Images parse_idx(const Storage& images, const std::string& images_name, const Storage& labels, const std::string& labels_name);
Images parse_cifar(const Storage& bytes, const std::string& name);

// Scales a picture of channels × height × width to a square: its middle, by a triangle filter as wide as the reduction.
std::vector<uint8_t> square(const uint8_t* pixels, int64_t channels, int64_t height, int64_t width, int64_t size);

// What is done to each training image at random.
struct Augmentation {
  int64_t shift = 0;               // moved by up to so many pixels each way, zeros moving in
  bool flip = false;               // left and right change places, every second time
  float crop = 0.f;                // a square of at least (1 − crop) of each side, anywhere, scaled up to the whole; 0 = none
  bool any() const { return shift > 0 || flip || crop > 0; }
  void operator()(uint8_t* image, int64_t channels, int64_t size, Rng& rng) const;
};

// (x/255 − mean[c]) / std[c] of the images `indices`, [B, channels, size, size]; augmented first if `rng` is not null.
struct Normalisation { std::vector<float> mean, std; };
Tensor image_batch(const Images& images, std::span<const int64_t> indices, const Normalisation& n, const Augmentation& augmentation, Rng* rng);
Normalisation measure(const Images& images);      // mean and deviation of each channel over all pixels

}  // namespace kvt
