// C[m, n] += A B on all threads, by a register tile (kernel::Tile) over panels, where each number of A and B is packed once.
//
// The smaller of A and B is packed whole and shared by all threads; each job packs a block of the other, and meets the shared panels with it:
//
//   for q in K by some kc:                     pack the smaller one, A[:, q..] say, on all threads                 at most 4 MB, in L2 or L3
//     for jc in N by nc, on all threads:
//       for pc in q by kc:                     pack B[pc.., jc..]                                                  stays in L2
//         for ic in M by mc:                   C[ic.., jc..] += tiles, a panel of A in L1 meeting all of B's block
//
// An element of C is a sum over blocks of kc of sums in order of k. Neither m nor n nor the number of threads enters, so the bits are those of
// the blocked product of ops/matmul_kernels.cpp, whose innermost loops these are.
#pragma once
#include <cstddef>

#include "ops/loops.h"

namespace kvt {

using TileVariant = Kernel<kernel::MatmulTile, kernel::Tile>::Variant;

// A's rows or B's columns: vectors of k numbers each, that come as panels.
struct PanelSource {
  // Panels for vectors first … first + count − 1, one after another, of numbers from … from + k − 1. `first` is a multiple of vector_block, `from` of number_block.
  using Pack = void(const PanelSource&, std::byte* panels, const kernel::Tile& of, int64_t first, int64_t count, int64_t from, int64_t k);
  Pack* pack;
  kernel::Mat mat{};
  const Tensor* weights = nullptr;
  int64_t vector_block = 1, number_block = 1;
};
PanelSource rows_of(kernel::Mat a);                   // of A, as it lies in memory
PanelSource columns_of(kernel::Mat b);
PanelSource columns_of_transposed(const Tensor& w);   // B = Wᵀ of weights of any type, unpacked on the way
PanelSource columns_of(const Tensor& w);              // B = W

// Numbers of a panel's vector that are met at once: equal parts of k, none above what the tile wants.
int64_t numbers_of_panel(const kernel::Tile& of, int64_t k, int64_t block = 1);

// Whether Cᵀ = Bᵀ Aᵀ, of the same bits, leaves less of the tiles idle: C is narrow, and so are the tile's rows.
inline bool narrow(const kernel::Tile& of, int64_t m, int64_t n) { return n <= of.rows && of.rows < of.cols && n < m; }

// C[m, n] += panels of A times panels of B, k numbers each; element (i, j) of C is c[i row + j col]. Between of.begin() and of.end().
void multiply_panels(float* c, int64_t row, int64_t col, const TileVariant& tile, const std::byte* a, const std::byte* b, int64_t m, int64_t n, int64_t k);

// C = A B with element (i, j) of C at c[i row + j col], or with a bias C = A B + bias, one number for each element of a contiguous row; `add`: C += A B.
void panel_product(float* c, int64_t row, int64_t col, const TileVariant& tile, const PanelSource& a, const PanelSource& b, int64_t m, int64_t n, int64_t k, bool add,
                   const float* bias = nullptr);

// The tile that products of this precision are made of.
inline const TileVariant& tile_of(Precision precision) { return (precision == Precision::bf16 ? kernel::matmul_tile_bf16 : kernel::matmul_tile).best(); }

}  // namespace kvt
