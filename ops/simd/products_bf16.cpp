// The register tile of products in BF16 (AVX512_BF16). One instruction multiplies a pair of BF16 by another in each of 16 lanes and adds
// both to the lane's F32: twice the products of an F32 instruction.
//
//   C[14, 32] += Σ_p a[p, 0…13]ᵀ b[p, 0…31]      28 registers of sums, 2 of b; pairs of a are broadcast from memory
#include "ops/simd/panels.h"
#include "ops/simd/vec.h"

namespace kvt {
namespace {

constexpr int tile_rows = 14, tile_vectors = 2;

using Pairs = __m512bh;
inline Pairs load_pairs(const uint32_t* p) { return __builtin_bit_cast(Pairs, _mm512_loadu_si512(p)); }
inline Pairs everywhere(uint32_t pair) { return __builtin_bit_cast(Pairs, _mm512_set1_epi32(int(pair))); }

void matmul_tile_bf16(float* c, int64_t ldc, const void* panel_a, const void* panel_b, int64_t k) {
  auto *a = static_cast<const uint32_t*>(panel_a), *b = static_cast<const uint32_t*>(panel_b);
  __m512 acc[tile_rows][tile_vectors];
#pragma GCC unroll 14
  for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < tile_vectors; ++j) acc[r][j] = _mm512_setzero_ps();
  for (; k > 0; k -= 2, a += tile_rows, b += tile_vectors * W) {
    const Pairs b0 = load_pairs(b), b1 = load_pairs(b + W);
#pragma GCC unroll 14
    for (int r = 0; r < tile_rows; ++r) {
      const Pairs scale = everywhere(a[r]);
      acc[r][0] = _mm512_dpbf16_ps(acc[r][0], scale, b0);
      acc[r][1] = _mm512_dpbf16_ps(acc[r][1], scale, b1);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < tile_vectors; ++j) {
      float* const to = c + r * ldc + j * W;
      _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), acc[r][j]));
    }
}

}  // namespace

void ISA::add_products_bf16() {
  kernel::matmul_tile_bf16.add(this_isa, matmul_tile_bf16, {tile_rows, tile_vectors * W, pack_elements<Bf16Pairs>, pack_elements<Bf16Pairs>, 2, 2, 640, 32, 16});
}

}  // namespace kvt
