// kvt eval for classifiers of images.
#pragma once
#include <string>

#include "tools/common.h"

namespace kvt {

// Prints top-1 and top-5 accuracy and the mean loss of a ViT, with its adapters, on the images at `path`; as one JSON object, or as text.
void eval_images(const ModelOptions& options, const std::string& path, int64_t batch, bool json);

}  // namespace kvt
