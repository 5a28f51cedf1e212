// y = x Wᵀ for many rows by tiles of BF16 (kernel::matmul_tile_bf16), for inference.
//
// All of x is packed once. Each job unpacks some rows of W, packs them, and meets with them every panel of x:
//
//   for rows of W by cols:          for K by kc:  B = pack(unpack(W))             32 KB, in the L1 cache or nearly
//     for K by kc, for T by rows:   y[rows, cols] += tile(A, B)                    A streams from the L2 cache
//
// A number is the sum of parts in BF16, x ≈ x₁ + x₂ with x₁ = bf16(x), x₂ = bf16(x − x₁), of 8 bits of precision each:
//
//   weights     x·w ≈                           relative error of a product
//   quantized   x₁ w₁                           2^−9 twice: below that of activations rounded to 8 bits a block, a third of it
//   BF16        x₁ w₁ + x₂ w₁                   2^−17; w₁ is exact
//   F16         x₁ w₁ + x₂ w₁ + x₁ w₂           2^−17; w₁ + w₂ is exact, its 11 bits being fewer than 16
//
// What low-rank adapters add, s Fᵀ (C_t (A x_t)), is a sum over few numbers more (quantized weights alone): with G = s C_t (A x_t) in F32 before it is packed,
//
//   y = [x G] [W F]ᵀ        G of all adapters of all products; F is zero where an adapter is not a product's own
//
// Integer tiles would be slower: what they add up must be scaled after every block of 32 numbers, which takes several times as long as the
// products do.
#include "ops/linear_tiles.h"

#include <atomic>
#include <cstring>
#include <thread>

#include "ops/interleave.h"
#include "ops/panel_product.h"
#include "ops/quant.h"

namespace kvt {

namespace {

constexpr int64_t piece = 256;               // numbers unpacked at once: whole blocks of every type

struct Parts { int x, w; };
Parts parts_for(DType type) {
  if (type == DType::F16) return {2, 2};
  return {type == DType::BF16 ? 2 : 1, 1};
}

// How products are cut: K in blocks of kc numbers, T in panels of A; N in panels of B.
struct Plan {
  const TileVariant& tile;
  int64_t T, K, more, kc, blocks, panels;      // a block of K holds whole blocks of the type; `more` numbers follow K, in the last block

  Plan(int64_t t, int64_t k, int64_t more_)
      : tile(kernel::matmul_tile_bf16.best()), T(t), K(k), more(more_), kc(numbers_of_panel(tile.traits, K, piece)), blocks(pieces(K, kc)), panels(pieces(T, tile.traits.rows)) {}
  int64_t in_block(int64_t b) const { return std::min(kc, K - b * kc); }
  int64_t depth(int64_t b, int part = 0) const { return in_block(b) + (b + 1 == blocks && part == 0 ? more : 0); }      // of a panel: x's rest has nothing behind it
  int64_t vectors(int64_t n, int64_t numbers) const { return n * round_up(numbers, tile.traits.step) * tile.traits.bytes; }      // bytes of n
  int64_t a_block() const { return panels * vectors(tile.traits.rows, kc + more); }      // room for one of x's, in bytes; panels follow one another
  int64_t b_panel() const { return vectors(tile.traits.cols, kc + more); }
  std::byte* panel(std::byte* block, int64_t b, int64_t i, int part = 0) const { return block + i * vectors(tile.traits.rows, depth(b, part)); }
};

// x ← x − bf16(x)
void keep_rest(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] -= bf16_to_f32(f32_to_bf16(x[i]));
}

// Panel i of x, all blocks and parts: part p of block b begins at a + (p blocks + b) a_block.
void pack_x(std::byte* a, const Plan& plan, const float* x, int64_t i, int parts) {
  thread_local Scratch scratch;
  const auto& of = plan.tile.traits;
  const int64_t n = std::min<int64_t>(of.rows, plan.T - i * of.rows), K = plan.K;
  const float* from = x + i * of.rows * K;
  for (int p = 0; p < parts; ++p) {
    if (p > 0) {
      float* const rest = scratch.floats(n * K);
      std::copy_n(from, n * K, rest);
      keep_rest(rest, n * K);
      from = rest;
    }
    for (int64_t b = 0; b < plan.blocks; ++b)
      of.pack_a(plan.panel(a + (p * plan.blocks + b) * plan.a_block(), b, i, p), of.rows, from + b * plan.kc, K, 1, n, plan.in_block(b));
  }
}

// n rows of weights, block by block: part p of block b lies at b_panels + (p blocks + b) b_panel.
template <class RowAt>
void pack_rows(std::byte* to, const Plan& plan, DType type, const RowAt& row_at, int64_t n, int parts) {
  alignas(64) float numbers[64 * piece];
  const auto& of = plan.tile.traits;
  auto* const unpack = weight_format(type).unpack->best().fn;
  for (int64_t b = 0; b < plan.blocks; ++b)
    for (int64_t k = 0; k < plan.in_block(b); k += piece) {
      const int64_t count = std::min(piece, plan.in_block(b) - k);
      for (int64_t r = 0; r < n; ++r) unpack(numbers + r * piece, row_at(r) + byte_size(type, b * plan.kc + k), count);
      for (int p = 0; p < parts; ++p) {
        if (p > 0) keep_rest(numbers, n * piece);
        of.pack_b(to + (p * plan.blocks + b) * plan.b_panel() + k * of.cols * of.bytes, of.cols, numbers, piece, 1, n, count);
      }
    }
}

// Rows first … first + n − 1 of W
void pack_w(std::byte* to, const Plan& plan, const Tensor& w, int64_t first, int64_t n, int parts) {
  const auto& of = plan.tile.traits;
  if (w.interleaved() && of.pair_step > 0) {
    if (n < of.cols) std::fill_n(to, plan.blocks * plan.b_panel(), std::byte{});
    for (int64_t b = 0; b < plan.blocks; ++b)
      for (int64_t r = 0; r < n; r += panel_rows)
        (*weight_format(w.dtype()).pairs16)(reinterpret_cast<uint32_t*>(to + b * plan.b_panel()) + r / panel_rows * of.half_step, of.pair_step,
                                            w.interleaved().data() + (first + r) * byte_size(w.dtype(), plan.K), b * plan.kc / 32, plan.in_block(b) / 32, plan.K);
    return;
  }
  const std::byte* const rows = w.raw() + first * byte_size(w.dtype(), plan.K);
  const int64_t row = byte_size(w.dtype(), plan.K);
  pack_rows(to, plan, w.dtype(), [=](int64_t r) { return rows + r * row; }, n, parts);
}

}  // namespace

