#include "engine/fingerprint.h"

#include <algorithm>

namespace kvt {

std::string hex(uint64_t value) {
  std::string digits(16, '0');
  for (size_t i = digits.size(); i-- > 0; value >>= 4) digits[i] = "0123456789abcdef"[value & 15];
  return digits;
}

std::string fingerprint(const Gguf& model) {
  constexpr size_t samples = 16, sample_bytes = 64;
  Hash64 hash;
  hash.add(std::string_view(model.string("general.architecture")));
  for (const auto& [name, tensor] : model.tensor_map()) {
    hash.add(std::string_view(name));
    hash.add(uint64_t(tensor.dtype()));
    for (int64_t dim : tensor.shape()) hash.add(uint64_t(dim));
    const auto bytes = size_t(tensor.bytes()), n = std::min(bytes, sample_bytes);
    for (size_t i = 0; i < samples; ++i) hash.add(tensor.raw() + (bytes - n) / (samples - 1) * i, n);
  }
  return hex(hash.value());
}

}  // namespace kvt
