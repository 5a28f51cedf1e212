#include "engine/images.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "engine/fingerprint.h"

namespace kvt {

namespace {

uint32_t big_endian(const Storage& s, size_t at) {
  const auto* p = reinterpret_cast<const unsigned char*>(s.data()) + at;
  return uint32_t(p[0]) << 24 | uint32_t(p[1]) << 16 | uint32_t(p[2]) << 8 | p[3];
}

// The extents of an IDX file of bytes with so many axes.
std::vector<int64_t> idx_extents(const Storage& s, const std::string& name, uint32_t axes) {
  const size_t header = 4 + 4 * size_t(axes);
  require(s.size() >= header, "'", name, "': ", s.size(), " bytes are no IDX file");
  require(big_endian(s, 0) == (0x0800u | axes), "'", name, "': begins with ", big_endian(s, 0), ", expected ", 0x0800u | axes, " (IDX, bytes, ", axes, " axes)");
  std::vector<int64_t> extents;
  uint64_t bytes = 1;
  for (uint32_t i = 0; i < axes; ++i) {
    extents.push_back(big_endian(s, 4 + 4 * i));
    require(!__builtin_mul_overflow(bytes, uint64_t(extents.back()), &bytes), "'", name, "': too many bytes");
  }
  require(bytes == s.size() - header, "'", name, "': ", s.size() - header, " bytes of data, its header says ", bytes);
  return extents;
}

// Weights by which `n` old values make each of `size` new ones: the line from `begin` of length `extent` is scaled to `size`.
struct Filter { int64_t first; std::vector<float> weights; };
std::vector<Filter> triangle(int64_t n, double begin, double extent, int64_t size) {
  const double step = extent / double(size), radius = std::max(step, 1.);
  std::vector<Filter> filters;
  for (int64_t i = 0; i < size; ++i) {
    const double middle = begin + (double(i) + 0.5) * step;
    const int64_t first = std::max<int64_t>(0, int64_t(std::floor(middle - radius))), last = std::min(n, int64_t(std::ceil(middle + radius)));
    Filter f{first, {}};
    double total = 0;
    for (int64_t j = first; j < last; ++j) {
      f.weights.push_back(float(std::max(0., 1 - std::fabs(double(j) + 0.5 - middle) / radius)));
      total += double(f.weights.back());
    }
    for (float& w : f.weights) w = float(double(w) / total);
    filters.push_back(std::move(f));
  }
  return filters;
}

// One channel [height, width], the part from (y0, x0) of `extent` each way, to [size, size]
void scale_channel(uint8_t* out, const uint8_t* in, int64_t height, int64_t width, double y0, double x0, double extent, int64_t size) {
  const std::vector<Filter> rows = triangle(height, y0, extent, size), columns = triangle(width, x0, extent, size);
  std::vector<float> narrow(size_t(height * size));
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < size; ++x) {
      const Filter& f = columns[size_t(x)];
      float total = 0;
      for (size_t j = 0; j < f.weights.size(); ++j) total += f.weights[j] * float(in[y * width + f.first + int64_t(j)]);
      narrow[size_t(y * size + x)] = total;
    }
  for (int64_t y = 0; y < size; ++y)
    for (int64_t x = 0; x < size; ++x) {
      const Filter& f = rows[size_t(y)];
      float total = 0;
      for (size_t j = 0; j < f.weights.size(); ++j) total += f.weights[j] * narrow[size_t((f.first + int64_t(j)) * size + x)];
      out[y * size + x] = uint8_t(std::clamp(std::lround(total), 0l, 255l));
    }
}

}  // namespace

int64_t Images::class_count() const { return labels.empty() ? 0 : 1 + *std::max_element(labels.begin(), labels.end()); }

uint64_t Images::fingerprint() const {
  Hash64 hash;
  hash.add(uint64_t(size));
  hash.add(pixels.data(), pixels.size());
  hash.add(labels.data(), labels.size() * sizeof(int32_t));
  return hash.value();
}

Images parse_idx(const Storage& images, const std::string& images_name, const Storage& labels, const std::string& labels_name) {
  const std::vector<int64_t> extents = idx_extents(images, images_name, 3), n = idx_extents(labels, labels_name, 1);
  require(extents[0] > 0 && extents[1] > 0, "'", images_name, "': no images");
  require(extents[1] == extents[2], "'", images_name, "': images of ", extents[1], " × ", extents[2], ", expected square ones");
  require(extents[0] == n[0], "'", labels_name, "': ", n[0], " labels for ", extents[0], " images");
  const auto* p = reinterpret_cast<const uint8_t*>(images.data()) + 16;
  const auto* l = reinterpret_cast<const uint8_t*>(labels.data()) + 8;
  Images result{1, extents[1], {p, p + extents[0] * extents[1] * extents[1]}, {l, l + n[0]}, {}};
  return result;
}

