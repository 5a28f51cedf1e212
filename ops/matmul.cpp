// matmul    C = A B        dA = dC Bᵀ        dB = Aᵀ dC         (kernels: ops/matmul_kernels.cpp)
#include <limits>

#include "ops/ops.h"
#include "ops/panel_product.h"

namespace kvt {

using kernel::Mat;

struct Blocks { int64_t rows, cols; };

// Blocks of C, one a job: `wanted` of them where there is that much to do, and of all such cuts the one that packs least.
static Blocks cut(int64_t m, int64_t n, int64_t k, int64_t wanted) {
  constexpr int64_t enough = 1 << 20, edge = 32, most_rows = 512, most_cols = 1024;      // multiply-adds of a job; rows and columns, for the caches
  const double work = double(m) * double(n) * double(k);
  const int64_t jobs = std::clamp(int64_t(work / double(enough)), int64_t(1), std::max<int64_t>(1, wanted));
  Blocks best{m, n};
  double least = std::numeric_limits<double>::infinity();
  for (int64_t down = pieces(m, most_rows); down <= std::max(jobs, pieces(m, most_rows)); ++down) {
    const int64_t across = std::max(pieces(jobs, down), pieces(n, most_cols));
    const int64_t rows = round_up(pieces(m, down), edge), cols = round_up(pieces(n, across), edge);
    const double blocks = double(pieces(m, rows) * pieces(n, cols)), idle = std::max(1.0, double(jobs) / blocks);      // rounding may leave too few
    const double packed = idle * blocks * double(std::min(rows, m) + std::min(cols, n));
    if (packed < least) least = packed, best = {rows, cols};
  }
  return best;
}

void multiply(float* c, int64_t ldc, Mat a, Mat b, int64_t m, int64_t n, int64_t k, Matrices batch, Precision precision, bool add, const float* bias) {
  if (m == 0 || n == 0 || (k == 0 && add)) return;
  const Kernel<kernel::Matmul>& matmul = product(precision);
  load_backends();
  if (batch.count == 1 && matmul.isa(matmul.chosen()) == Isa::blocked) {
    const TileVariant& tile = tile_of(precision);
    if (narrow(tile.traits, m, n)) return panel_product(c, 1, ldc, tile, rows_of(transposed(b)), columns_of(transposed(a)), n, m, k, add, bias);
    return panel_product(c, ldc, 1, tile, rows_of(a), columns_of(b), m, n, k, add, bias);
  }
  // A few jobs for each thread. In a product of ours an element has the same bits however C is cut; in a library's it may not.
  const bool library = matmul.isa(matmul.chosen()) == Isa::blas;
  const auto [rows, cols] = cut(m, n, k, (library ? 16 : 2 * ThreadPool::current().threads()) / batch.count);
  const int64_t block_rows = rows, block_cols = cols, down = (m + rows - 1) / rows, across = (n + cols - 1) / cols;
  const int64_t work = std::max<int64_t>(1, std::min(rows, m) * std::min(cols, n) * k);
  parallel_for(batch.count * down * across, std::max<int64_t>(1, piece_products / work), [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const int64_t i = job / (down * across), row = job / across % down * block_rows, col = job % across * block_cols;
      const int64_t in_rows = std::min(block_rows, m - row), in_cols = std::min(block_cols, n - col);
      float* const to = c + i * batch.c + row * ldc + col;
      if (!add) start(to, ldc, in_rows, in_cols, bias ? bias + col : nullptr);
      matmul(to, ldc, {a.p + i * batch.a + row * a.row, a.row, a.col}, {b.p + i * batch.b + col * b.col, b.row, b.col}, in_rows, in_cols, k);
    }
  });
}

Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  require(a.rank() >= 2 && b.rank() >= 2, "matmul: expected matrices, got ", a.shape(), " and ", b.shape());
  const int64_t m = a.dim(transpose_a ? -1 : -2), k = a.dim(transpose_a ? -2 : -1);
  const int64_t n = b.dim(transpose_b ? -2 : -1), k_of_b = b.dim(transpose_b ? -1 : -2);
  const Shape lead = a.shape().leading().leading();
  const bool shared = b.rank() == 2;                          // one B for the whole batch
  require(k == k_of_b && (shared || b.shape().leading().leading() == lead), "matmul: ", a.shape(), transpose_a ? "ᵀ" : "",
          " does not multiply ", b.shape(), transpose_b ? "ᵀ" : "");

  // A batch of products with one B is one tall product, unless A's rows lie transposed.
  const bool tall = shared && !transpose_a;
  const int64_t count = tall ? 1 : lead.numel(), rows = tall ? lead.numel() * m : m, b_step = shared ? 0 : k * n;
  const auto A = [=](const float* p) { return transpose_a ? Mat{p, 1, m} : Mat{p, k, 1}; };
  const auto B = [=](const float* p) { return transpose_b ? Mat{p, 1, k} : Mat{p, n, 1}; };

  Shape shape = lead;
  shape.push_back(m);
  shape.push_back(n);
  const Precision precision = Tape::precision();
  Tensor c(shape);
  multiply(c.data(), n, A(a.data()), B(b.data()), rows, n, k, {count, m * n, m * k, b_step}, precision, false);

  if (!recording({a, b})) return c;
  return on_backward(c, {a, b}, [=, kept_a = b.wants_grad() ? saved(a) : Kept(), kept_b = a.wants_grad() ? saved(b) : Kept(), a = a.gradient(),
                                 b = b.gradient(), c = c.gradient()] {
    const Mat dC = {c.grad(), n, 1};
    if (a.wants_grad()) {
      const Tensor numbers = kept_b();
      const Mat b_again = B(numbers.data());
      if (transpose_a) multiply(a.grad(), m, b_again, transposed(dC), k, m, n, {count, m * k, b_step, m * n}, precision);
      else multiply(a.grad(), k, dC, transposed(b_again), rows, k, n, {count, m * k, m * n, b_step}, precision);
    }
    if (!b.wants_grad()) return;
    const Tensor numbers = kept_a();
    const int64_t sums = shared ? count : 1;                  // products that add to the same dB follow one another
    for (int64_t i = 0; i < sums; ++i) {
      const Mat Ai = A(numbers.data() + i * m * k), dCi = {c.grad() + i * m * n, n, 1};
      if (transpose_b) multiply(b.grad(), k, transposed(dCi), Ai, n, k, rows, {count / sums, b_step, m * n, m * k}, precision);
      else multiply(b.grad(), n, transposed(Ai), dCi, k, n, rows, {count / sums, b_step, m * k, m * n}, precision);
    }
  });
}

// add_linear    z = y + h Wᵀ in y's place        dh = dz W        dW = dzᵀ h        (dy is dz: they are one)
Tensor add_linear(const Tensor& y, const Tensor& h, const Tensor& w) {
  const int64_t r = h.dim(-1), N = y.dim(-1), T = y.shape().leading().numel();
  require(w.shape() == Shape({N, r}) && h.shape().leading() == y.shape().leading(), "add_linear: ", h.shape(), " and ", w.shape(), " do not fit ", y.shape());
  const Precision precision = Tape::precision();
  multiply(y.data(), N, {h.data(), r, 1}, {w.data(), 1, r}, T, N, r, precision);
  const Tensor z = y.view(y.shape());
  if (!recording({h, w})) return z;
  return on_backward(z, {h, w}, [=, kept = w.wants_grad() ? saved(h) : Kept(), h = h.gradient(), z = z.gradient()] {
    if (h.wants_grad()) multiply(h.sum(), r, {z.grad(), N, 1}, {w.data(), r, 1}, T, r, N, precision);
    if (w.wants_grad()) multiply(w.grad(), r, {z.grad(), 1, N}, {kept().data(), r, 1}, N, r, T, precision);
  });
}

}  // namespace kvt
