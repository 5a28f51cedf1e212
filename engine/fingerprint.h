// Telling files apart: a 64-bit hash (not a cryptographic one), and the fingerprint of a base model made with it.
#pragma once
#include <bit>
#include <cstring>
#include <string>
#include <string_view>

#include "engine/gguf.h"

namespace kvt {

// h ← (rotl(h, 29) ⊕ w) · odd constant, word by word, and a final mix (the finalizer of MurmurHash3, Appleby).
// Lengths are the caller's to add where pieces could run into each other; a string adds its own.
class Hash64 {
 public:
  void add(uint64_t word) { h_ = (std::rotl(h_, 29) ^ word) * 0x9e3779b97f4a7c15; }
  void add(const void* data, size_t bytes) {
    const auto* p = static_cast<const unsigned char*>(data);
    uint64_t word;
    for (; bytes >= 8; p += 8, bytes -= 8) {
      std::memcpy(&word, p, 8);
      add(word);
    }
    word = bytes;
    for (size_t i = 0; i < bytes; ++i) word = word << 8 | p[i];
    add(word);
  }
  void add(std::string_view text) {
    add(uint64_t(text.size()));
    add(text.data(), text.size());
  }
  uint64_t value() const {
    uint64_t h = h_;
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccd;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53;
    return h ^ (h >> 33);
  }

 private:
  uint64_t h_ = 0x243f6a8885a308d3;
};

std::string hex(uint64_t value);         // 16 digits

// Architecture, names, shapes and types of all tensors, and 16 samples of 64 bytes from each: the same for the same weights,
// whatever the file's metadata; milliseconds on a mapped file. 16 hexadecimal digits.
std::string fingerprint(const Gguf& model);

}  // namespace kvt
