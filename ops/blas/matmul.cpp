// Large matrix products by OpenBLAS. The operations above split a product among our threads, so each call of the library
// stays on its own thread.
#include <cblas.h>

#include <limits>

#include "ops/backends.h"
#include "ops/kernels.h"
#include "ops/tuning.h"

namespace kvt {

static void matmul_blas(float* c, int64_t ldc, kernel::Mat a, kernel::Mat b, int64_t m, int64_t n, int64_t k) {
  constexpr int64_t limit = std::numeric_limits<int>::max();      // of the library's integers
  const bool strides = (a.row == 1 || a.col == 1) && (b.row == 1 || b.col == 1);
  const int64_t lda = a.col == 1 ? a.row : a.col, ldb = b.col == 1 ? b.row : b.col;
  const bool fits = m <= limit && n <= limit && k <= limit && lda <= limit && ldb <= limit && ldc <= limit;
  // A row stride may be anything for a single row, but the library checks it.
  const bool leading = lda >= (a.col == 1 ? k : m) && ldb >= (b.col == 1 ? n : k) && ldc >= n;
  if (!strides || !fits || !leading || double(m) * double(n) * double(k) < double(tuning::blas_products())) {      // the library's call has a price
    blocked_matmul(c, ldc, a, b, m, n, k);
    return;
  }
  cblas_sgemm(CblasRowMajor, a.col == 1 ? CblasNoTrans : CblasTrans, b.col == 1 ? CblasNoTrans : CblasTrans, int(m), int(n), int(k), 1.0f,
              a.p, int(lda), b.p, int(ldb), 1.0f, c, int(ldc));
}

void add_blas_kernels() {
  openblas_set_num_threads(1);
  kernel::matmul.add(Isa::blas, matmul_blas);
}

}  // namespace kvt
