// add_low_rank    y_t += s Fᵀ (C_t (A x_t))        A [r, K], F [q, N];  C_t [q, r], or none with q = r
//
// Four rows of x meet A and F once, by the kernels of attention with few queries: rows of A are keys, H = X Aᵀ [r, 4] comes key by key, and H (or C H) weighs
// the rows of F as values. From some rank on, and of many rows, products of matrices are faster.
#include "ops/low_rank.h"

#include <cmath>

#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/quant.h"

namespace kvt {

static constexpr int64_t most_rank = 16;

// x in F16, times the power of two that brings its largest number to [½, 1)
static Tensor halves(const Tensor& x, float& scale) {
  float most = 0;
  for (const float v : x.values()) most = std::max(most, std::fabs(v));
  int exponent = 0;
  if (most > 0 && std::isfinite(most)) std::frexp(most, &exponent);
  exponent = std::clamp(exponent, -120, 120);               // of subnormal numbers 2^−exponent would be ∞
  scale *= std::ldexp(1.f, exponent);
  return pack(kvt::scale(x, std::ldexp(1.f, -exponent)), DType::F16);
}

LowRankFactors low_rank_factors(const Tensor& a, const Tensor& b) {
  const Tape::Pause pause;
  LowRankFactors both;
  both.a = halves(a, both.scale);
  both.f = halves(permute(b, {1, 0}), both.scale);
  return both;
}

void add_core_weights(LowRankFactors& m, const Tensor& w) {
  const Tape::Pause pause;
  m.w = halves(w, m.scale);
}

// What low_rank_inner reads comes first, of all layers, so that it can be asked for ahead.
void bring_together(std::span<LowRankFactors* const> layers) {
  constexpr int64_t line = 64;
  std::vector<const Tensor*> order;
  for (const LowRankFactors* m : layers) order.insert(order.end(), {&m->a, &m->w});
  for (const LowRankFactors* m : layers) order.push_back(&m->f);
  std::erase_if(order, [](const Tensor* x) { return !*x; });
  int64_t bytes = 0;
  for (const Tensor* x : order) bytes += round_up(x->bytes(), line);
  if (bytes == 0) return;
  const Storage block = Storage::allocate_large(size_t(bytes));
  size_t at = 0;
  for (const Tensor* x : order) {
    const Storage part = block.part(at, size_t(x->bytes()));
    std::copy_n(x->raw(), x->bytes(), part.data());
    x->move_to(part);
    at += size_t(round_up(x->bytes(), line));
  }
}

void check_low_rank(const LowRank& m, int64_t K, int64_t N) {
  const DType type = m.a.dtype();
  require((type == DType::F32 || type == DType::F16) && m.f.dtype() == type && (m.cores.w || m.outer() == m.inner()) && m.a.dim(1) == K && m.f.dim(1) == N,
          "add_low_rank: factors ", m.a.shape(), " and ", m.f.shape(), " do not take rows of ", K, " numbers to rows of ", N);
  if (const Tensor* w = m.cores.w)
    require(w->dtype() == type && w->rank() == 3 && w->dim(1) == m.inner() && w->dim(2) == round_up(m.outer(), core_lanes), "add_low_rank: cores of ", w->shape(),
            " for factors ", m.a.shape(), " and ", m.f.shape());
}

// g = s C h of a core's transpose [r, q rounded up]
static void core_times(float* g, const LowRank& m, const float* h, int64_t step, const float* core) {
  const int64_t r = m.inner(), q = m.outer();
  for (int64_t first = 0; first < q; first += core_lanes) {
    float sums[core_lanes] = {};
    const float* row = core + first;
    for (int64_t j = 0; j < r; ++j, row += round_up(q, core_lanes))
      for (int64_t i = 0; i < core_lanes; ++i) sums[i] += row[i] * h[j * step];
    for (int64_t i = 0; i < std::min(core_lanes, q - first); ++i) g[(first + i) * step] = m.scale * sums[i];
  }
}

void low_rank_core(float* g, const LowRank& m, const float* h, int64_t step, int64_t t, int64_t rows) {
  const int64_t r = m.inner(), q = m.outer(), before = std::clamp<int64_t>(m.from - t, 0, rows), each = m.cores.rows_each;
  for (int64_t i = 0; i < q; ++i) std::fill_n(g + i * step, before, 0.f);
  if (!m.cores.w) {
    for (int64_t i = 0; i < q; ++i)
      for (int64_t row = before; row < rows; ++row) g[i * step + row] = m.scale * h[i * step + row];
    return;
  }
  thread_local Scratch scratch;
  const int64_t units = m.cores.w->dim(0), numbers = r * m.cores.w->dim(2);
  float* const core = scratch.floats(low_rank_rows * numbers);
  const auto make = [&](const auto& kernel, auto* w, const float* phi, int64_t n) { kernel(core, numbers, nullptr, nullptr, phi, low_rank_rows, w, numbers, n, units, numbers, nullptr); };
  for (int64_t row = before; row < rows;) {
    const int64_t at = t + row - m.from, i = at / each, lane = i % low_rank_rows, left = rows - row;
    const int64_t n = each == 1 ? std::min(low_rank_rows - lane, left) : 1, with = each == 1 ? 1 : std::min(each - at % each, left);      // cores, and rows that share one
    const float* const phi = m.cores.phi + i / low_rank_rows * units * low_rank_rows;
    if (m.cores.w->dtype() == DType::F32) make(kernel::attention_values_f32, m.cores.w->data(), phi, lane + n);
    else make(kernel::attention_values_f16, reinterpret_cast<const uint16_t*>(m.cores.w->raw()), phi, lane + n);
    for (int64_t c = 0; c < n; ++c)
      for (int64_t l = 0; l < with; ++l, ++row) core_times(g + row, m, h + row, step, core + (lane + c) * numbers);
  }
}

void low_rank_inner(float* g, const LowRank& m, const float* x, int64_t t, int64_t rows) {
  const int64_t K = m.a.dim(1), r = m.inner();
  thread_local Scratch scratch;
  float *const h = m.cores.w ? scratch.floats(4 * r) : g, top[4] = {};      // the largest is no matter
  const auto dots = [&](const auto& kernel, auto* a) { kernel(h, top, x + t * K, rows, a, K, r, K, nullptr); };
  if (m.a.dtype() == DType::F32) dots(kernel::attention_dots_f32, m.a.data());
  else dots(kernel::attention_dots_f16, reinterpret_cast<const uint16_t*>(m.a.raw()));
  low_rank_core(g, m, h, 4, t, rows);
}

void low_rank_outer(float* y, int64_t ldy, const LowRank& m, const float* g, int64_t rows, int64_t first, int64_t count) {
  static constexpr float ones[] = {1, 1, 1, 1};
  const int64_t N = m.f.dim(1);
  if (m.f.dtype() == DType::F32) kernel::attention_values_f32(y, ldy, ones, nullptr, g, 4, m.f.data() + first, N, rows, m.outer(), count, nullptr);
  else kernel::attention_values_f16(y, ldy, ones, nullptr, g, 4, reinterpret_cast<const uint16_t*>(m.f.raw()) + first, N, rows, m.outer(), count, nullptr);
}

void prefetch_next_inner(const LowRank& m) {
  constexpr int64_t ahead = 24 << 10;                        // of a block's layers that share their input, about
  const Tensor& last = m.cores.w ? *m.cores.w : m.a;
  for (int64_t i = 0; i < ahead; i += 64) __builtin_prefetch(last.raw() + last.bytes() + i, 0, 2);
}

void prefetch_outer(const LowRank& m, int64_t first, int64_t count) {
  const int64_t row = byte_size(m.f.dtype(), m.f.dim(1)), bytes = byte_size(m.f.dtype(), count);
  const std::byte* from = m.f.raw() + byte_size(m.f.dtype(), first);
  for (int64_t j = 0; j < m.outer(); ++j, from += row)
    for (int64_t i = 0; i < bytes + 63; i += 64) __builtin_prefetch(from + i);
}

void add_low_rank(const Tensor& to, const Tensor& from, const LowRank& m) {
  const int64_t all = from.shape().leading().numel(), T = all - m.from, K = from.dim(-1), N = to.dim(-1), r = m.inner(), q = m.outer();
  check_low_rank(m, K, N);
  require(T >= 0 && to.shape().leading() == from.shape().leading(), "add_low_rank: ", to.shape(), " is not made of ", from.shape());
  float* const y = to.data() + m.from * N;
  const float* const x = from.data();
  if (T <= low_rank_rows || (r <= most_rank && q <= most_rank)) {
    parallel_for(pieces(T, 4), std::max<int64_t>(1, piece_products / std::max<int64_t>(1, 4 * (r * K + q * N))), [&](int64_t begin, int64_t end) {
      thread_local Scratch scratch;
      float* const g = scratch.floats(4 * q);
      for (int64_t t = 4 * begin; t < std::min(4 * end, T); t += 4) {
        const int64_t rows = std::min<int64_t>(4, T - t);
        low_rank_inner(g, m, x, m.from + t, rows);
        low_rank_outer(y + t * N, N, m, g, rows, 0, N);
      }
    });
    return;
  }
  thread_local Scratch scratch;
  const DType type = m.a.dtype();
  const int64_t unpacked = type == DType::F32 ? 0 : r * K + q * N;
  float *const h = scratch.floats(T * (r + q) + unpacked), *const g = m.cores.w ? h + T * r : h, *const numbers = h + T * (r + q);
  if (unpacked) unpack(numbers, type, m.a.raw(), r * K), unpack(numbers + r * K, type, m.f.raw(), q * N);
  const float *const A = unpacked ? numbers : m.a.data(), *const F = unpacked ? numbers + r * K : m.f.data();
  multiply(h, T, {A, K, 1}, {x + m.from * K, 1, K}, r, T, K, Precision::f32, false);
  low_rank_core(g, m, h, T, m.from, T);
  multiply(y, N, {g, 1, T}, {F, N, 1}, T, N, q, Precision::f32);
}

}  // namespace kvt
