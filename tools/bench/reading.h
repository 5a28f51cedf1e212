// Reading memory as fast as the processor can, for programs that put a rate beside this limit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

// `streams` streams side by side, `ahead` bytes of each asked for in advance. Which form is the fastest differs between processors.
struct ReadForm { size_t streams, ahead; };
constexpr ReadForm read_forms[] = {{1, 0}, {1, 1024}, {1, 4096}, {2, 0}, {4, 0}, {4, 1024}, {8, 0}};

template <class V>
inline __attribute__((always_inline)) uint64_t read_as(const char* p, size_t bytes, ReadForm form) {
  constexpr size_t line = 64;
  const size_t stride = bytes / form.streams / line * line;
  V sums[64 / sizeof(V)] = {};
  for (size_t at = 0; at < stride; at += line)
    for (size_t s = 0; s < form.streams; ++s) {
      const char* q = p + s * stride + at;
      if (form.ahead) __builtin_prefetch(q + form.ahead, 0, 3);
      for (size_t i = 0; i < line / sizeof(V); ++i) {
        V v;
        std::memcpy(&v, q + i * sizeof(V), sizeof v);
        sums[i] |= v;
      }
    }
  uint64_t all = 0;
  for (const V& s : sums)
    for (size_t i = 0; i < sizeof(V) / 8; ++i) all |= reinterpret_cast<const uint64_t*>(&s)[i];
  return all;
}

typedef uint64_t V16 __attribute__((vector_size(16), may_alias));
uint64_t read_plain(const char* p, size_t bytes, ReadForm form) { return read_as<V16>(p, bytes, form); }
#if defined(__x86_64__)
typedef uint64_t V64 __attribute__((vector_size(64), may_alias));
__attribute__((target("avx512f"))) uint64_t read_avx512(const char* p, size_t bytes, ReadForm form) { return read_as<V64>(p, bytes, form); }
#endif

// Reads [p, p + bytes), but for less than `streams` lines. Returns something of all of it.
uint64_t read_all(const char* p, size_t bytes, ReadForm form) {
#if defined(__x86_64__)
  static const bool avx512 = __builtin_cpu_supports("avx512f");
  if (avx512) return read_avx512(p, bytes, form);
#endif
  return read_plain(p, bytes, form);
}

}  // namespace
