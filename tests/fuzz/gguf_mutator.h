// libFuzzer's mutator for targets that read GGUF: mostly of keys and tensors, now and then of bytes. Include it in one target's file;
// `after` may mend what a file of that target would else be refused for at once (a checksum).
#pragma once
#include <cstring>

#include "tests/fuzz/raw_gguf.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace kvt::fuzz {

using Mend = void (*)(RawGguf& file);

inline size_t store(RawGguf& file, Mend mend, uint8_t* data, size_t max_size) {
  if (mend) mend(file);
  const std::string bytes = file.write();
  if (bytes.size() > max_size) return 0;
  std::memcpy(data, bytes.data(), bytes.size());
  return bytes.size();
}

inline size_t mutate_gguf(uint8_t* data, size_t size, size_t max_size, unsigned seed, Mend mend = nullptr) {
  if (seed % 8 != 0)
    if (auto file = RawGguf::parse({reinterpret_cast<char*>(data), size})) {
      mutate(*file, seed / 8);
      if (const size_t n = store(*file, mend, data, max_size)) return n;
    }
  return LLVMFuzzerMutate(data, size, max_size);
}

inline size_t cross_gguf(const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size, uint8_t* out, size_t max_size, unsigned seed, Mend mend = nullptr) {
  auto file = RawGguf::parse({reinterpret_cast<const char*>(a), a_size});
  const auto other = RawGguf::parse({reinterpret_cast<const char*>(b), b_size});
  if (!file || !other) return 0;
  cross(*file, *other, seed);
  return store(*file, mend, out, max_size);
}

}  // namespace kvt::fuzz

#define KVT_GGUF_MUTATOR(MEND)                                                                                                        \
  extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {                           \
    return kvt::fuzz::mutate_gguf(data, size, max_size, seed, MEND);                                                                \
  }                                                                                                                                  \
  extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* a, size_t m, const uint8_t* b, size_t n, uint8_t* out, size_t max_size, \
                                              unsigned seed) {                                                                      \
    return kvt::fuzz::cross_gguf(a, m, b, n, out, max_size, seed, MEND);                                                            \
  }
