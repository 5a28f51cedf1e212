// Labelled images from files:
//
//   FILE-images-idx3-ubyte[.gz]      IDX; the labels lie beside, with "labels-idx1" in the place of "images-idx3"
//   FILE.bin[.gz]                    CIFAR-10 records
//   FOLDER                           one folder for each class, with PNG, JPEG or BMP files, scaled to squares of `size` pixels
#pragma once
#include <string>

#include "engine/images.h"

namespace kvt {

// `size` and `channels` (1 or 3) are what a folder's pictures become. Throws an Error naming the path.
Images read_images(const std::string& path, int64_t size, int64_t channels);

}  // namespace kvt
