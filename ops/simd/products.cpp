// The register tile of our GEMM on x86; that of ARM is arm/matmul_tile.cpp.
#include "ops/simd/tile.h"

namespace kvt {
namespace {

#if defined(__AVX512F__)
constexpr int tile_rows = 14, tile_vectors = 2;      // 28 + 2 + 1 of 32 registers
#elif defined(__AVX2__)
constexpr int tile_rows = 6, tile_vectors = 2;       // 12 + 2 + 1 of 16
#else
constexpr int tile_rows = 4, tile_vectors = 2;       // 8 + 2 + 1 + 1 for a product, of 16
#endif

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
