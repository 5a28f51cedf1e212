// Dot products of rows of F32, F16 and BF16 weights with one vector, unpacking the two short formats, and packing BF16.
//
// Four rows at a time: x is loaded once for them, and their sums hide the latency of an addition. The four lie in different quarters of the rows,
// for processors foresee what is read within each page alone, and several pages are read faster than one. What lies some KB ahead is asked for: decoding
// with F16 became 1.25 times as fast by it on a Xeon of the fourth generation (2 to 16 KB gain about the same).
#include "ops/simd/formats.h"

namespace kvt {
namespace {

template <class Format, int R>
inline void dot_rows(float* y, int64_t step, const typename Format::Number* w, int64_t stride, const float* x, int64_t n) {
  V even[R], odd[R];
  for (int r = 0; r < R; ++r) even[r] = odd[r] = V(0.0f);
  int64_t i = 0;
  constexpr int64_t bytes = 2 * W * int64_t(sizeof *w), line = 64, ahead = 4096;
  for (; i + 2 * W <= n; i += 2 * W) {
    if constexpr (2 * bytes >= line)                        // shorter vectors would ask too often
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
        for (int64_t at = 0; at < bytes; at += line) __builtin_prefetch(reinterpret_cast<const char*>(w + r * stride + i) + ahead + at, 0, 2);
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
  for (int r = 0; r < R; ++r) y[r * step] = sum(even[r] + odd[r]);
}

template <class Format>
void dot(float* y, const typename Format::Number* w, int64_t stride, const float* x, int64_t rows, int64_t n) {
  const int64_t quarter = rows / 4;
  for (int64_t r = 0; r < quarter; ++r) dot_rows<Format, 4>(y + r, quarter, w + r * stride, quarter * stride, x, n);
  for (int64_t r = 4 * quarter; r < rows; ++r) dot_rows<Format, 1>(y + r, 1, w + r * stride, stride, x, n);
}

template <class Format>
void unpack(float* y, const void* from, int64_t n) {
  const auto* x = static_cast<const typename Format::Number*>(from);
  int64_t i = 0;
  for (; i + W <= n; i += W) store(y + i, Format::widen(x + i));
  if (i < n) store(y + i, n - i, widen_part<Format>(x + i, n - i));
}

void pack_bf16(uint16_t* y, const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) BF16::narrow(y + i, load(x + i));
  if (i == n) return;
  uint16_t rest[W];
  BF16::narrow(rest, load(x + i, n - i, 0));
  for (int64_t j = i; j < n; ++j) y[j] = rest[j - i];
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
  kernel::pack_bf16.add(this_isa, pack_bf16);
#if defined(KVT_HAS_F16)
  kernel::unpack_f16.add(this_isa, unpack<F16>);
#endif
}

}  // namespace kvt
