// Panels for register tiles, with AVX-512: blocks of 16 × 16 elements, an element being an F32 or two BF16 that follow one another along a
// vector. A block comes by vectors (row i holds 16 elements of vector i) where those lie side by side in memory, else by elements (row e holds
// element e of 16 vectors), and is transposed where the panel wants the other.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

namespace kvt {
namespace {

using Block = __m512i[16];

inline __mmask16 first(int64_t n) { return __mmask16(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1); }
inline __m512 load_first(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }

struct F32Elements {
  static constexpr int64_t numbers = 1;
  static __m512i along(const float* x, int64_t n) { return _mm512_castps_si512(load_first(x, n)); }
  static __m512i across(const float* x, int64_t, int64_t n, int64_t) { return along(x, n); }
};

#if defined(__AVX512BF16__)
struct Bf16Pairs {
  static constexpr int64_t numbers = 2;
  static __m512i round(__m512 low, __m512 high) { return __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(high, low)); }      // 16 of one, then 16 of the other
  static __m512i along(const float* x, int64_t n) { return round(load_first(x, n), load_first(x + 16, n - 16)); }
  static __m512i across(const float* x, int64_t step, int64_t n, int64_t k) {
    const __m512i shuffled = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(shuffled, round(load_first(x, n), k > 1 ? load_first(x + step, n) : _mm512_setzero_ps()));
  }
};
#endif

// row i, element j  ↔  row j, element i
inline void transpose(Block& r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]), r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
  for (int j = 0; j < 4; ++j) {      // r[4 g + j] now holds elements j, 4 + j, 8 + j, 12 + j of rows 4 g … 4 g + 3
    const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd), d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(a, b, 0x88), t[8 + j] = _mm512_shuffle_i32x4(a, b, 0xdd);
    t[4 + j] = _mm512_shuffle_i32x4(c, d, 0x88), t[12 + j] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

// r = 16 elements of 16 vectors, by elements or by vectors; number p < k of vector i < n is x[i across + p along], the others are 0.
template <class E>
[[gnu::always_inline]] inline void load_block(Block& r, bool by_elements, const float* x, int64_t across, int64_t along, int64_t n, int64_t k) {
  if (across == 1) {
    for (int64_t e = 0, p = 0; e < 16; ++e, p += E::numbers) r[e] = p < k ? E::across(x + p * along, along, n, k - p) : _mm512_setzero_si512();
    if (!by_elements) transpose(r);
    return;
  }
  constexpr int64_t most = 16 * E::numbers;
  alignas(64) float copy[16 * most];
  if (along != 1) {
    for (int64_t i = 0; i < std::min<int64_t>(n, 16); ++i)
      for (int64_t p = 0; p < std::min(k, most); ++p) copy[i * most + p] = x[i * across + p * along];
    x = copy, across = most;
  }
  constexpr int64_t ahead = 4 * 16;      // numbers, of each vector: too many streams for the processor to follow
  if (n >= 16 && k >= most) {
    for (int64_t i = 0; i < 16; ++i) _mm_prefetch(x + i * across + ahead, _MM_HINT_T0), r[i] = E::along(x + i * across, most);
    if constexpr (E::numbers == 2) for (int64_t i = 0; i < 16; ++i) _mm_prefetch(x + i * across + ahead + 16, _MM_HINT_T0);
  } else {
    for (int64_t i = 0; i < 16; ++i) r[i] = i < n ? E::along(x + i * across, k) : _mm512_setzero_si512();
  }
  if (by_elements) transpose(r);
}

// kernel::Tile::Pack: element e width + i of the panel is element e of vector i.
template <class E>
void pack_elements(void* panel, int64_t width, const float* x, int64_t across, int64_t along, int64_t n, int64_t k) {
  Block r;
  auto* const y = static_cast<int32_t*>(panel);
  const int64_t elements = (k + E::numbers - 1) / E::numbers;
  for (int64_t e = 0; e < elements; e += 16)
    for (int64_t i = 0; i < width; i += 16) {
      const int64_t p = e * E::numbers;
      load_block<E>(r, true, x + i * across + p * along, across, along, n - i, k - p);
#pragma GCC unroll 16
      for (int64_t j = 0; j < 16; ++j)
        if (e + j < elements) _mm512_mask_storeu_epi32(y + (e + j) * width + i, first(width - i), r[j]);
    }
}

}  // namespace
}  // namespace kvt
