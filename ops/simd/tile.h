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

template <int R, int C>
[[gnu::always_inline]] inline void clear(V (&acc)[R][C]) {
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) acc[r][c] = V(0.0f);
}

}  // namespace
}  // namespace kvt
