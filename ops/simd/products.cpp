// The register tile of our GEMM on x86; that of ARM is arm/matmul_tile.cpp.
#include "ops/backends.h"
#include "ops/simd/tile.h"
#if defined(__AVX512F__)
#include "ops/simd/panels.h"
#endif

namespace kvt {
namespace {

#if defined(__AVX512F__)
constexpr int tile_rows = 14, tile_vectors = 2;      // 28 + 2 + 1 of 32 registers
constexpr auto& pack = pack_elements<F32Elements>;
#elif defined(__AVX2__)
constexpr int tile_rows = 6, tile_vectors = 2;       // 12 + 2 + 1 of 16
constexpr auto& pack = pack_floats;
#else
constexpr int tile_rows = 4, tile_vectors = 2;       // 8 + 2 + 1 + 1 for a product, of 16
constexpr auto& pack = pack_floats;
#endif

void matmul_tile(float* c, int64_t ldc, const void* panel_a, const void* panel_b, int64_t k) {
  auto *a = static_cast<const float*>(panel_a), *b = static_cast<const float*>(panel_b);
  constexpr int R = tile_rows, C = tile_vectors;
  V acc[R][C];
  clear(acc);
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < C; j += 64 / int(sizeof(V)) > 1 ? 64 / int(sizeof(V)) : 1) __builtin_prefetch(c + r * ldc + j * W, 1);      // by the time of the sums they are there
  multiply<R, C>(acc, a, 1, R, [=](int64_t p, int j) { return load(b + (p * C + j) * W); }, k);
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) store(c + r * ldc + j * W, load(c + r * ldc + j * W) + acc[r][j]);
}

}  // namespace

void ISA::add_products() {
  kernel::matmul_tile.add(this_isa, matmul_tile, {tile_rows, tile_vectors * W, pack, pack});
  kernel::matmul_tile_bf16.add(this_isa, matmul_tile, {tile_rows, tile_vectors * W, pack_rounded, pack_rounded});
}

}  // namespace kvt
