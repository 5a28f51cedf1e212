// A small matrix product held in registers:  acc[R][C vectors] += Σ_p a[r, p] b[p, :]  with a broadcast and b loaded.
//
// Register budget: R C sums, C vectors of b, and the broadcast. Callers differ in strides and in what becomes of the sums.
#pragma once
#include "ops/simd/vec.h"

namespace kvt {
namespace {

// Element (r, p) of `a` lies at a[r a_row + p a_col]; B gives vector c of row p.
template <int R, int C, class B>
[[gnu::always_inline]] inline void multiply(V (&acc)[R][C], const float* a, int64_t a_row, int64_t a_col, B b, int64_t k) {
  for (int64_t p = 0; p < k; ++p, a += a_col) {
    V row[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) row[c] = b(p, c);
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
      const V scale(a[r * a_row]);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) acc[r][c] = fma(scale, row[c], acc[r][c]);
    }
  }
}

// The same where the rows of `a` lie apart, each in order of p, and those of b are b_row apart. Three rows share a pointer, since processors add one or two
// times a distance to an address for nothing: with a pointer for each the compiler has none left, and fetches them from the stack.
template <int R, int C>
[[gnu::always_inline]] inline void multiply_rows(V (&acc)[R][C], const float* a, int64_t a_row, const float* b, int64_t b_row, int64_t k) {
  constexpr int unrolled = 4, bases = (R + 2) / 3;
  const float* base[bases];
#pragma GCC unroll 4
  for (int i = 0; i < bases; ++i) base[i] = a + 3 * i * a_row;
  int64_t p = 0;
  for (; p + unrolled <= k; p += unrolled) {
#pragma GCC unroll 4
    for (int i = 0; i < bases; ++i) asm("" : "+r"(base[i]));      // that they are related is no news to act on
#pragma GCC unroll 4
    for (int u = 0; u < unrolled; ++u, b += b_row) {
      V row[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) row[c] = load(b + c * W);
#pragma GCC unroll 14
      for (int r = 0; r < R; ++r) {
        const V scale(base[r / 3][r % 3 * a_row + u]);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) acc[r][c] = fma(scale, row[c], acc[r][c]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < bases; ++i) base[i] += unrolled;
  }
  multiply<R, C>(acc, a + p, a_row, 1, [=](int64_t d, int c) { return load(b + d * b_row + c * W); }, k - p);
}

template <int R, int C>
[[gnu::always_inline]] inline void clear(V (&acc)[R][C]) {
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) acc[r][c] = V(0.0f);
}

}  // namespace
}  // namespace kvt
