// The register tile of large products: C[8, 12] += Σ_p a[p, 0…7]ᵀ b[p, 0…11], in assembly because GCC 12 spills the same tile
// written with intrinsics.
//
// Registers: v8 … v31 hold C (row i in v(8 + 3i) … v(10 + 3i)), v0 v1 a column of A, v2 v3 v4 a row of B. A step loads five
// registers for 24 multiply-adds; A comes as whole vectors and is picked by lane, for a load that replicates costs more.
#include "ops/backends.h"
#include "ops/simd/vec.h"

namespace kvt {
namespace {

constexpr int tile_rows = 8, tile_cols = 12;

// One row of the tile: its three registers of sums, and the register of A and the lane that multiply them.
#define KVT_CLEAR(c0, c1, c2) "movi v" #c0 ".4s, #0\n movi v" #c1 ".4s, #0\n movi v" #c2 ".4s, #0\n"
#define KVT_STEP(c0, c1, c2, a, lane)                \
  "fmla v" #c0 ".4s, v2.4s, v" #a ".s[" #lane "]\n" \
  "fmla v" #c1 ".4s, v3.4s, v" #a ".s[" #lane "]\n" \
  "fmla v" #c2 ".4s, v4.4s, v" #a ".s[" #lane "]\n"
#define KVT_STORE(c0, c1, c2)                                                                             \
  "ldp q0, q1, [%[c]]\n ldr q2, [%[c], #32]\n"                                                            \
  "fadd v0.4s, v0.4s, v" #c0 ".4s\n fadd v1.4s, v1.4s, v" #c1 ".4s\n fadd v2.4s, v2.4s, v" #c2 ".4s\n"   \
  "stp q0, q1, [%[c]]\n str q2, [%[c], #32]\n add %[c], %[c], %[row]\n"

void matmul_tile(float* c, int64_t ldc, const void* a, const void* b, int64_t k) {
  asm volatile(
      KVT_CLEAR(8, 9, 10) KVT_CLEAR(11, 12, 13) KVT_CLEAR(14, 15, 16) KVT_CLEAR(17, 18, 19)
      KVT_CLEAR(20, 21, 22) KVT_CLEAR(23, 24, 25) KVT_CLEAR(26, 27, 28) KVT_CLEAR(29, 30, 31)
      "cbz %[k], 2f\n"
      "1:\n"
      "ldp q0, q1, [%[a]], #32\n"
      "ldp q2, q3, [%[b]]\n"
      "ldr q4, [%[b], #32]\n"
      "add %[b], %[b], #48\n"
      "subs %[k], %[k], #1\n"
      KVT_STEP(8, 9, 10, 0, 0) KVT_STEP(11, 12, 13, 0, 1) KVT_STEP(14, 15, 16, 0, 2) KVT_STEP(17, 18, 19, 0, 3)
      KVT_STEP(20, 21, 22, 1, 0) KVT_STEP(23, 24, 25, 1, 1) KVT_STEP(26, 27, 28, 1, 2) KVT_STEP(29, 30, 31, 1, 3)
      "b.ne 1b\n"
      "2:\n"
      KVT_STORE(8, 9, 10) KVT_STORE(11, 12, 13) KVT_STORE(14, 15, 16) KVT_STORE(17, 18, 19)
      KVT_STORE(20, 21, 22) KVT_STORE(23, 24, 25) KVT_STORE(26, 27, 28) KVT_STORE(29, 30, 31)
      : [c] "+r"(c), [a] "+r"(a), [b] "+r"(b), [k] "+r"(k)
      : [row] "r"(ldc * int64_t(sizeof(float)))
      : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20",
        "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}

}  // namespace

void ISA::add_products() {
  kernel::matmul_tile.add(this_isa, matmul_tile, {tile_rows, tile_cols, pack_floats, pack_floats});
  kernel::matmul_tile_bf16.add(this_isa, matmul_tile, {tile_rows, tile_cols, pack_rounded, pack_rounded});
}

}  // namespace kvt
