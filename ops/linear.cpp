// linear    y = x Wᵀ + b        dx = dy W        dW = dyᵀ x        db = Σ_rows dy
//
// x [T, K] (leading axes as one), W [N, K] of any type. Four ways to y:
//   few rows, float W        dot products with each row of W: all there is to gain is reading W once, at the speed of memory
//   few rows, quantized W    rows of x rounded to 8 bits, integer dot products (the default for inference: ops/quant.h); of interleaved W any number
//   many rows, not F32       tiles of BF16 where there is an instruction for them (ops/linear_tiles.cpp; inference alone)
//   else, and in BF16        products of matrices, W unpacked as it is packed (ops/panel_product.h)
#include <atomic>
#include <optional>
#include <thread>

#include "ops/interleave.h"
#include "ops/linear_tiles.h"
#include "ops/linears.h"
#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/panel_product.h"
#include "ops/profile.h"
#include "ops/quant.h"
#include "tensor/cancel.h"

namespace kvt {

using kernel::Mat;

namespace {

constexpr int64_t dot_rows = 4;       // up to here one pass over W; from here on, packing for a product of matrices is shared by many rows
constexpr int64_t q8_rows = 32;       // up to here integer dot products read W as it is in a file; from here on unpacking it once is shared by many rows
constexpr int64_t tile_rows = 12;     // from here on unpacking W for tiles of BF16 is
constexpr int64_t weight_rows = 16;   // rows of W are dealt out in multiples of this, so that kernels may go in groups

const std::byte* row_of(const Tensor& w, int64_t row) { return w.raw() + row * byte_size(w.dtype(), w.dim(-1)); }

// Rows [first, first + count) of W with T rows of x, as they are or rounded.
void dots_of(const Product& p, const float* x, int64_t first, int64_t count, int64_t T) {
  const int64_t N = p.w.dim(0), K = p.w.dim(1), step = T == 1 ? count : weight_rows;
  for (int64_t n = first; n < first + count; n += step)                   // these rows stay in the cache for all of x
    for (int64_t t = 0, rows = std::min(step, first + count - n); t < T; ++t) {
      const std::byte* row = row_of(p.w, n);
      float* to = p.y + t * N + n;
      if (p.w.dtype() == DType::F32) kernel::dot_f32(to, reinterpret_cast<const float*>(row), K, x + t * K, rows, K);
      else if (p.w.dtype() == DType::F16) kernel::dot_f16(to, reinterpret_cast<const uint16_t*>(row), K, x + t * K, rows, K);
      else kernel::dot_bf16(to, reinterpret_cast<const uint16_t*>(row), K, x + t * K, rows, K);
    }
}
void q8_dots_of(const Product& p, const Q8Block* x, int64_t first, int64_t count, int64_t T) {
  const WeightFormat& format = weight_format(p.w.dtype());
  const int64_t N = p.w.dim(0), K = p.w.dim(1);
  if (p.w.interleaved()) (*format.dot16)(p.y + first, N, p.w.interleaved().data() + first * byte_size(p.w.dtype(), K), x, count / panel_rows, T, K);
  else (*format.dot_q8)(p.y + first, N, row_of(p.w, first), x, count, T, K);
}

// f(product, first, count): some rows of each W at a time, in multiples of weight_rows, of which each costs T·K multiply-adds
template <class F>
void for_weight_rows(std::span<const Product> products, int64_t T, int64_t K, F&& f) {
  int64_t groups = 0;
  for (const Product& p : products) groups += (p.w.dim(0) + weight_rows - 1) / weight_rows;
  parallel_for(groups, std::max<int64_t>(1, piece_products / std::max<int64_t>(1, T * K * weight_rows)), [&](int64_t begin, int64_t end) {
    for (const Product& p : products) {                     // those groups of them that lie in [begin, end)
      const int64_t N = p.w.dim(0), mine = (N + weight_rows - 1) / weight_rows, from = std::max<int64_t>(begin, 0), to = std::min(end, mine);
      if (from < to) f(p, from * weight_rows, std::min(to * weight_rows, N) - from * weight_rows);
      begin -= mine, end -= mine;
    }
  });
}

// What low-rank adapters add to products of few rows (ops/low_rank.h): G is made by the thread whose piece comes first, while the others begin with W; they wait for
// it when they come to add.
class FewRowAdditions {
 public:
  FewRowAdditions(std::span<const Product> products, const float* x, int64_t T) : products_(products), x_(x), T_(T) {
    for (const Product& p : products)
      for (const LowRank& m : p.more) numbers_ += low_rank_rows * m.outer();
    thread_local Scratch scratch;
    if (numbers_ > 0) g_ = scratch.floats(numbers_);
  }

