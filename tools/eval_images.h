// kvt eval for classifiers of images.
#pragma once
#include <string>
#include <vector>

#include "engine/gguf.h"

namespace kvt {

// Prints top-1 and top-5 accuracy and the mean loss of the ViT in `gguf`, with LoRA adapters FILE or FILE:SCALE, on the images at `path`; as one JSON object, or as text.
void eval_images(const Gguf& gguf, const std::vector<std::string>& adapters, const std::string& path, int64_t batch, bool json);

}  // namespace kvt
