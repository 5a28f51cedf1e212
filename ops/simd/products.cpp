// Small matrix products held in registers: the tile of our GEMM and the two of attention.
//
// All are  acc[R][C vectors] = Σ_p a[r, p] b[p, :]  with a broadcast and b loaded; they differ in strides and in what becomes of
// the sums. Register budget: R C sums, C vectors of b, and the broadcast.
#include "ops/simd/vec.h"

namespace kvt {
namespace {

#if defined(__AVX512F__)
constexpr int tile_rows = 14, tile_vectors = 2, strip_rows = 6, strip_vectors = 4;       // 28 + 2 + 1, 24 + 4 + 1 of 32 registers
#elif defined(__AVX2__)
constexpr int tile_rows = 6, tile_vectors = 2, strip_rows = 6, strip_vectors = 2;        // 12 + 2 + 1 of 16
#elif defined(__aarch64__)
constexpr int tile_rows = 6, tile_vectors = 4, strip_rows = 6, strip_vectors = 4;        // 24 + 4 + 1 of 32
#else
constexpr int tile_rows = 4, tile_vectors = 2, strip_rows = 4, strip_vectors = 2;        // 8 + 2 + 1 + 1 for a product, of 16
#endif

// R rows of `a` (element (r, p) at a[r a_row + p a_col]), C vectors of each row of b. B gives vector c of row p.
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

void matmul_tile(float* c, int64_t ldc, const float* a, const float* b, int64_t k) {
  constexpr int R = tile_rows, C = tile_vectors;
  V acc[R][C];
  clear(acc);
  multiply<R, C>(acc, a, 1, R, [=](int64_t p, int j) { return load(b + (p * C + j) * W); }, k);
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) store(c + r * ldc + j * W, load(c + r * ldc + j * W) + acc[r][j]);
}

}  // namespace

void ISA::add_products() { kernel::matmul_tile.add(this_isa, matmul_tile, {tile_rows, tile_vectors * W}); }

}  // namespace kvt
