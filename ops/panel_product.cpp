#include "ops/panel_product.h"

#include <numeric>

#include "ops/quant.h"
#include "ops/tuning.h"

namespace kvt {

static const std::byte* numbers_of(const Tensor& w, int64_t row, int64_t column) { return w.raw() + row * byte_size(w.dtype(), w.dim(-1)) + byte_size(w.dtype(), column); }

// Panels of `count` vectors: number p of vector i is x[i across + p along]. Where vectors lie side by side some numbers of all come first, as memory lies.
static void pack_panels(kernel::Tile::Pack* pack, int64_t side, const kernel::Tile& of, std::byte* panels, const float* x, int64_t across, int64_t along, int64_t count, int64_t k) {
  const int64_t some = across == 1 ? round_up(32, of.step) : k, panel = side * round_up(k, of.step) * of.bytes;
  for (int64_t p = 0; p < k; p += some, x += some * along, panels += side * some * of.bytes)
    for (int64_t i = 0; i < count; i += side) pack(panels + i / side * panel, side, x + i * across, across, along, std::min(side, count - i), std::min(some, k - p));
}

PanelSource rows_of(kernel::Mat a) {
  return {[](const PanelSource& s, std::byte* panels, const kernel::Tile& of, int64_t first, int64_t count, int64_t from, int64_t k) {
    const kernel::Mat a = s.mat;
    pack_panels(of.pack_a, of.rows, of, panels, a.p + first * a.row + from * a.col, a.row, a.col, count, k);
  }, a};
}

PanelSource columns_of(kernel::Mat b) {
  return {[](const PanelSource& s, std::byte* panels, const kernel::Tile& of, int64_t first, int64_t count, int64_t from, int64_t k) {
    const kernel::Mat b = s.mat;
    pack_panels(of.pack_b, of.cols, of, panels, b.p + from * b.row + first * b.col, b.col, b.row, count, k);
  }, b};
}

PanelSource columns_of_transposed(const Tensor& w) {
  if (w.dtype() == DType::F32) return columns_of(kernel::Mat{w.data(), 1, w.dim(-1)});
  return {[](const PanelSource& s, std::byte* panels, const kernel::Tile& of, int64_t first, int64_t count, int64_t from, int64_t k) {
    thread_local Scratch scratch;
    float* const rows = scratch.floats(of.cols * k);
    for (int64_t j = 0; j < count; j += of.cols, panels += of.cols * round_up(k, of.step) * of.bytes) {
      const int64_t n = std::min<int64_t>(of.cols, count - j);
      for (int64_t r = 0; r < n; ++r) unpack(rows + r * k, s.weights->dtype(), numbers_of(*s.weights, first + j + r, from), k);
      pack_panels(of.pack_b, of.cols, of, panels, rows, k, 1, n, k);
    }
  }, {}, &w, 1, info(w.dtype()).block};
}

PanelSource columns_of(const Tensor& w) {
  if (w.dtype() == DType::F32) return columns_of(kernel::Mat{w.data(), w.dim(-1), 1});
  return {[](const PanelSource& s, std::byte* panels, const kernel::Tile& of, int64_t first, int64_t count, int64_t from, int64_t k) {
    thread_local Scratch scratch;
    float* const rows = scratch.floats(k * count);
    for (int64_t r = 0; r < k; ++r) unpack(rows + r * count, s.weights->dtype(), numbers_of(*s.weights, from + r, first), count);
    pack_panels(of.pack_b, of.cols, of, panels, rows, 1, count, count, k);
  }, {}, &w, info(w.dtype()).block, 1};
}

int64_t numbers_of_panel(const kernel::Tile& of, int64_t k, int64_t block) {
  const int64_t parts = std::max<int64_t>(1, pieces(k, of.block));
  return round_up(pieces(k, parts), std::max<int64_t>(of.step, parts > 1 ? block : 1));
}

void multiply_panels(float* c, int64_t row, int64_t col, const TileVariant& tile, const std::byte* a, const std::byte* b, int64_t m, int64_t n, int64_t k) {
  const kernel::Tile& of = tile.traits;
  const int64_t bytes = round_up(k, of.step) * of.bytes;          // of a vector
  alignas(64) float edge[64 * 64];
  for (int64_t i = 0; i < m; i += of.rows, a += of.rows * bytes)
    for (int64_t j = 0; j < n; j += of.cols) {
      float* const to = c + i * row + j * col;
      const int64_t in_rows = std::min<int64_t>(of.rows, m - i), in_cols = std::min<int64_t>(of.cols, n - j);
      if (in_rows == of.rows && in_cols == of.cols && col == 1) {
        tile.fn(to, row, a, b + j * bytes, k);
        continue;
      }
      std::fill_n(edge, of.rows * of.cols, 0.0f);
      tile.fn(edge, of.cols, a, b + j * bytes, k);
      for (int64_t r = 0; r < in_rows; ++r)
        for (int64_t s = 0; s < in_cols; ++s) to[r * row + s * col] += edge[r * of.cols + s];
    }
}

namespace {

// One product. "Shared" is what all threads meet, "own" what each job packs a block of.
struct Job {
  const TileVariant& tile;
  const kernel::Tile& of;
  const PanelSource &a, &b;
  int64_t m, n, k;
  bool a_shared;                               // else B is
  int64_t shared_all, own_all, shared_side, own_side;
  int64_t kc, blocks, bytes;                   // of k: numbers of a block, how many, and bytes of a vector in a whole one

