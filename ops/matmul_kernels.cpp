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
//
// With operands rounded to BF16, panels hold the rounded numbers as F32, or pairs of them where a tile multiplies those at once.
#include <algorithm>

#include "ops/backends.h"
#include "ops/kernels.h"
#include "ops/loops.h"
#include "ops/quant.h"

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

static constexpr kernel::Tile reference_tile = {4, 8};

static void matmul_tile_reference(float* c, int64_t ldc, const float* a, const float* b, int64_t k) {
  float total[reference_tile.rows][reference_tile.cols] = {};
  for (int64_t p = 0; p < k; ++p, a += reference_tile.rows, b += reference_tile.cols)
    for (int i = 0; i < reference_tile.rows; ++i)
      for (int j = 0; j < reference_tile.cols; ++j) total[i][j] += a[i] * b[j];
  for (int i = 0; i < reference_tile.rows; ++i)
    for (int j = 0; j < reference_tile.cols; ++j) c[i * ldc + j] += total[i][j];
}

static void matmul_tile_bf16_reference(float* c, int64_t ldc, const uint32_t* a, const uint32_t* b, int64_t pairs) {
  const auto low = [](uint32_t pair) { return bf16_to_f32(uint16_t(pair)); };
  const auto high = [](uint32_t pair) { return bf16_to_f32(uint16_t(pair >> 16)); };
  for (; pairs > 0; --pairs, a += reference_tile.rows, b += reference_tile.cols)
    for (int i = 0; i < reference_tile.rows; ++i)
      for (int j = 0; j < reference_tile.cols; ++j) c[i * ldc + j] += low(a[i]) * low(b[j]) + high(a[i]) * high(b[j]);
}

namespace {

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

// The nearest BF16 in the upper half, anything below. The same as f32_to_bf16(), in a form that becomes vector code.
uint32_t round_bits(float x) {
  const auto bits = __builtin_bit_cast(uint32_t, x), even = bits + 0x7fff + (bits >> 16 & 1);
  return x == x ? even : bits | 0x400000;
}

// What panels are made of.
struct Numbers {
  using Element = float;
  static constexpr int64_t kc = 256;             // a panel of A and one of B together fit the L1 cache, or nearly
  static int64_t elements(int64_t k) { return k; }
  static const auto& tile() { return kernel::matmul_tile.best(); }
  static void pack(float* y, int64_t width, const float* x, int64_t across, int64_t along, int64_t used, int64_t k) {
    pack_panel(y, width, x, across, along, used, k);
  }
};

struct Rounded : Numbers {
  static void pack(float* y, int64_t width, const float* x, int64_t across, int64_t along, int64_t used, int64_t k) {
    pack_panel(y, width, x, across, along, used, k);
    for (int64_t i = 0; i < width * k; ++i) y[i] = __builtin_bit_cast(float, round_bits(y[i]) & 0xffff0000u);
  }
};

struct Pairs {
  using Element = uint32_t;
  static constexpr int64_t kc = 512;
  static int64_t elements(int64_t k) { return (k + 1) / 2; }
  static const auto& tile() { return kernel::matmul_tile_bf16.best(); }
  static void pack(uint32_t* y, int64_t width, const float* x, int64_t across, int64_t along, int64_t used, int64_t k) {
    constexpr int64_t piece = 32, most_width = 64;      // 8 KB, which stay in the L1 cache
    alignas(64) float some[piece * most_width];
    for (int64_t p = 0; p < k; p += piece) {
      const int64_t n = std::min(piece, k - p);
      pack_panel(some, width, x + p * along, across, along, used, n);
      if (n % 2) std::fill_n(some + n * width, width, 0.0f);
      for (const float* row = some; row < some + n * width; row += 2 * width, y += width)
        for (int64_t i = 0; i < width; ++i) y[i] = round_bits(row[i]) >> 16 | (round_bits(row[width + i]) & 0xffff0000u);
    }
  }
};

template <class Form>
void pack(typename Form::Element* y, int64_t width, const float* x, int64_t across, int64_t along, int64_t n, int64_t k) {
  for (int64_t i = 0; i < n; i += width, y += width * Form::elements(k)) Form::pack(y, width, x + i * across, across, along, std::min(width, n - i), k);
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <class Form>
void blocked(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k) {
  using Element = typename Form::Element;
  thread_local Scratch a_buffer, b_buffer;
  constexpr int64_t kc = Form::kc;
  const auto& [tile, shape] = Form::tile();
  const int64_t rows = shape.rows, cols = shape.cols, m_step = mc / rows * rows, n_step = nc / cols * cols;
  const int64_t most = Form::elements(std::min(kc, k));
  auto* const a_packed = reinterpret_cast<Element*>(a_buffer.floats(round_up(std::min(m, m_step), rows) * most));
  auto* const b_packed = reinterpret_cast<Element*>(b_buffer.floats(round_up(std::min(n, n_step), cols) * most));
  alignas(64) float edge[16 * 64];

  for (int64_t jc = 0; jc < n; jc += n_step)
    for (int64_t pc = 0; pc < k; pc += kc) {
      const int64_t nb = std::min(n_step, n - jc), in_block = std::min(kc, k - pc), kb = Form::elements(in_block);
      pack<Form>(b_packed, cols, b.p + pc * b.row + jc * b.col, b.col, b.row, nb, in_block);
      for (int64_t ic = 0; ic < m; ic += m_step) {
        const int64_t mb = std::min(m_step, m - ic);
        pack<Form>(a_packed, rows, a.p + ic * a.row + pc * a.col, a.row, a.col, mb, in_block);
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

}  // namespace

void blocked_matmul(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k) { blocked<Numbers>(c, ldc, a, b, m, n, k); }
void paired_matmul(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k) { blocked<Pairs>(c, ldc, a, b, m, n, k); }

void add_blocked_kernels() {
  kernel::matmul.add(Isa::blocked, blocked_matmul);
  kernel::matmul_bf16.add(Isa::blocked, blocked<Rounded>);
}

namespace kernel {
Kernel<Matmul> matmul("matmul", matmul_reference<same>);
Kernel<Matmul> matmul_bf16("matmul_bf16", matmul_reference<nearest_bf16>);
Kernel<void(float*, int64_t, const float*, const float*, int64_t), Tile> matmul_tile("matmul_tile", matmul_tile_reference, reference_tile);
Kernel<void(float*, int64_t, const uint32_t*, const uint32_t*, int64_t), Tile> matmul_tile_bf16("matmul_tile_bf16", matmul_tile_bf16_reference, reference_tile);
}  // namespace kernel
}  // namespace kvt
