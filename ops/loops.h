// What operations share: loops over numbers, rows and products among threads, and scratch memory.
//
// Results never depend on the number of threads: work is split over outputs, and a sum over rows goes through partial sums
// of a fixed number of rows, added in order.
#pragma once
#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "ops/precision.h"
#include "tensor/parallel.h"

namespace kvt {

constexpr int64_t piece_numbers = 8192;         // fewer numbers are not worth a second thread: a few microseconds
constexpr int64_t piece_products = 1 << 16;     // the same in multiply-adds

inline int64_t pieces(int64_t n, int64_t of) { return (n + of - 1) / of; }            // that n is cut into
inline int64_t round_up(int64_t n, int64_t to) { return pieces(n, to) * to; }

// f(begin, end) over [0, n). Pieces begin at multiples of 1024, so a vector kernel meets its remainder at the very end alone.
template <class F>
void for_numbers(int64_t n, F&& f) {
  constexpr int64_t block = 1024;
  parallel_for((n + block - 1) / block, piece_numbers / block, [&](int64_t b, int64_t e) { f(b * block, std::min(e * block, n)); });
}

// f(begin, end) over rows of `cols` numbers each
template <class F>
void for_rows(int64_t rows, int64_t cols, F&& f) {
  parallel_for(rows, std::max<int64_t>(1, piece_numbers / std::max<int64_t>(cols, 1)), f);
}

// sums[cols] += Σ_rows, where add_rows(partial, begin, end) adds the rows [begin, end) to partial[cols].
template <class F>
void sum_over_rows(float* sums, int64_t rows, int64_t cols, F&& add_rows) {
  if (rows == 0 || cols == 0) return;
  const int64_t step = std::clamp<int64_t>(piece_numbers / cols, 64, 256), chunks = (rows + step - 1) / step;
  std::vector<float> partial(size_t(chunks * cols), 0.f);
  parallel_for(chunks, std::max<int64_t>(1, piece_numbers / (step * cols)), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) add_rows(&partial[size_t(c * cols)], c * step, std::min((c + 1) * step, rows));
  });
  for (int64_t c = 0; c < chunks; ++c)
    for (int64_t j = 0; j < cols; ++j) sums[j] += partial[size_t(c * cols + j)];
}

// sums[j] += Σ_r x[r, j]
inline void add_column_sums(float* sums, const float* x, int64_t rows, int64_t cols) {
  sum_over_rows(sums, rows, cols, [&](float* partial, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t j = 0; j < cols; ++j) partial[j] += x[r * cols + j];
  });
}

// log Σ e^(x_i) of n numbers (ops/softmax.cpp)
float log_sum_exp(const float* x, int64_t n);

// C[m, n] += A B on all threads (ops/matmul.cpp); unless `add`, C = A B, or with a bias [n] added to each row. Of a batch, product i uses c + i batch.c
// and so on.
struct Matrices { int64_t count = 1, c = 0, a = 0, b = 0; };
void multiply(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k, Matrices batch = {}, Precision precision = Precision::f32,
              bool add = true, const float* bias = nullptr);
inline void multiply(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k, Precision precision, bool add = true) {
  multiply(c, ldc, a, b, m, n, k, {}, precision, add);
}
inline void multiply(Gradient::Sum c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k, Precision precision) {
  multiply(c.p, ldc, a, b, m, n, k, {}, precision, c.add);
}
// Where sums start: zeros, or a row
inline void start(float* c, int64_t ldc, int64_t m, int64_t n, const float* row = nullptr) {
  for (int64_t i = 0; i < m; ++i) row ? (void)std::copy_n(row, n, c + i * ldc) : (void)std::fill_n(c + i * ldc, n, 0.f);
}
inline kernel::Mat transposed(kernel::Mat a) { return {a.p, a.col, a.row}; }

// Memory that a thread keeps for one purpose, as a thread_local: grows, never shrinks.
class Scratch {
 public:
  float* floats(int64_t n) {
    if (n > size_) {
      p_.reset(static_cast<float*>(::operator new(size_t(n) * sizeof(float), align)));
      size_ = n;
    }
    return p_.get();
  }

 private:
  static constexpr std::align_val_t align{64};
  struct Free { void operator()(float* p) const { ::operator delete(p, align); } };
  std::unique_ptr<float, Free> p_;
  int64_t size_ = 0;
};

}  // namespace kvt
