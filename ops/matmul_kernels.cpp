// C += A B, three ways: the definition, one register tile of it, and whole products blocked for the caches.
//
// The blocked product is that of BLIS (Van Zee and van de Geijn 2015). Around the tile run five loops:
//
//   for jc in N by nc,  for pc in K by kc:       pack B[pc.., jc..] into panels [kc, cols], which stay in L3 or L2
//     for ic in M by mc:                         pack A[ic.., pc..] into panels [kc, rows], which stay in L2
//       for jr in nc by cols, for ir in mc by rows:     C[ir.., jr..] += tile
//
// An element of C is a sum over blocks of kc of sums in order of k. Neither m nor n enters, so a product split among threads
// by rows or columns gives the same bits as a whole one.
#include <algorithm>

#include "ops/backends.h"
#include "ops/kernels.h"
#include "ops/loops.h"

namespace kvt {

static void matmul_reference(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      float total = 0;
      for (int64_t p = 0; p < k; ++p) total += a.p[i * a.row + p * a.col] * b.p[p * b.row + j * b.col];
      c[i * ldc + j] += total;
    }
}

static constexpr kernel::Tile reference_tile = {4, 8};

static void matmul_tile_reference(float* c, int64_t ldc, const float* a, const float* b, int64_t k) {
  float total[reference_tile.rows][reference_tile.cols] = {};
  for (int64_t p = 0; p < k; ++p, a += reference_tile.rows, b += reference_tile.cols)
    for (int i = 0; i < reference_tile.rows; ++i)
      for (int j = 0; j < reference_tile.cols; ++j) total[i][j] += a[i] * b[j];
  for (int i = 0; i < reference_tile.rows; ++i)
    for (int j = 0; j < reference_tile.cols; ++j) c[i * ldc + j] += total[i][j];
}

namespace {

constexpr int64_t kc = 256;            // a panel of A and one of B together fit the L1 cache, or nearly
constexpr int64_t mc = 192, nc = 1536; // 192 KB of A, 1.5 MB of B

using Four = float __attribute__((vector_size(16)));

Four load4(const float* p) { Four v; __builtin_memcpy(&v, p, sizeof v); return v; }
void store4(float* p, Four v) { __builtin_memcpy(p, &v, sizeof v); }

// y[j ld + i] = x[i ldx + j] for 4 x 4
void transpose4(float* y, int64_t ldy, const float* x, int64_t ldx) {
  const Four r0 = load4(x), r1 = load4(x + ldx), r2 = load4(x + 2 * ldx), r3 = load4(x + 3 * ldx);
  const Four a = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), b = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
  const Four c = __builtin_shufflevector(r0, r1, 2, 6, 3, 7), d = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
  store4(y, __builtin_shufflevector(a, b, 0, 1, 4, 5));
  store4(y + ldy, __builtin_shufflevector(a, b, 2, 3, 6, 7));
  store4(y + 2 * ldy, __builtin_shufflevector(c, d, 0, 1, 4, 5));
  store4(y + 3 * ldy, __builtin_shufflevector(c, d, 2, 3, 6, 7));
}

// One panel: y[p width + i] = x[i across + p along] for i < used, and zeros up to width.
void pack_panel(float* y, int64_t width, const float* x, int64_t across, int64_t along, int64_t used, int64_t k) {
  if (across == 1) {
    for (int64_t p = 0; p < k; ++p) {
      std::copy_n(x + p * along, used, y + p * width);
      std::fill_n(y + p * width + used, width - used, 0.0f);
    }
    return;
  }
  int64_t i = 0;
  if (along == 1)
    for (; i + 4 <= used; i += 4) {
      int64_t p = 0;
      for (; p + 4 <= k; p += 4) transpose4(y + p * width + i, width, x + i * across + p, across);
      for (; p < k; ++p)
        for (int64_t j = i; j < i + 4; ++j) y[p * width + j] = x[j * across + p];
    }
  for (; i < width; ++i)
    for (int64_t p = 0; p < k; ++p) y[p * width + i] = i < used ? x[i * across + p * along] : 0.0f;
}

void pack(float* y, int64_t width, const float* x, int64_t across, int64_t along, int64_t n, int64_t k) {
  for (int64_t i = 0; i < n; i += width, y += width * k) pack_panel(y, width, x + i * across, across, along, std::min(width, n - i), k);
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace

void blocked_matmul(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k) {
  thread_local Scratch a_buffer, b_buffer;
  const auto& [tile, shape] = kernel::matmul_tile.best();
  const int64_t rows = shape.rows, cols = shape.cols, m_step = mc / rows * rows, n_step = nc / cols * cols;
  const int64_t k_most = std::min(kc, k);
  float* const a_packed = a_buffer.floats(round_up(std::min(m, m_step), rows) * k_most);
  float* const b_packed = b_buffer.floats(round_up(std::min(n, n_step), cols) * k_most);
  alignas(64) float edge[16 * 64];

  for (int64_t jc = 0; jc < n; jc += n_step)
    for (int64_t pc = 0; pc < k; pc += kc) {
      const int64_t nb = std::min(n_step, n - jc), kb = std::min(kc, k - pc);
      pack(b_packed, cols, b.p + pc * b.row + jc * b.col, b.col, b.row, nb, kb);
      for (int64_t ic = 0; ic < m; ic += m_step) {
        const int64_t mb = std::min(m_step, m - ic);
        pack(a_packed, rows, a.p + ic * a.row + pc * a.col, a.row, a.col, mb, kb);
        for (int64_t jr = 0; jr < nb; jr += cols)
          for (int64_t ir = 0; ir < mb; ir += rows) {
            float* const to = c + (ic + ir) * ldc + jc + jr;
            const int64_t in_rows = std::min(rows, mb - ir), in_cols = std::min(cols, nb - jr);
            if (in_rows == rows && in_cols == cols) {
              tile(to, ldc, a_packed + ir * kb, b_packed + jr * kb, kb);
              continue;
            }
            std::fill_n(edge, rows * cols, 0.0f);
            tile(edge, cols, a_packed + ir * kb, b_packed + jr * kb, kb);
            for (int64_t i = 0; i < in_rows; ++i)
              for (int64_t j = 0; j < in_cols; ++j) to[i * ldc + j] += edge[i * cols + j];
          }
      }
    }
}

void add_blocked_kernels() { kernel::matmul.add(Isa::blocked, blocked_matmul); }

namespace kernel {
Kernel<void(float*, int64_t, Mat, Mat, int64_t, int64_t, int64_t)> matmul("matmul", matmul_reference);
Kernel<void(float*, int64_t, const float*, const float*, int64_t), Tile> matmul_tile("matmul_tile", matmul_tile_reference, reference_tile);
}  // namespace kernel
}  // namespace kvt