Images parse_cifar(const Storage& bytes, const std::string& name) {
  constexpr size_t record = 1 + 3 * 32 * 32;
  require(bytes.size() > 0 && bytes.size() % record == 0, "'", name, "': ", bytes.size(), " bytes are no CIFAR-10 records of ", record);
  Images images{3, 32, {}, {}, {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}};
  const auto* p = reinterpret_cast<const uint8_t*>(bytes.data());
  for (size_t at = 0; at < bytes.size(); at += record) {
    require(p[at] < 10, "'", name, "': label ", int(p[at]), " at offset ", at, ", expected 0 to 9");
    images.labels.push_back(p[at]);
    images.pixels.insert(images.pixels.end(), p + at + 1, p + at + record);
  }
  return images;
}

std::vector<uint8_t> square(const uint8_t* pixels, int64_t channels, int64_t height, int64_t width, int64_t size) {
  require(channels > 0 && height > 0 && width > 0 && size > 0, "images: cannot scale ", height, " × ", width, " to ", size);
  const auto extent = double(std::min(height, width));
  std::vector<uint8_t> out(size_t(channels * size * size));
  for (int64_t c = 0; c < channels; ++c)
    scale_channel(out.data() + c * size * size, pixels + c * height * width, height, width, (double(height) - extent) / 2, (double(width) - extent) / 2, extent, size);
  return out;
}

void Augmentation::operator()(uint8_t* image, int64_t channels, int64_t size, Rng& rng) const {
  std::vector<uint8_t> from(image, image + channels * size * size);
  if (crop > 0) {
    const double extent = double(size) * (1 - double(crop) * double(rng.uniform())), room = double(size) - extent;
    const double y = room * double(rng.uniform()), x = room * double(rng.uniform());
    for (int64_t c = 0; c < channels; ++c) scale_channel(image + c * size * size, from.data() + c * size * size, size, size, y, x, extent, size);
    from.assign(image, image + channels * size * size);
  }
  const auto draw = [&] { return shift > 0 ? int64_t(rng.below(uint64_t(2 * shift + 1))) - shift : 0; };
  const int64_t dy = draw(), dx = draw();
  const bool mirrored = flip && rng.below(2) == 1;
  if (dy == 0 && dx == 0 && !mirrored) return;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t y = 0; y < size; ++y)
      for (int64_t x = 0; x < size; ++x) {
        const int64_t sy = y - dy, sx = (mirrored ? size - 1 - x : x) - dx;
        const bool inside = sy >= 0 && sy < size && sx >= 0 && sx < size;
        image[(c * size + y) * size + x] = inside ? from[size_t((c * size + sy) * size + sx)] : 0;
      }
}

Tensor image_batch(const Images& images, std::span<const int64_t> indices, const Normalisation& n, const Augmentation& augmentation, Rng* rng) {
  require(int64_t(n.mean.size()) == images.channels && int64_t(n.std.size()) == images.channels, "images: ", n.mean.size(), " means for ", images.channels, " channels");
  const Tensor batch({int64_t(indices.size()), images.channels, images.size, images.size});
  const int64_t area = images.size * images.size;
  std::vector<uint8_t> image(size_t(images.bytes_each()));
  float* to = batch.data();
  for (const int64_t i : indices) {
    std::copy_n(images[i], image.size(), image.data());
    if (rng && augmentation.any()) augmentation(image.data(), images.channels, images.size, *rng);
    for (int64_t c = 0; c < images.channels; ++c)
      for (int64_t j = 0; j < area; ++j) *to++ = (float(image[size_t(c * area + j)]) / 255 - n.mean[size_t(c)]) / n.std[size_t(c)];
  }
  return batch;
}

Normalisation measure(const Images& images) {
  Normalisation n;
  const int64_t area = images.size * images.size;
  for (int64_t c = 0; c < images.channels; ++c) {
    double total = 0, squares = 0;
    for (int64_t i = 0; i < images.count(); ++i)
      for (int64_t j = 0; j < area; ++j) {
        const double x = double(images[i][c * area + j]) / 255;
        total += x;
        squares += x * x;
      }
    const double mean = total / double(images.count() * area), variance = squares / double(images.count() * area) - mean * mean;
    n.mean.push_back(float(mean));
    n.std.push_back(variance > 1e-12 ? float(std::sqrt(variance)) : 1.f);
  }
  return n;
}

}  // namespace kvt
