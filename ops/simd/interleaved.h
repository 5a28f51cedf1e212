// The codes of 16 interleaved rows (ops/interleave.h) as vectors: c[j] holds the numbers 4j … 4j + 3 of a block, 16 rows of four bytes each.
#pragma once
#include <immintrin.h>

#include "ops/interleave.h"
#include "ops/simd/vec.h"

namespace kvt {
namespace {

// Asks for the `bytes` that lie `ahead` behind p: the processor by itself foresees less, and nothing beyond a page of 4 KB. On a Xeon of the fourth generation
// decoding became 1.5 (Q8_0) to 1.7 times (Q4_0) as fast, best from 8 to 24 KB on.
template <size_t bytes>
inline void read_ahead(const uint8_t* p) {
  constexpr size_t ahead = 16 << 10, line = 64;
#pragma GCC unroll 16
  for (size_t i = 0; i < bytes; i += line) _mm_prefetch(reinterpret_cast<const char*>(p + ahead + i), _MM_HINT_T1);
}

inline __m512i load64(const void* p) { return _mm512_loadu_si512(p); }

// What `code` becomes as a byte ≥ 0: the code itself, or a level + 128
template <class B>
inline __m512i levels_of(__m512i code) {
  if constexpr (!Panel<B>::levels) return code;
  const __m128i levels = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(iq4_nl_levels)), _mm_set1_epi8(char(0x80)));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(levels), code);
}

template <class B>
[[gnu::always_inline]] inline void codes_of(__m512i (&c)[8], const Panel<B>& panel, int64_t k) {
  const uint8_t* const at = panel.codes + k * Panel<B>::code_bytes;
  if constexpr (Panel<B>::bytes_apart) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) c[j] = load64(at + 64 * j);
  } else {
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512i both = load64(at + 64 * j);
      c[j] = levels_of<B>(_mm512_and_si512(both, low));
      c[4 + j] = levels_of<B>(_mm512_and_si512(_mm512_srli_epi16(both, 4), low));
    }
    if constexpr (Panel<B>::has_fifths) {
      const __m512i sixteen = _mm512_set1_epi8(16);
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) c[j] = _mm512_mask_add_epi8(c[j], panel.fifths[k * 8 + j], c[j], sixteen);
    }
  }
}

inline __m512 sixteen_halves(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

}  // namespace
}  // namespace kvt
