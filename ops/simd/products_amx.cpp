// The register tile of products in BF16 by AMX:  C[32, 32] += A[32, k] B[k, 32] in four tiles of sums, 32 numbers of k at a time.
//
//   T0 T1      T4 (rows 0…15)          T0 += T4 T6    T1 += T4 T7        four loads for four products, which take twice as long
//   T2 T3      T5 (rows 16…31)         T2 += T5 T6    T3 += T5 T7
//
// A panel is a sequence of such tiles as they are loaded, of 1 KB each: for every 32 numbers of k the first 16 rows (columns) and the other 16.
#include "ops/simd/panels.h"
#include "ops/simd/tiles.h"
#include "ops/simd/vec.h"

namespace kvt {
namespace {

constexpr int64_t side = 32, step = 32, tile_elements = 16 * 16;      // pairs

void matmul_tile_bf16(float* c, int64_t ldc, const void* panel_a, const void* panel_b, int64_t k) {
  auto *a = static_cast<const uint32_t*>(panel_a), *b = static_cast<const uint32_t*>(panel_b);
  const int64_t row = ldc * int64_t(sizeof(float));
  float* const below = c + 16 * ldc;
  tile_load<0>(c, row), tile_load<1>(c + 16, row), tile_load<2>(below, row), tile_load<3>(below + 16, row);
  for (; k > 0; k -= step, a += 2 * tile_elements, b += 2 * tile_elements) {
    tile_load<4>(a, 64), tile_load<6>(b, 64), tile_load<7>(b + tile_elements, 64), tile_load<5>(a + tile_elements, 64);
    tile_bf16<0, 4, 6>(), tile_bf16<1, 4, 7>(), tile_bf16<2, 5, 6>(), tile_bf16<3, 5, 7>();
  }
  tile_store<0>(c, row), tile_store<1>(c + 16, row), tile_store<2>(below, row), tile_store<3>(below + 16, row);
}

// Tiles of A hold vectors in their rows, tiles of B pairs.
template <bool by_elements>
void pack_tiles(void* panel, int64_t width, const float* x, int64_t across, int64_t along, int64_t n, int64_t k) {
  Block r;
  auto* y = static_cast<uint32_t*>(panel);
  for (int64_t p = 0; p < k; p += step)
    for (int64_t i = 0; i < width; i += 16, y += tile_elements) {
      load_block<Bf16Pairs>(r, by_elements, x + i * across + p * along, across, along, n - i, k - p);
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) _mm512_storeu_si512(y + 16 * j, r[j]);
    }
}

constexpr TileShapes shapes;
void begin() { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
void end() { asm volatile("tilerelease" : : : "memory"); }

}  // namespace

void ISA::add_products_amx() {
  kernel::matmul_tile_bf16.add(this_isa, matmul_tile_bf16, {int(side), int(side), pack_tiles<false>, pack_tiles<true>, int(step), 2, 16, 256, begin, end});
}

}  // namespace kvt
