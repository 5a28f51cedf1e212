#include "tools/image_files.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <memory>

#include "tools/common.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace kvt {

namespace {

namespace fs = std::filesystem;

// A file's bytes, decompressed if it is compressed, which `text` keeps alive.
Storage bytes_of(const std::string& path, std::string& text) {
  text = read_text(path);
  return Storage::borrow(text.data(), text.size(), false);
}

void append_picture(Images& images, const fs::path& path, int32_t label) {
  const Storage file = Storage::map_file(path.string());
  require(file.size() <= size_t(INT32_MAX), path.string(), ": too large for a picture");
  int width = 0, height = 0, stored = 0;
  unsigned char* p = stbi_load_from_memory(reinterpret_cast<const stbi_uc*>(file.data()), int(file.size()), &width, &height, &stored, int(images.channels));
  require(p, path.string(), ": no picture that can be read: ", p ? "" : stbi_failure_reason());
  const std::unique_ptr<unsigned char, void (*)(void*)> owner(p, stbi_image_free);
  const int64_t area = int64_t(width) * height;
  std::vector<uint8_t> planes(size_t(area * images.channels));          // stored pixel by pixel; ours are channel by channel
  for (int64_t i = 0; i < area; ++i)
    for (int64_t c = 0; c < images.channels; ++c) planes[size_t(c * area + i)] = p[i * images.channels + c];
  const std::vector<uint8_t> scaled = square(planes.data(), images.channels, height, width, images.size);
  images.pixels.insert(images.pixels.end(), scaled.begin(), scaled.end());
  images.labels.push_back(label);
}

Images read_folder(const fs::path& folder, int64_t size, int64_t channels) {
  Images images{channels, size, {}, {}, {}};
  std::vector<fs::path> classes;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_directory()) classes.push_back(entry.path());
  std::sort(classes.begin(), classes.end());
  for (const fs::path& path : classes) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(path)) {
      std::string ending = entry.path().extension().string();
      std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return char(std::tolower(c)); });
      if (ending == ".png" || ending == ".jpg" || ending == ".jpeg" || ending == ".bmp") files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) append_picture(images, file, int32_t(images.classes.size()));
    images.classes.push_back(path.filename().string());
  }
  require(images.count() > 0, folder.string(), ": no folder of PNG, JPEG or BMP files, one for each class");
  return images;
}

}  // namespace

Images read_images(const std::string& path, int64_t size, int64_t channels) {
  if (fs::is_directory(path)) return read_folder(path, size, channels);
  std::string text, label_text;
  const Storage bytes = bytes_of(path, text);
  const std::string name = fs::path(path).filename().string();
  const size_t at = name.find("images-idx3");
  if (at == std::string::npos) return parse_cifar(bytes, path);
  std::string labels = name;
  labels.replace(at, std::string_view("images-idx3").size(), "labels-idx1");
  labels = (fs::path(path).parent_path() / labels).string();
  return parse_idx(bytes, path, bytes_of(labels, label_text), labels);
}

}  // namespace kvt