namespace {

constexpr int64_t most_rank = 16, most_side = 64;      // of an addition; of a tile

// What low-rank adapters add to the products of one call. All A's together are the columns of one product H = x Aᵀ [T, Σ r], of which comes G [T, Σ q].
class TileAdditions {
 public:
  TileAdditions(std::span<const Product> products, const Plan& plan) : products_(products), plan_(plan), of_(plan.tile.traits), outer_(outer(products)) {
    for (const Product& p : products)
      for (const LowRank& m : p.more) inner_ += m.inner();
  }
  static int64_t outer(std::span<const Product> products) {
    int64_t all = 0;
    for (const Product& p : products)
      for (const LowRank& m : p.more) all += m.outer();
    return all;
  }
  int64_t a_panels() const { return pieces(inner_, of_.cols); }
  int64_t bytes() const { return a_panels() * plan_.blocks * plan_.b_panel(); }

  // Panel j of all A's, to memory that begins at `a`
  void pack_a(std::byte* a, int64_t j) {
    const struct Made { std::atomic<int64_t>& count; ~Made() { count.fetch_add(1, std::memory_order_release); } } made{made_};      // also if there is no memory
    ArenaVector<const std::byte*> rows;
    rows.reserve(size_t(inner_));
    for (const Product& p : products_)
      for (const LowRank& m : p.more)
        for (int64_t r = 0; r < m.inner(); ++r) rows.push_back(m.a.raw() + byte_size(DType::F16, r * plan_.K));
    pack_rows(a + j * plan_.blocks * plan_.b_panel(), plan_, DType::F16, [&](int64_t r) { return rows[size_t(j * of_.cols + r)]; },
              std::min<int64_t>(of_.cols, inner_ - j * of_.cols), 1);
  }
  // Panel i of G behind the same panel of x, when A's panels are there.
  void pack_g(std::byte* x, int64_t i, const std::byte* a) const {
    if (inner_ == 0) return;
    for (int spins = 0; made_.load(std::memory_order_acquire) < a_panels(); ++spins)
      if (spins > 1000) std::this_thread::yield();
    thread_local Scratch scratch;
    const int64_t first = i * of_.rows, n = std::min<int64_t>(of_.rows, plan_.T - first);
    float *h = scratch.floats(n * (inner_ + outer_)), *const all_g = h + n * inner_, *g = all_g;
    std::fill_n(h, n * inner_, 0.f);
    if (of_.begin) of_.begin();
    for (int64_t j = 0; j < a_panels(); ++j)
      for (int64_t b = 0; b < plan_.blocks; ++b)
        multiply_panels(h + j * of_.cols * n, 1, n, plan_.tile, plan_.panel(x + b * plan_.a_block(), b, i), a + (j * plan_.blocks + b) * plan_.b_panel(), n,
                        std::min<int64_t>(of_.cols, inner_ - j * of_.cols), plan_.in_block(b));
    if (of_.end) of_.end();
    for (const Product& p : products_)
      for (const LowRank& m : p.more) low_rank_core(g, m, h, n, first, n), h += m.inner() * n, g += m.outer() * n;
    const int64_t last = plan_.blocks - 1;
    of_.pack_a(plan_.panel(x + last * plan_.a_block(), last, i) + plan_.vectors(of_.rows, plan_.in_block(last)), of_.rows, all_g, 1, n, n, outer_);
  }
  // Columns first … first + n − 1 of F, of the additions to p, behind the last block of W's panel b; part 1 of W has none.
  void pack_f(std::byte* b, const Product& p, int64_t first, int64_t n, int parts) const {
    if (outer_ == 0) return;
    thread_local Scratch scratch;
    float *const numbers = scratch.floats(outer_ * most_side), *to = numbers;
    for (const Product& each : products_)
      for (const LowRank& m : each.more)
        for (int64_t j = 0; j < m.outer(); ++j, to += most_side) {
          if (&each == &p) unpack(to, DType::F16, m.f.raw() + byte_size(DType::F16, j * m.f.dim(1) + first), n);
          else std::fill_n(to, n, 0.f);
        }
    for (int part = 0; part < parts; ++part) {
      if (part > 0) std::fill_n(numbers, outer_ * most_side, 0.f);
      const int64_t last = plan_.blocks - 1;
      of_.pack_b(b + (part * plan_.blocks + last) * plan_.b_panel() + plan_.vectors(of_.cols, plan_.in_block(last)), of_.cols, numbers, 1, most_side, n, outer_);
    }
  }

