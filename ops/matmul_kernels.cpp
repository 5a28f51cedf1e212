// C += A B, three ways: the definition, one register tile of it, and whole products blocked for the caches.
//
// The blocked product is that of BLIS (Van Zee and van de Geijn 2015). Around the tile run five loops, whose mc and
// nc are tunables (ops/tuning.h):
//
//   for jc in N by nc,  for pc in K by kc:       pack B[pc.., jc..] into panels [kc, cols], which stay in L2
//     for ic in M by mc:                         pack A[ic.., pc..] into panels [kc, rows], which stay in L2
//       for ir in mc by rows, for jr in nc by cols:     C[ir.., jr..] += tile
//
// In the innermost loop a panel of A stays in L1 and the tile goes along the rows of C, as memory lies.
//
// An element of C is a sum over blocks of kc of sums in order of k. Neither m nor n enters, so a product split among threads
// by rows or columns gives the same bits as a whole one.
//
// What a panel holds, F32 or BF16 in some order, is the affair of the tile's variant, which packs it.
#include <algorithm>
#include <utility>

#include "ops/backends.h"
#include "ops/kernels.h"
#include "ops/panel_product.h"
#include "ops/quant.h"
#include "ops/tuning.h"

namespace kvt {

static float same(float x) { return x; }
static float nearest_bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }

template <float operand(float)>
static void matmul_reference(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      float total = 0;
      for (int64_t p = 0; p < k; ++p) total += operand(a.p[i * a.row + p * a.col]) * operand(b.p[p * b.row + j * b.col]);
      c[i * ldc + j] += total;
    }
}

static constexpr int reference_rows = 4, reference_cols = 8;

static void matmul_tile_reference(float* c, int64_t ldc, const void* panel_a, const void* panel_b, int64_t k) {
  auto *a = static_cast<const float*>(panel_a), *b = static_cast<const float*>(panel_b);
  float total[reference_rows][reference_cols] = {};
  for (int64_t p = 0; p < k; ++p, a += reference_rows, b += reference_cols)
    for (int i = 0; i < reference_rows; ++i)
      for (int j = 0; j < reference_cols; ++j) total[i][j] += a[i] * b[j];
  for (int i = 0; i < reference_rows; ++i)
    for (int j = 0; j < reference_cols; ++j) c[i * ldc + j] += total[i][j];
}

namespace {

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

using Panels = Kernel<kernel::MatmulTile, kernel::Tile>;

template <const Panels& tiles>
void blocked(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k) {
  thread_local Scratch a_buffer, b_buffer;
  const TileVariant& tile = tiles.best();
  const kernel::Tile& of = tile.traits;
  const bool flip = narrow(of, m, n);
  const int64_t row = flip ? 1 : ldc, col = flip ? ldc : 1;
  if (flip) std::swap(m, n), std::swap(a, b), a = transposed(a), b = transposed(b);
  const PanelSource rows = rows_of(a), columns = columns_of(b);
  const int64_t m_step = std::max<int64_t>(1, tuning::matmul_rows() / of.rows) * of.rows, n_step = std::max<int64_t>(1, tuning::matmul_cols() / of.cols) * of.cols;
  const int64_t kc = numbers_of_panel(of, k);
  auto* const a_packed = reinterpret_cast<std::byte*>(a_buffer.floats((std::min(m, m_step) + of.rows) * kc * of.bytes / 4));
  auto* const b_packed = reinterpret_cast<std::byte*>(b_buffer.floats((std::min(n, n_step) + of.cols) * kc * of.bytes / 4));

  if (of.begin) of.begin();
  for (int64_t jc = 0; jc < n; jc += n_step)
    for (int64_t pc = 0; pc < k; pc += kc) {
      const int64_t nb = std::min(n_step, n - jc), kb = std::min(kc, k - pc);
      columns.pack(columns, b_packed, of, jc, nb, pc, kb);
      for (int64_t ic = 0; ic < m; ic += m_step) {
        const int64_t mb = std::min(m_step, m - ic);
        rows.pack(rows, a_packed, of, ic, mb, pc, kb);
        multiply_panels(c + ic * row + jc * col, row, col, tile, a_packed, b_packed, mb, nb, kb);
      }
    }
  if (of.end) of.end();
}

}  // namespace

void pack_floats(void* panel, int64_t width, const float* x, int64_t across, int64_t along, int64_t n, int64_t k) {
  float* const y = static_cast<float*>(panel);
  if (across == 1) {
    for (int64_t p = 0; p < k; ++p) {
      std::copy_n(x + p * along, n, y + p * width);
      std::fill_n(y + p * width + n, width - n, 0.0f);
    }
    return;
  }
  int64_t i = 0;
  if (along == 1)
    for (; i + 4 <= n; i += 4) {
      int64_t p = 0;
      for (; p + 4 <= k; p += 4) transpose4(y + p * width + i, width, x + i * across + p, across);
      for (; p < k; ++p)
        for (int64_t j = i; j < i + 4; ++j) y[p * width + j] = x[j * across + p];
    }
  for (; i < width; ++i)
    for (int64_t p = 0; p < k; ++p) y[p * width + i] = i < n ? x[i * across + p * along] : 0.0f;
}

void pack_rounded(void* panel, int64_t width, const float* x, int64_t across, int64_t along, int64_t n, int64_t k) {
  float* const y = static_cast<float*>(panel);
  pack_floats(y, width, x, across, along, n, k);
  for (int64_t i = 0; i < width * k; ++i) {      // the same as nearest_bf16(), in a form that becomes vector code
    const auto bits = __builtin_bit_cast(uint32_t, y[i]), even = bits + 0x7fff + (bits >> 16 & 1), near = y[i] == y[i] ? even : bits | 0x400000;
    y[i] = __builtin_bit_cast(float, near & 0xffff0000u);
  }
}

namespace kernel {
Kernel<Matmul> matmul("matmul", matmul_reference<same>);
Kernel<Matmul> matmul_bf16("matmul_bf16", matmul_reference<nearest_bf16>);
Kernel<MatmulTile, Tile> matmul_tile("matmul_tile", matmul_tile_reference, {reference_rows, reference_cols, pack_floats, pack_floats});
Kernel<MatmulTile, Tile> matmul_tile_bf16("matmul_tile_bf16", matmul_tile_reference, {reference_rows, reference_cols, pack_rounded, pack_rounded});
}  // namespace kernel

void blocked_matmul(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k) {
  blocked<kernel::matmul_tile>(c, ldc, a, b, m, n, k);
}

void add_blocked_kernels() {
  kernel::matmul.add(Isa::blocked, blocked_matmul);
  kernel::matmul_bf16.add(Isa::blocked, blocked<kernel::matmul_tile_bf16>);
}

}  // namespace kvt
