// Products of interleaved weights with activations rounded to 8 bits (AVX-512 VNNI): four numbers of 16 rows meet four activations in one
// instruction. With codes c = q + zero ≥ 0:
//
//   y_r = Σ_k d_r,k d_x,k (Σ c_r qx)_k  +  Σ_k (m_r,k − zero d_r,k) d_x,k (Σ qx)_k
#include "ops/simd/interleaved.h"

namespace kvt {
namespace {

inline __m512i four(const int8_t* q) { return _mm512_set1_epi32(int(__builtin_bit_cast(uint32_t, *reinterpret_cast<const uint8_t(*)[4]>(q)))); }

// One panel with T rows of activations. Those that meet it first ask for memory that will be read some blocks later, of this panel and the next.
template <class B, int T>
inline void dot_panel(float* y, int64_t ldy, const Panel<B>& panel, const Q8Block* x, int64_t blocks, bool first) {
  __m512 sums[T], offsets[T];
  for (int t = 0; t < T; ++t) sums[t] = offsets[t] = _mm512_setzero_ps();
  for (int64_t k = 0; k < blocks; ++k) {
    if (first) read_ahead<panel_rows * sizeof(B)>(panel.codes + k * panel_rows * int64_t(sizeof(B)));
    __m512i c[8];
    codes_of(c, panel, k);
    const __m512 d = sixteen_halves(panel.d + k * panel_rows);
    const __m512 m = has_min<B> ? sixteen_halves(panel.m + k * panel_rows) : d;
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      const Q8Block& a = x[t * blocks + k];
      __m512i even = _mm512_setzero_si512(), odd = even;
#pragma GCC unroll 4
      for (int j = 0; j < 8; j += 2) even = _mm512_dpbusd_epi32(even, c[j], four(a.q + 4 * j)), odd = _mm512_dpbusd_epi32(odd, c[j + 1], four(a.q + 4 * j + 4));
      sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(even, odd)), _mm512_mul_ps(d, _mm512_set1_ps(a.d)), sums[t]);
      offsets[t] = _mm512_fmadd_ps(m, _mm512_set1_ps(a.d_sum), offsets[t]);
    }
  }
  constexpr float factor = has_min<B> ? 1 : -Panel<B>::zero;
  for (int t = 0; t < T; ++t) _mm512_storeu_ps(y + t * ldy, _mm512_fmadd_ps(_mm512_set1_ps(factor), offsets[t], sums[t]));
}

template <class B>
void dot16(float* y, int64_t ldy, const void* w, const Q8Block* x, int64_t panels, int64_t T, int64_t n) {
  const int64_t blocks = n / 32;
  for (int64_t i = 0; i < panels; ++i, y += panel_rows) {
    const Panel<B> panel(static_cast<const std::byte*>(w) + i * Panel<B>::size(blocks), blocks);
    int64_t t = 0;                                          // the panel stays in the L1 cache for all of x
    for (; t + 4 <= T; t += 4) dot_panel<B, 4>(y + t * ldy, ldy, panel, x + t * blocks, blocks, t == 0);
    for (; t + 2 <= T; t += 2) dot_panel<B, 2>(y + t * ldy, ldy, panel, x + t * blocks, blocks, t == 0);
    if (t < T) dot_panel<B, 1>(y + t * ldy, ldy, panel, x + t * blocks, blocks, t == 0);
  }
}

}  // namespace

void ISA::add_interleaved_dots() {
  kernel::dot16_q4_0.add(this_isa, dot16<BlockQ4_0>);
  kernel::dot16_q4_1.add(this_isa, dot16<BlockQ4_1>);
  kernel::dot16_q5_0.add(this_isa, dot16<BlockQ5_0>);
  kernel::dot16_q5_1.add(this_isa, dot16<BlockQ5_1>);
  kernel::dot16_q8_0.add(this_isa, dot16<BlockQ8_0>);
  kernel::dot16_iq4_nl.add(this_isa, dot16<BlockIQ4_NL>);
}

}  // namespace kvt
