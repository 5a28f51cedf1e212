// Dot products of rows of F32, F16 and BF16 weights with one vector, and unpacking the two short formats.
//
// Four rows at a time: x is loaded once for them, and their sums hide the latency of an addition.
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

template <class Format>
inline V widen_part(const typename Format::Number* p, int64_t n) {
  typename Format::Number buffer[W] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return Format::widen(buffer);
}

template <class Format, int R>
inline void dot_rows(float* y, const typename Format::Number* w, int64_t stride, const float* x, int64_t n) {
  V even[R], odd[R];
  for (int r = 0; r < R; ++r) even[r] = odd[r] = V(0.0f);
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    const V x0 = load(x + i), x1 = load(x + i + W);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      even[r] = fma(Format::widen(w + r * stride + i), x0, even[r]);
      odd[r] = fma(Format::widen(w + r * stride + i + W), x1, odd[r]);
    }
  }
  if (i + W <= n) {
    const V x0 = load(x + i);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) even[r] = fma(Format::widen(w + r * stride + i), x0, even[r]);
    i += W;
  }
  if (i < n) {
    const V x0 = load(x + i, n - i, 0);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) odd[r] = fma(widen_part<Format>(w + r * stride + i, n - i), x0, odd[r]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) y[r] = sum(even[r] + odd[r]);
}

template <class Format>
void dot(float* y, const typename Format::Number* w, int64_t stride, const float* x, int64_t rows, int64_t n) {
  for (; rows >= 4; rows -= 4, y += 4, w += 4 * stride) dot_rows<Format, 4>(y, w, stride, x, n);
  for (; rows > 0; --rows, ++y, w += stride) dot_rows<Format, 1>(y, w, stride, x, n);
}

template <class Format>
void unpack(float* y, const void* from, int64_t n) {
  const auto* x = static_cast<const typename Format::Number*>(from);
  int64_t i = 0;
  for (; i + W <= n; i += W) store(y + i, Format::widen(x + i));
  if (i < n) store(y + i, n - i, widen_part<Format>(x + i, n - i));
}

}  // namespace

void ISA::add_dots() {
  kernel::dot_f32.add(this_isa, dot<F32>);
  kernel::dot_bf16.add(this_isa, dot<BF16>);
#if defined(KVT_HAS_F16)
  kernel::dot_f16.add(this_isa, dot<F16>);
#endif
}

void ISA::add_unpacks() {
  kernel::unpack_bf16.add(this_isa, unpack<BF16>);
#if defined(KVT_HAS_F16)
  kernel::unpack_f16.add(this_isa, unpack<F16>);
#endif
}

}  // namespace kvt
