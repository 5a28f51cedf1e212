// AMX: eight registers ("tiles") of 16 rows of 64 bytes, and one instruction that multiplies two of them into a third.
//
//   C[16, 16] += A[16, 32] B[32, 16] of BF16 in F32         A holds rows of 32 numbers; B holds pairs of rows, (2p, j) and (2p + 1, j) side by side,
//   C[16, 16] += A[16, 64] B[64, 16] of bytes in I32        or fours of bytes: what one row of a tile is, one sum of products takes in
//
// Tiles and the shapes they are set to belong to a thread. A kernel sets them when it begins and gives them up when it returns (Tiles below):
// - a function may not count on them (the ABI has callers save them), for whatever else runs on this thread, a BLAS or the host, may use them too;
// - a thread that holds none has no 8 KB more to be saved at each switch, and its core may clock down the unit.
// The two instructions take 0.1 to 0.3 µs together (and a tile product 5 to 10 ns), so a kernel should do some microseconds of work: a panel, not one tile.
//
// Instructions are written out, for the intrinsics of GCC 12 do not tell the compiler what memory they read: it may store numbers after the tile
// is loaded. Tiles are named by number, as template arguments.
#pragma once
#include <cstdint>

namespace kvt {
namespace {

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileShapes) == 64);

// While alive, this thread's tiles have the given shapes; all are whole unless said otherwise.
class Tiles {
 public:
  explicit Tiles(const TileShapes& shapes = whole) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
  ~Tiles() { asm volatile("tilerelease" : : : "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  static constexpr TileShapes whole{};
};

template <int t> inline void tile_zero() { asm volatile("tilezero %%tmm%c0" : : "i"(t)); }
// Rows lie `stride` bytes apart.
template <int t> inline void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(t) : "memory");
}
template <int t> inline void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(t) : "memory");
}
// c += a b
template <int c, int a, int b> inline void tile_bf16() { asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b)); }
template <int c, int a, int b> inline void tile_int8() { asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b)); }

}  // namespace
}  // namespace kvt