 private:
  std::span<const Product> products_;
  const Plan& plan_;
  const kernel::Tile& of_;
  int64_t inner_ = 0, outer_ = 0;
  std::atomic<int64_t> made_{0};             // panels of A
};

}  // namespace

bool tiles_take(const Product& p) {
  const auto& of = kernel::matmul_tile_bf16.best().traits;
  const Parts parts = parts_for(p.w.dtype());
  for (const LowRank& m : p.more)
    if (m.inner() > most_rank || m.outer() > most_rank || m.a.dtype() != DType::F16) return false;
  return parts.x == 1 && parts.w == 1 && of.rows <= most_side && of.cols <= most_side;
}

bool has_weight_tiles() { return kernel::matmul_tile_bf16.best().traits.begin != nullptr; }

void tile_products(std::span<const Product> products, const float* x, int64_t T, int64_t K) {
  const Plan plan(T, K, TileAdditions::outer(products));
  const auto& of = plan.tile.traits;
  Parts most{1, 1};
  int64_t columns = 0;                                      // panels of B
  for (const Product& p : products) {
    const Parts parts = parts_for(p.w.dtype());
    most = {std::max(most.x, parts.x), std::max(most.w, parts.w)};
    columns += (p.w.dim(0) + of.cols - 1) / of.cols;
  }
  TileAdditions more(products, plan);
  thread_local Scratch packed;
  auto* const a = reinterpret_cast<std::byte*>(packed.floats((most.x * plan.blocks * plan.a_block() + more.bytes()) / 4));
  std::byte* const factors = a + most.x * plan.blocks * plan.a_block();
  const int64_t before_x = more.a_panels();                // what those of x wait for comes first
  parallel_for(before_x + plan.panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i < before_x) more.pack_a(factors, i);
      else pack_x(a, plan, x, i - before_x, most.x), more.pack_g(a, i - before_x, factors);
    }
  });
  parallel_for(columns, 1, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    auto* const b = reinterpret_cast<std::byte*>(scratch.floats(most.w * plan.blocks * plan.b_panel() / 4));
    const Product* p = products.data();
    int64_t before = 0;                                     // panels of the products before *p
    for (int64_t j = begin; j < end; ++j) {
      for (int64_t mine; j - before >= (mine = (p->w.dim(0) + of.cols - 1) / of.cols); ++p) before += mine;
      const int64_t N = p->w.dim(0), first = (j - before) * of.cols, n = std::min<int64_t>(of.cols, N - first);
      const Parts parts = parts_for(p->w.dtype());
      for (const LowRank& m : p->more) prefetch_outer(m, first, n);
      pack_w(b, plan, p->w, first, n, parts.w);
      more.pack_f(b, *p, first, n, parts.w);
      float* const to = p->y + first;
      for (int64_t t = 0; t < T; ++t) {
        if (n == 32) std::memset(to + t * N, 0, 32 * sizeof(float));      // in place, without a call
        else std::fill_n(to + t * N, n, 0.0f);
      }
      if (of.begin) of.begin();
      for (int64_t block = 0; block < plan.blocks; ++block)
        for (int px = 0; px < parts.x; ++px)
          for (int pw = 0; pw < parts.w && px + pw < 2; ++pw)       // x₂ w₂ would be below rounding
            multiply_panels(to, N, 1, plan.tile, a + (px * plan.blocks + block) * plan.a_block(), b + (pw * plan.blocks + block) * plan.b_panel(), T, n,
                            plan.depth(block, px));
      if (of.end) of.end();
    }
  });
}

}  // namespace kvt