  // Before the products of rows first … first + count − 1 of p.w
  void begin(const Product& p, int64_t first, int64_t count) {
    for (const LowRank& m : p.more) prefetch_outer(m, first, count);
    if (numbers_ == 0 || &p != products_.data() || first > 0) return;
    const struct Made { std::atomic<bool>& ready; ~Made() { ready.store(true, std::memory_order_release); } } made{ready_};      // also if there is no memory
    float* g = g_;
    const LowRank* last = nullptr;
    for (const Product& each : products_)
      for (const LowRank& m : each.more) low_rank_inner(g, m, x_, m.from, T_ - m.from), g += low_rank_rows * m.outer(), last = &m;
    prefetch_next_inner(*last);
  }
  // After them
  void end(const Product& p, int64_t first, int64_t count) {
    if (p.more.empty()) return;
    for (int spins = 0; !ready_.load(std::memory_order_acquire); ++spins)
      if (spins > 1000) std::this_thread::yield();
    const float* g = g_;
    for (const Product* before = products_.data(); before != &p; ++before)
      for (const LowRank& m : before->more) g += low_rank_rows * m.outer();
    const int64_t N = p.w.dim(0);
    for (const LowRank& m : p.more) low_rank_outer(p.y + m.from * N + first, N, m, g, T_ - m.from, first, count), g += low_rank_rows * m.outer();
  }

 private:
  std::span<const Product> products_;
  const float* x_;
  int64_t T_, numbers_ = 0;
  float* g_ = nullptr;
  std::atomic<bool> ready_{false};
};

void dot_products(std::span<const Product> products, const float* x, int64_t T, int64_t K) {
  FewRowAdditions more(products, x, T);
  for_weight_rows(products, T, K, [&, x, T](const Product& p, int64_t first, int64_t count) {
    more.begin(p, first, count);
    dots_of(p, x, first, count, T);
    more.end(p, first, count);
  });
}

void q8_products(std::span<const Product> products, const float* x, int64_t T, int64_t K) {
  thread_local std::vector<Q8Block> rounded;
  rounded.resize(size_t(T * K / 32));
  Q8Block* const q = rounded.data();
  for_rows(T, K, [&](int64_t begin, int64_t end) { kernel::quantize_q8(q + begin * K / 32, x + begin * K, (end - begin) * K); });
  FewRowAdditions more(products, x, T);
  for_weight_rows(products, T, K, [&more, q, T](const Product& p, int64_t first, int64_t count) {
    more.begin(p, first, count);
    q8_dots_of(p, q, first, count, T);
    more.end(p, first, count);
  });
}

// y = x Wᵀ + b
void panel_products(float* y, const Tensor& w, const float* b, const float* x, int64_t T, int64_t N, int64_t K, Precision precision) {
  const Mat X = {x, K, 1};
  if (w.dtype() == DType::F32) return multiply(y, N, X, {w.data(), 1, K}, T, N, K, {}, precision, false, b);
  panel_product(y, N, 1, tile_of(precision), rows_of(X), columns_of_transposed(w), T, N, K, false, b);
}

// dx += dy W, or dx = dy W
void panel_products_back(Gradient::Sum dx, const Tensor& w, const float* dy, int64_t T, int64_t N, int64_t K, Precision precision) {
  const Mat dY = {dy, N, 1};
  if (w.dtype() == DType::F32) return multiply(dx, K, dY, {w.data(), K, 1}, T, K, N, precision);
  panel_product(dx.p, K, 1, tile_of(precision), rows_of(dY), columns_of(w), T, K, N, dx.add);
}

// How y = x Wᵀ is computed: see above.
enum class Way { dots, q8, tiles, panels };
Way way_of(const Tensor& w, int64_t T, int64_t K) {
  const WeightFormat& format = weight_format(w.dtype());
  const bool rounding = K % 32 == 0 && w.dtype() != DType::F32 && !Tape::current() && activations() == Activations::q8;
  if (rounding && T >= tile_rows && has_weight_tiles()) return Way::tiles;
  if (rounding && format.dot_q8 && (T <= q8_rows || w.interleaved())) return Way::q8;
  return is_float(w.dtype()) && T <= dot_rows && Tape::precision() == Precision::f32 ? Way::dots : Way::panels;
}

void multiply(Way way, std::span<const Product> products, const float* x, int64_t T, int64_t K) {
  (way == Way::q8 ? q8_products : way == Way::tiles ? tile_products : dot_products)(products, x, T, K);
}

// Whether that way adds what a product has more, while it computes.
bool on_the_way(Way way, const Product& p, int64_t T) { return way == Way::tiles ? tiles_take(p) : T <= low_rank_rows; }

void add_all(const Tensor& y, const Tensor& x, std::span<const LowRank> more) {
  for (const LowRank& m : more) add_low_rank(y, x, m);
}

void check_weights(const Tensor& x, const Tensor& w, const Tensor& b) {
  require(x && w && x.rank() >= 1 && w.rank() == 2 && x.dim(-1) == w.dim(1), "linear: weights ", w ? w.shape() : Shape{},
          " do not fit the last axis of ", x ? x.shape() : Shape{});
  require(!b || b.shape() == Shape{w.dim(0)}, "linear: bias ", b ? b.shape() : Shape{}, " for weights ", w.shape());
}

void add_bias(float* y, const Tensor& b, int64_t T, int64_t N) {
  if (!b) return;
  for_rows(T, N, [=, pb = b.data()](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t n = 0; n < N; ++n) y[t * N + n] += pb[n];
  });
}

// "linear Q4_0 576 → 192, 3 rows"
std::string describe(const Tensor& w, int64_t N, int64_t T) {
  return std::string("linear ") + info(w.dtype()).name + " " + std::to_string(w.dim(1)) + " → " + std::to_string(N) + (T > 1 ? ", " + std::to_string(T) + " rows" : "");
}

}  // namespace

