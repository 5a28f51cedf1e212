#include "ops/svd.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/ops.h"
#include "ops/quant.h"
#include "tensor/order.h"

namespace kvt {

namespace {

// An m × n matrix of doubles, column after column: what reflections and rotations walk along.
struct Columns {
  int64_t m, n;
  std::vector<double> p;

  Columns(int64_t rows, int64_t cols) : m(rows), n(cols), p(size_t(rows * cols), 0.0) {}
  double* operator[](int64_t j) { return p.data() + j * m; }
  const double* operator[](int64_t j) const { return p.data() + j * m; }
};

Columns columns_of(const Tensor& a, bool transposed = false) {
  const int64_t rows = a.dim(0), cols = a.dim(1);
  Columns c(transposed ? cols : rows, transposed ? rows : cols);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) (transposed ? c[i][j] : c[j][i]) = double(a.data()[i * cols + j]);
  return c;
}

Tensor tensor_of(const Columns& c) {
  const Tensor t({c.m, c.n});
  for (int64_t j = 0; j < c.n; ++j)
    for (int64_t i = 0; i < c.m; ++i) t.data()[i * c.n + j] = float(c[j][i]);
  return t;
}

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void axpy(double* y, double a, const double* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

// Reflection j is I − β v vᵀ with v = column j of `a` from its diagonal down; R's diagonal moves into `diagonal`, the rest of R
// stays above it.
struct Reflections {
  Columns a;
  std::vector<double> beta, diagonal;

  explicit Reflections(Columns matrix) : a(std::move(matrix)), beta(size_t(a.n)), diagonal(size_t(a.n)) {
    for (int64_t j = 0; j < a.n; ++j) {
      double* v = a[j] + j;
      const int64_t length = a.m - j;
      const double norm = std::sqrt(dot(v, v, length));
      diagonal[size_t(j)] = v[0] > 0 ? -norm : norm;
      if (norm == 0) continue;
      v[0] -= diagonal[size_t(j)];
      beta[size_t(j)] = 2 / dot(v, v, length);
      for (int64_t l = j + 1; l < a.n; ++l) reflect(j, a[l]);
    }
  }

  void reflect(int64_t j, double* x) const {
    const double* v = a[j] + j;
    axpy(x + j, -beta[size_t(j)] * dot(v, x + j, a.m - j), v, a.m - j);
  }

  Columns r() const {
    Columns r(a.n, a.n);
    for (int64_t j = 0; j < a.n; ++j) {
      std::copy_n(a[j], j, r[j]);
      r[j][j] = diagonal[size_t(j)];
    }
    return r;
  }

  // Q times the columns of x [n, c], as [m, c]
  Columns q_times(const Columns& x) const {
    Columns y(a.m, x.n);
    for (int64_t c = 0; c < x.n; ++c) {
      std::copy_n(x[c], x.m, y[c]);
      for (int64_t j = a.n - 1; j >= 0; --j) reflect(j, y[c]);
    }
    return y;
  }
};

Columns identity(int64_t n) {
  Columns e(n, n);
  for (int64_t i = 0; i < n; ++i) e[i][i] = 1;
  return e;
}

// Turns pairs of columns of `a` against each other until all are orthogonal: a ← a V = U diag(s). Returns V.
Columns rotate_orthogonal(Columns& a) {
  constexpr double negligible = 1e-14;
  Columns v = identity(a.n);
  bool turned = true;
  for (int sweep = 0; turned && sweep < 60; ++sweep) {
    turned = false;
    for (int64_t i = 0; i + 1 < a.n; ++i)
      for (int64_t j = i + 1; j < a.n; ++j) {
        const double alpha = dot(a[i], a[i], a.m), beta = dot(a[j], a[j], a.m), gamma = dot(a[i], a[j], a.m);
        if (std::abs(gamma) <= negligible * std::sqrt(alpha) * std::sqrt(beta)) continue;
        turned = true;
        const double zeta = (beta - alpha) / (2 * gamma);
        const double t = (zeta < 0 ? -1 : 1) / (std::abs(zeta) + std::hypot(1.0, zeta)), c = 1 / std::hypot(1.0, t), s = c * t;
        const auto turn = [c, s](double* x, double* y, int64_t n) {
          for (int64_t k = 0; k < n; ++k) {
            const double old = x[k];
            x[k] = c * old - s * y[k];
            y[k] = s * old + c * y[k];
          }
        };
        turn(a[i], a[j], a.m);
        turn(v[i], v[j], v.m);
      }
  }
  return v;
}

// of a tall matrix, m ≥ n
Svd tall_svd(const Columns& tall) {
  const Reflections reflections(tall);
  Columns a = reflections.r();
  const Columns v = rotate_orthogonal(a);
  const int64_t n = a.n;
  std::vector<double> s(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j) s[size_t(j)] = std::sqrt(dot(a[j], a[j], n));
  const std::vector<int64_t> order = stable_order(n, [&](int64_t i, int64_t j) { return s[size_t(i)] > s[size_t(j)]; });
  Columns u(n, n), sorted(n, n);
  const Tensor values({n});
  for (int64_t j = 0; j < n; ++j) {
    const int64_t from = order[size_t(j)];
    values.data()[j] = float(s[size_t(from)]);
    std::copy_n(v[from], n, sorted[j]);
    if (s[size_t(from)] > 0) axpy(u[j], 1 / s[size_t(from)], a[from], n);
  }
  return {tensor_of(reflections.q_times(u)), values, tensor_of(sorted)};
}

void require_matrix(const char* op, const Tensor& a, bool tall) {
  require(a && a.rank() == 2 && a.size() > 0, op, ": expected a matrix, got ", a ? a.shape() : Shape{});
  require(!tall || a.dim(0) >= a.dim(1), op, ": expected at least as many rows as columns, got ", a.shape());
}

}  // namespace

Qr qr(const Tensor& a) {
  require_matrix("qr", a, true);
  const Reflections reflections(columns_of(a));
  return {tensor_of(reflections.q_times(identity(a.dim(1)))), tensor_of(reflections.r())};
}

Svd svd(const Tensor& a) {
  require_matrix("svd", a, false);
  if (a.dim(0) >= a.dim(1)) return tall_svd(columns_of(a));
  const Svd of_transposed = tall_svd(columns_of(a, true));
  return {of_transposed.v, of_transposed.s, of_transposed.u};
}

Svd Svd::leading(int64_t k) const {
  if (k >= rank()) return *this;
  const Tape::Pause pause;
  return {slice(u, 1, 0, k), slice(s, 0, 0, k), slice(v, 1, 0, k)};
}

Svd leading_svd(const Tensor& w, int64_t k, Rng& rng, int iterations) {
  require_matrix("leading_svd", w, false);
  require(k >= 1 && k <= std::min(w.dim(0), w.dim(1)), "leading_svd: ", k, " triplets of a matrix ", w.shape());
  const Tape::Pause pause;
  const Tensor a = unpack(w);
  const int64_t p = k + 8;
  if (p >= std::min(a.dim(0), a.dim(1))) return svd(a).leading(k);
  Tensor q = qr(matmul(a, randn({a.dim(1), p}, rng))).q;
  for (int i = 0; i < iterations; ++i) q = qr(matmul(a, qr(matmul(a, q, true)).q)).q;
  const Svd small = svd(matmul(q, a, true));
  return Svd{matmul(q, small.u), small.s, small.v}.leading(k);
}

Tensor least_squares(const Tensor& a, const Tensor& b) {
  require_matrix("least_squares", a, true);
  require(b && b.rank() == 2 && b.dim(0) == a.dim(0), "least_squares: A ", a.shape(), ", B ", b ? b.shape() : Shape{});
  const Reflections reflections(columns_of(a));
  const Columns r = reflections.r();
  Columns y = columns_of(b);
  Columns x(r.n, y.n);
  for (int64_t c = 0; c < y.n; ++c) {
    for (int64_t j = 0; j < r.n; ++j) reflections.reflect(j, y[c]);
    for (int64_t i = r.n - 1; i >= 0; --i) {
      double rest = y[c][i];
      for (int64_t j = i + 1; j < r.n; ++j) rest -= r[j][i] * x[c][j];
      require(r[i][i] != 0, "least_squares: A ", a.shape(), " does not have full column rank");
      x[c][i] = rest / r[i][i];
    }
  }
  return tensor_of(x);
}

}  // namespace kvt
