// Each function is defined beside the kernels it adds. ops/backends.cpp calls them in order of preference.
// Explicit calls, no static initialisers: linkers drop objects that nothing refers to from static libraries.
#pragma once
#include "ops/kernels.h"

namespace kvt {

void add_blocked_kernels();
void add_sse2_kernels();
void add_avx2_kernels();
void add_avx512_kernels();
void add_vnni_kernels();
void add_bf16_kernels();
void add_amx_kernels();
void add_neon_kernels();
void add_dotprod_kernels();
void add_i8mm_kernels();
void add_blas_kernels();

// The blocked product of ops/matmul_kernels.cpp (kernel::matmul's contract), for a library that is better at large ones only.
void blocked_matmul(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k);

// kernel::Tile::Pack for any tile, in plain C++: element p width + i of the panel is number p of vector i, as it is or rounded to BF16.
void pack_floats(void* y, int64_t width, const float* x, int64_t across, int64_t along, int64_t n, int64_t k);
void pack_rounded(void* y, int64_t width, const float* x, int64_t across, int64_t along, int64_t n, int64_t k);

}  // namespace kvt
