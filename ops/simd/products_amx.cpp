// Register tiles of products by AMX:  C[32, 32] += A[32, k] B[k, 32] in four tiles of sums, 32 numbers of k at a time.
//
//   T0 T1      T4 (rows 0…15)          T0 += T4 T6    T1 += T4 T7        four loads for four products, which take twice as long
//   T2 T3      T5 (rows 16…31)         T2 += T5 T6    T3 += T5 T7
//
// A panel is a sequence of such tiles as they are loaded, of 1 KB each: for every 32 numbers of k the first 16 rows (columns) and the other 16.
//
// In BF16 that is all. In F32 a number is the sum of three in BF16, exactly (8 bits each of 24: Henry, Tang, Heinecke 2019, "Leveraging the bfloat16
// Artificial Intelligence Datatype For Higher-Precision Computations"), and of the nine products the six largest count:
//
//   a = a₁ + a₂ + a₃,   |a₂| ≤ 2⁻⁸ |a|,  |a₃| ≤ 2⁻¹⁶ |a|          a b ≈ a₁b₁ + (a₁b₂ + a₂b₁) + (a₁b₃ + a₂b₂ + a₃b₁)          error < 2⁻²² |a b|
//
// Six times 1/16 of the time of multiply-adds in F32. What is infinite, or above 2¹²⁸ (1 − 2⁻⁹), becomes NaN (∞ − ∞), and parts below 2⁻¹²⁶ are 0.
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

// The same of panels with three tiles for one. Of the pairs of parts two that follow one another share one, and the smallest come first.
void matmul_tile(float* c, int64_t ldc, const void* panel_a, const void* panel_b, int64_t k) {
  auto *a = static_cast<const uint32_t*>(panel_a), *b = static_cast<const uint32_t*>(panel_b);
  constexpr int64_t part = 2 * tile_elements;
  const int64_t row = ldc * int64_t(sizeof(float));
  float* const below = c + 16 * ldc;
  const auto load_a = [&](int i) { tile_load<4>(a + (i - 1) * part, 64), tile_load<5>(a + (i - 1) * part + tile_elements, 64); };
  const auto load_b = [&](int i) { tile_load<6>(b + (i - 1) * part, 64), tile_load<7>(b + (i - 1) * part + tile_elements, 64); };
  const auto products = [] { tile_bf16<0, 4, 6>(), tile_bf16<1, 4, 7>(), tile_bf16<2, 5, 6>(), tile_bf16<3, 5, 7>(); };
  tile_load<0>(c, row), tile_load<1>(c + 16, row), tile_load<2>(below, row), tile_load<3>(below + 16, row);
  for (; k > 0; k -= step, a += 3 * part, b += 3 * part) {
    load_a(3), load_b(1), products();
    load_a(2), products();
    load_b(2), products();
    load_a(1), products();
    load_b(3), products();
    load_b(1), products();
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

// x without its nearest BF16 (of two the farther from 0), whose bits go to the upper half of `part`
inline __m512 split(__m512 x, __m512i& part) {
  part = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)), _mm512_set1_epi32(int(0xffff0000)));
  return _mm512_sub_ps(x, _mm512_castsi512_ps(part));
}

template <bool by_elements>
void pack_split(void* panel, int64_t width, const float* x, int64_t across, int64_t along, int64_t n, int64_t k) {
  const __m512i odd = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  Block low, high;      // numbers 0 … 15 and 16 … 31 of 16 vectors
  auto* y = static_cast<uint32_t*>(panel);
  const auto pair = [&](uint32_t* to, __m512i first, __m512i second) {      // upper halves: of numbers 0 … 15 and 16 … 31 of a vector, or of one number and the next of 16
    _mm512_storeu_si512(to, by_elements ? _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(first, 16), second) : _mm512_permutex2var_epi16(first, odd, second));
  };
  for (int64_t p = 0; p < k; p += step, y += 3 * width * 16)
    for (int64_t i = 0; i < width; i += 16) {
      load_block<F32Elements>(low, by_elements, x + i * across + p * along, across, along, n - i, k - p);
      load_block<F32Elements>(high, by_elements, x + i * across + (p + 16) * along, across, along, n - i, k - p - 16);
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) {
        const __m512i first = by_elements ? (j < 8 ? low[2 * j] : high[2 * j - 16]) : low[j], second = by_elements ? (j < 8 ? low[2 * j + 1] : high[2 * j - 15]) : high[j];
        __m512 a = _mm512_castsi512_ps(first), b = _mm512_castsi512_ps(second);
        uint32_t* const to = y + i * 16 + 16 * j;
        for (int part = 0; part < 2; ++part) {
          __m512i upper_a, upper_b;
          a = split(a, upper_a), b = split(b, upper_b);
          pair(to + part * width * 16, upper_a, upper_b);
        }
        pair(to + 2 * width * 16, _mm512_castps_si512(a), _mm512_castps_si512(b));      // what is left fits; or is NaN
      }
    }
}

constexpr TileShapes shapes;
void begin() { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
void end() { asm volatile("tilerelease" : : : "memory"); }

}  // namespace

void ISA::add_products_amx() {
  kernel::matmul_tile.add(this_isa, matmul_tile, {int(side), int(side), pack_split<false>, pack_split<true>, int(step), 6, 384, 0, 0, begin, end});
  kernel::matmul_tile_bf16.add(this_isa, matmul_tile_bf16, {int(side), int(side), pack_tiles<false>, pack_tiles<true>, int(step), 2, 640, 16, 256, begin, end});
}

}  // namespace kvt
