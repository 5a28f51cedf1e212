// Numbers as stored and as a vector of floats: F32, BF16 and, where the processor converts it, F16 (KVT_HAS_F16).
#pragma once
#include "ops/simd/vec.h"

namespace kvt {
namespace {

struct F32 {
  using Number = float;
  static V widen(const float* p) { return load(p); }
};

struct BF16 {       // the upper half of an F32
  using Number = uint16_t;
  static V widen(const uint16_t* p) {
#if defined(__AVX512F__)
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
#elif defined(__AVX2__)
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
#elif defined(__aarch64__)
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
#else
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#endif
  }
  // To the nearest, the even one of two; NaN stays NaN.
  static void narrow(uint16_t* p, V x) {
    const I b = bits(x), even = b + I(0x7fff) + ((b >> 16) & I(1));
    const I nearest = bits(xsimd::select(x == x, from_bits(even), from_bits(b | I(0x400000)))) >> 16;      // within int16_t
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(nearest));
#elif defined(__AVX2__)
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(nearest, nearest), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
#elif defined(__aarch64__)
    vst1_u16(p, vmovn_u32(vreinterpretq_u32_s32(nearest)));
#else
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi32(nearest, nearest));
#endif
  }
};

#if defined(__F16C__) || defined(__aarch64__)
#define KVT_HAS_F16 1
struct F16 {
  using Number = uint16_t;
  static V widen(const uint16_t* p) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#endif
  }
};
#endif

// The first n < W numbers, then zeros; nothing behind the n-th is touched.
template <class Format>
inline V widen_part(const typename Format::Number* p, int64_t n) {
  typename Format::Number buffer[W] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return Format::widen(buffer);
}

}  // namespace
}  // namespace kvt