ArenaVector<Tensor> linears(const Tensor& x, std::span<const WeightsAndBias> layers) {
  Cancellation::point();
  const int64_t T = x.shape().leading().numel(), K = x.dim(-1);
  ArenaVector<Tensor> y;
  y.reserve(layers.size());
  std::optional<Way> way;                                   // of all of them
  for (const auto& [w, b, more] : layers) {
    require(more.empty() || !Tape::current(), "linears: low-rank factors are added in inference alone");
    check_weights(x, w, b);
    const Way one = way_of(w, T, K);
    way = !way || *way == one ? one : Way::panels;
  }
  if (way == Way::panels || Tape::current()) {
    for (const auto& [w, b, more] : layers) add_all(y.emplace_back(linear(x, w, b)), x, more);
    return y;
  }
  ArenaVector<Product> products;
  products.reserve(layers.size());
  int64_t all = 0, bytes = 0;
  for (const WeightsAndBias& layer : layers) all += layer.w.dim(0), bytes += layer.w.bytes();
  const Timed timed([&] { return describe(layers[0].w, all, T); }, bytes);
  for (const auto& [w, b, more] : layers) {
    for (const LowRank& m : more) check_low_rank(m, K, w.dim(0));
    y.emplace_back(x.shape().with_last(w.dim(0)));
    products.push_back({y.back().data(), w, more});
    if (!on_the_way(*way, products.back(), T)) products.back().more = {};
  }
  multiply(*way, products, x.data(), T, K);
  for (size_t i = 0; i < y.size(); ++i) {
    add_bias(y[i].data(), layers[i].b, T, y[i].dim(-1));
    if (products[i].more.empty()) add_all(y[i], x, layers[i].more);
  }
  return y;
}

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& b) {
  Cancellation::point();
  check_weights(x, w, b);
  const int64_t T = x.shape().leading().numel(), N = w.dim(0), K = w.dim(1);
  const Precision precision = Tape::precision();
  const Timed timed([&] { return describe(w, N, T); }, w.bytes());

  Tensor y(x.shape().with_last(N));
  float* const to = y.data();
  const Product product[] = {{to, w}};
  const Way way = way_of(w, T, K);
  if (way == Way::panels) panel_products(to, w, b ? b.data() : nullptr, x.data(), T, N, K, precision);      // and the bias
  else multiply(way, product, x.data(), T, K), add_bias(to, b, T, N);

  if (!recording({x, w, b})) return y;
  return on_backward(y, {x, w, b}, [=, kept = w.wants_grad() ? saved(x) : Kept(), x = x.gradient(), b = b.gradient(), y = y.gradient()] {
    const float* dy = y.grad();
    if (x.wants_grad()) panel_products_back(x.sum(), w, dy, T, N, K, precision);
    if (w.wants_grad()) multiply(w.grad(), K, {dy, 1, N}, {kept().data(), K, 1}, N, K, T, precision);
    if (b.wants_grad()) add_column_sums(b.grad(), dy, T, N);
  });
}

}  // namespace kvt