  Job(const TileVariant& t, const PanelSource& a_, const PanelSource& b_, int64_t m_, int64_t n_, int64_t k_)
      : tile(t), of(t.traits), a(a_), b(b_), m(m_), n(n_), k(k_), a_shared(m <= n), shared_all(a_shared ? m : n), own_all(a_shared ? n : m),
        shared_side(a_shared ? of.rows : of.cols), own_side(a_shared ? of.cols : of.rows), kc(numbers_of_panel(of, k, std::max(a.number_block, b.number_block))),
        blocks(pieces(k, kc)), bytes(kc * of.bytes) {}

  const PanelSource& shared() const { return a_shared ? a : b; }
  const PanelSource& own() const { return a_shared ? b : a; }
  int64_t numbers(int64_t block) const { return std::min(kc, k - block * kc); }
  int64_t vector(int64_t block) const { return round_up(numbers(block), of.step) * of.bytes; }      // bytes

  // Vectors of the shared side that are packed by one call, and those of a block of the other: as many for each thread, but no more than the cache likes, nor than
  // the shared side has (what meets few panels should come from the cache that it was just packed into).
  int64_t unit() const { return std::lcm(shared_side, shared().vector_block); }
  int64_t width(int64_t threads) const {
    const int64_t most = std::min(a_shared ? tuning::matmul_cols() : tuning::matmul_rows(), std::max<int64_t>(64, shared_all)), jobs = threads * pieces(own_all, threads * most);
    return round_up(pieces(own_all, jobs), std::lcm(own_side, own().vector_block));
  }
};

}  // namespace

void panel_product(float* c, int64_t row, int64_t col, const TileVariant& tile, const PanelSource& a, const PanelSource& b, int64_t m, int64_t n, int64_t k, bool add,
                   const float* bias) {
  if (m == 0 || n == 0 || (k == 0 && add)) return;
  if (k == 0) return col == 1 ? start(c, row, m, n, bias) : start(c, col, n, m, bias);
  constexpr int64_t most_shared = 4 << 20, most_vectors = 8192;      // bytes and vectors that are shared at once
  const Job job(tile, a, b, m, n, k);
  const kernel::Tile& of = job.of;
  const int64_t threads = m * n * k < piece_products ? 1 : ThreadPool::current().threads(), unit = job.unit(), width = job.width(threads);
  const auto in_parallel = [&](int64_t pieces, auto&& f) { parallel_for(pieces, threads == 1 ? pieces : 1, f); };
  const int64_t l2_columns = round_up(tuning::matmul_cols(), of.cols);
  thread_local Scratch shared_memory;

  for (int64_t begin = 0; begin < job.shared_all; begin += most_vectors) {
    const int64_t count = std::min(most_vectors, job.shared_all - begin), rounded = round_up(count, job.shared_side), units = pieces(count, unit);
    const int64_t at_once = std::clamp(most_shared / (rounded * job.bytes), int64_t(1), job.blocks);
    auto* const packed = reinterpret_cast<std::byte*>(shared_memory.floats(at_once * rounded * job.bytes / 4));
    for (int64_t q = 0; q < job.blocks; q += at_once) {
      const int64_t end = std::min(q + at_once, job.blocks);
      const auto panels = [&](int64_t block) { return packed + (block - q) * rounded * job.bytes; };
      in_parallel(units * (end - q), [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          const int64_t block = q + i / units, first = i % units * unit;
          job.shared().pack(job.shared(), panels(block) + first * job.vector(block), of, begin + first, std::min(unit, count - first), block * job.kc, job.numbers(block));
        }
      });
      in_parallel(pieces(job.own_all, width), [&](int64_t from, int64_t to) {
        thread_local Scratch own_memory;
        auto* const mine = reinterpret_cast<std::byte*>(own_memory.floats(width * job.bytes / 4));
        for (int64_t first = from * width; first < std::min(to * width, job.own_all); first += width) {
          const int64_t vectors = std::min(width, job.own_all - first), i = job.a_shared ? begin : first, j = job.a_shared ? first : begin;
          const int64_t rows = job.a_shared ? count : vectors, columns = job.a_shared ? vectors : count;
          float* const to_block = c + i * row + j * col;
          if (q == 0 && !add) col == 1 ? start(to_block, row, rows, columns, bias ? bias + j : nullptr) : start(to_block, col, columns, rows, bias ? bias + i : nullptr);
          for (int64_t block = q; block < end; ++block) {
            job.own().pack(job.own(), mine, of, first, vectors, block * job.kc, job.numbers(block));
            const std::byte *const of_a = job.a_shared ? panels(block) : mine, *const of_b = job.a_shared ? mine : panels(block);
            if (of.begin) of.begin();
            for (int64_t s = 0; s < columns; s += l2_columns)
              multiply_panels(to_block + s * col, row, col, tile, of_a, of_b + s * job.vector(block), rows, std::min(l2_columns, columns - s), job.numbers(block));
            if (of.end) of.end();
          }
        }
      });
    }
  }
}

}  // namespace kvt
