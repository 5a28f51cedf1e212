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
constexpr int strip_rows = 6, strip_vectors = 4;         // 24 + 4 + 1 of 32; the tile is arm/matmul_tile.cpp
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

#if !defined(__aarch64__)
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
#endif

// y[r, :] = y[r, :] scale[r] + Σ_p a[r, p] b[p, :] for R rows;  without scale the old y is not read.
template <int R>
inline void strip(float* y, int64_t ldy, const float* scale, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t cols, int64_t k) {
  const auto finish = [=](const auto& sums, int c, int64_t at, auto&& read, auto&& write) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      float* const to = y + r * ldy + at;
      write(to, scale ? fma(read(to), V(scale[r]), sums[r][c]) : sums[r][c]);
    }
  };
  constexpr int C = strip_vectors;
  int64_t j = 0;
  for (; j + C * W <= cols; j += C * W) {
    V acc[R][C];
    clear(acc);
    multiply<R, C>(acc, a, lda, 1, [=](int64_t p, int c) { return load(b + p * ldb + j + c * W); }, k);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c)
      finish(acc, c, j + c * W, [](const float* p) { return load(p); }, [](float* p, V v) { store(p, v); });
  }
  for (; j < cols; j += W) {
    const int64_t n = std::min<int64_t>(W, cols - j);
    V acc[R][1];
    clear(acc);
    if (n == W) {
      multiply<R, 1>(acc, a, lda, 1, [=](int64_t p, int) { return load(b + p * ldb + j); }, k);
      finish(acc, 0, j, [](const float* p) { return load(p); }, [](float* p, V v) { store(p, v); });
    } else {
      multiply<R, 1>(acc, a, lda, 1, [=](int64_t p, int) { return load(b + p * ldb + j, n, 0); }, k);
      finish(acc, 0, j, [=](const float* p) { return load(p, n, 0); }, [=](float* p, V v) { store(p, n, v); });
    }
  }
}

// All rows: strips of R, then what is left with a smaller R.
template <int R>
void strips(float* y, int64_t ldy, const float* scale, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows, int64_t cols, int64_t k) {
  for (; rows >= R; rows -= R, y += R * ldy, a += R * lda) {
    strip<R>(y, ldy, scale, a, lda, b, ldb, cols, k);
    if (scale) scale += R;
  }
  if constexpr (R > 1)
    if (rows > 0) strips<(R > 4 ? 4 : R / 2)>(y, ldy, scale, a, lda, b, ldb, rows, cols, k);
}

void attention_scores(float* s, int64_t lds, const float* q, int64_t ldq, const float* kt, int64_t rows, int64_t cols, int64_t D) {
  strips<strip_rows>(s, lds, nullptr, q, ldq, kt, cols, rows, cols, D);
}

void attention_values(float* o, int64_t ldo, const float* s, int64_t lds, const float* v, int64_t ldv, const float* fix, int64_t rows,
                      int64_t cols, int64_t D) {
  strips<strip_rows>(o, ldo, fix, s, lds, v, ldv, rows, D, cols);
}

}  // namespace

#if !defined(__aarch64__)
void ISA::add_products() { kernel::matmul_tile.add(this_isa, matmul_tile, {tile_rows, tile_vectors * W}); }
#endif

void ISA::add_attention() {
  kernel::attention_scores.add(this_isa, attention_scores);
  kernel::attention_values.add(this_isa, attention_values);
}

}  // namespace kvt
