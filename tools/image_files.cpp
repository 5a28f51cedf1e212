#include "tools/image_files.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "tools/common.h"
#include "tools/picture.h"

namespace kvt {

namespace {

namespace fs = std::filesystem;

// A file's bytes, decompressed if it is compressed, which `text` keeps alive.
Storage bytes_of(const std::string& path, std::string& text) {
  text = read_text(path);
  return Storage::borrow(text.data(), text.size(), false);
}

void append_picture(Images& images, const fs::path& path, int32_t label) {
  const Picture p = decode_picture(Storage::read_file(path.string()), images.channels, path.string());
  const std::vector<uint8_t> scaled = square(p.planes.data(), images.channels, p.height, p.width, images.size);
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
