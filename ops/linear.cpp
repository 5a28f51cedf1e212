// linear    y = x Wᵀ + b        dx = dy W        dW = dyᵀ x        db = Σ_rows dy
//
// x [T, K] (leading axes as one), W [N, K] of any type. Three ways to y:
//   few rows, float W        dot products with each row of W: all there is to gain is reading W once, at the speed of memory
//   few rows, quantized W    rows of x rounded to 8 bits, integer dot products (the default for inference: ops/quant.h)
//   else, and in BF16        panels of W unpacked to F32, then products of matrices
#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/quant.h"
#include "tensor/cancel.h"

namespace kvt {

namespace {

constexpr int64_t dot_rows = 4;       // up to here one pass over W; from here on, packing for a product of matrices is shared by many rows
constexpr int64_t q8_rows = 32;       // up to here integer dot products read W as it is; from here on unpacking it once is shared by many rows
constexpr int64_t weight_rows = 16;   // rows of W are dealt out in multiples of this, so that kernels may go in groups

const std::byte* row_of(const Tensor& w, int64_t row) { return w.raw() + row * byte_size(w.dtype(), w.dim(-1)); }

// f(first, count): some rows of W at a time, of which each costs T·K multiply-adds
template <class F>
void for_weight_rows(int64_t N, int64_t work, F&& f) {
  const int64_t grain = std::max<int64_t>(1, piece_products / std::max<int64_t>(1, work * weight_rows));
  parallel_for((N + weight_rows - 1) / weight_rows, grain, [&](int64_t begin, int64_t end) {
    f(begin * weight_rows, std::min(end * weight_rows, N) - begin * weight_rows);
  });
}

void dot_products(float* y, const Tensor& w, const float* x, int64_t T, int64_t N, int64_t K) {
  for_weight_rows(N, T * K, [&](int64_t first, int64_t count) {
    for (int64_t n = first; n < first + count; n += weight_rows)            // these rows stay in the cache for all of x
      for (int64_t t = 0, rows = std::min(weight_rows, first + count - n); t < T; ++t) {
        const std::byte* row = row_of(w, n);
        float* to = y + t * N + n;
        if (w.dtype() == DType::F32) kernel::dot_f32(to, reinterpret_cast<const float*>(row), K, x + t * K, rows, K);
        else if (w.dtype() == DType::F16) kernel::dot_f16(to, reinterpret_cast<const uint16_t*>(row), K, x + t * K, rows, K);
        else kernel::dot_bf16(to, reinterpret_cast<const uint16_t*>(row), K, x + t * K, rows, K);
      }
  });
}

void q8_products(float* y, const Tensor& w, const Kernel<kernel::DotQ8>& dot, const float* x, int64_t T, int64_t N, int64_t K) {
  thread_local std::vector<Q8Block> rounded;
  rounded.resize(size_t(T * K / 32));
  Q8Block* const q = rounded.data();
  for_rows(T, K, [&](int64_t begin, int64_t end) { kernel::quantize_q8(q + begin * K / 32, x + begin * K, (end - begin) * K); });
  for_weight_rows(N, T * K, [&](int64_t first, int64_t count) { dot(y + first, N, row_of(w, first), q, count, T, K); });
}

// y += x Wᵀ: in blocks of y, each with its panel of W unpacked
void panel_products(float* y, const Tensor& w, const float* x, int64_t T, int64_t N, int64_t K, Precision precision) {
  if (w.dtype() == DType::F32) return multiply(y, N, {x, K, 1}, {w.data(), 1, K}, T, N, K, precision);
  const Kernel<kernel::Matmul>& matmul = product(precision);
  const int64_t block = product_block(T, N), down = (T + block - 1) / block, across = (N + block - 1) / block;
  parallel_for(down * across, 1, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t job = begin; job < end; ++job) {
      const int64_t n = job / down * block, t = job % down * block, rows = std::min(block, N - n);
      float* panel = scratch.floats(block * K);
      if (t == 0 || job == begin) unpack(panel, w.dtype(), row_of(w, n), rows * K);        // else it is there already
      matmul(y + t * N + n, N, {x + t * K, K, 1}, {panel, 1, K}, std::min(block, T - t), rows, K);
    }
  });
}

// dx += dy W: in blocks of dx, each over panels of some rows and columns of W
void panel_products_back(float* dx, const Tensor& w, const float* dy, int64_t T, int64_t N, int64_t K, Precision precision) {
  if (w.dtype() == DType::F32) return multiply(dx, K, {dy, N, 1}, {w.data(), K, 1}, T, K, N, precision);
  const Kernel<kernel::Matmul>& matmul = product(precision);
  constexpr int64_t panel_rows = 256;
  const int64_t block = product_block(T, K), wide = std::max<int64_t>(block, info(w.dtype()).block);      // whole blocks of numbers
  const int64_t down = (T + block - 1) / block, across = (K + wide - 1) / wide;
  parallel_for(down * across, 1, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t job = begin; job < end; ++job) {
      const int64_t t = job / across * block, k = job % across * wide, cols = std::min(wide, K - k);
      float* panel = scratch.floats(panel_rows * wide);
      for (int64_t n = 0; n < N; n += panel_rows) {
        const int64_t rows = std::min(panel_rows, N - n);
        for (int64_t r = 0; r < rows; ++r) unpack(panel + r * cols, w.dtype(), row_of(w, n + r) + byte_size(w.dtype(), k), cols);
        matmul(dx + t * K + k, K, {dy + t * N + n, N, 1}, {panel, cols, 1}, std::min(block, T - t), cols, rows);
      }
    }
  });
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& b) {
  Cancellation::point();
  require(x && w && x.rank() >= 1 && w.rank() == 2 && x.dim(-1) == w.dim(1), "linear: weights ", w ? w.shape() : Shape{},
          " do not fit the last axis of ", x ? x.shape() : Shape{});
  const int64_t T = x.shape().leading().numel(), N = w.dim(0), K = w.dim(1);
  require(!b || b.shape() == Shape{N}, "linear: bias ", b ? b.shape() : Shape{}, " for weights ", w.shape());
  const WeightFormat& format = weight_format(w.dtype());
  const Precision precision = Tape::precision();
  const bool q8 = format.dot_q8 && T <= q8_rows && K % 32 == 0 && !Tape::current() && activations() == Activations::q8;

  Tensor y(x.shape().with_last(N));
  float* const to = y.data();
  if (q8) {
    q8_products(to, w, *format.dot_q8, x.data(), T, N, K);
  } else if (is_float(w.dtype()) && T <= dot_rows && precision == Precision::f32) {
    dot_products(to, w, x.data(), T, N, K);
  } else {
    for_numbers(y.size(), [=](int64_t begin, int64_t end) { std::fill(to + begin, to + end, 0.f); });
    panel_products(to, w, x.data(), T, N, K, precision);
  }
  if (b)
    for_rows(T, N, [=, pb = b.data()](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t n = 0; n < N; ++n) to[t * N + n] += pb[n];
    });

  if (!recording({x, w, b})) return y;
  return on_backward(y, {x, w, b}, [=, kept = w.wants_grad() ? saved(x) : Kept(), x = x.gradient(), b = b.gradient(), y = y.gradient()] {
    const float* dy = y.grad();
    if (x.wants_grad()) panel_products_back(x.grad(), w, dy, T, N, K, precision);
    if (w.wants_grad()) multiply(w.grad(), K, {dy, 1, N}, {kept().data(), K, 1}, N, K, T, precision);
    if (b.wants_grad()) add_column_sums(b.grad(), dy, T, N);
  });
}

}  // namespace kvt
