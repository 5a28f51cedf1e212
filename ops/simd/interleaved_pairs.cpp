// Interleaved weights to pairs of BF16 for the register tile (AVX512_BF16).
#include "ops/simd/interleaved.h"

namespace kvt {
namespace {

// bytes 4r + i of every row r as a number of it:  d c + offset
template <int i>
inline __m512 numbers(__m512i c, __m512 d, __m512 offset) {
  __m512i byte = c;
  if constexpr (i > 0) byte = _mm512_srli_epi32(c, 8 * i);
  if constexpr (i < 3) byte = _mm512_and_si512(byte, _mm512_set1_epi32(255));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(byte), d, offset);
}

inline __m512i pairs(__m512 low, __m512 high) {
  const __m512i shuffled = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(shuffled, __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(high, low)));
}

template <class B>
void pairs16(uint32_t* y, int64_t pair_step, const void* w, int64_t first, int64_t blocks, int64_t n) {
  const Panel<B> panel(w, n / 32);
  for (int64_t k = first; k < first + blocks; ++k, y += 512) {
    __m512i c[8];
    codes_of(c, panel, k);
    const __m512 d = sixteen_halves(panel.d + k * panel_rows);
    const __m512 offset = has_min<B> ? sixteen_halves(panel.m + k * panel_rows) : _mm512_mul_ps(d, _mm512_set1_ps(-Panel<B>::zero));
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      _mm512_storeu_si512(y + 2 * j * pair_step, pairs(numbers<0>(c[j], d, offset), numbers<1>(c[j], d, offset)));
      _mm512_storeu_si512(y + (2 * j + 1) * pair_step, pairs(numbers<2>(c[j], d, offset), numbers<3>(c[j], d, offset)));
    }
  }
}

}  // namespace

void ISA::add_interleaved_pairs() {
  kernel::pairs16_q4_0.add(this_isa, pairs16<BlockQ4_0>);
  kernel::pairs16_q4_1.add(this_isa, pairs16<BlockQ4_1>);
  kernel::pairs16_q5_0.add(this_isa, pairs16<BlockQ5_0>);
  kernel::pairs16_q5_1.add(this_isa, pairs16<BlockQ5_1>);
  kernel::pairs16_q8_0.add(this_isa, pairs16<BlockQ8_0>);
  kernel::pairs16_iq4_nl.add(this_isa, pairs16<BlockIQ4_NL>);
}

}  // namespace kvt
