// Operations number by number
//
//   add, sub, mul    y_i = a_i ∘ b_j,  b repeated along a's leading axes;    db_j sums over all i that met j
//   scale            y = s x
//   relu             y = max(x, 0)
//   dropout          y = x m,  m = 0 with probability p, else 1/(1 − p)      (Srivastava et al. 2014, scaled while training)
#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/profile.h"

namespace kvt {

namespace {

struct Repeat { int64_t rows, cols; };      // a counts as [rows, cols], b as [cols]

Repeat repeat(const char* op, const Tensor& a, const Tensor& b) {
  const int extra = a.rank() - b.rank();
  const bool trails = extra >= 0 && std::equal(b.shape().begin(), b.shape().end(), a.shape().begin() + extra);
  require(trails || b.size() == 1, op, ": ", b.shape(), " is neither ", a.shape(), " nor its trailing axes nor one element");
  return {b.size() > 0 ? a.size() / b.size() : 0, b.size()};
}

// f(i, j): element i of a meets element j of b
template <class F>
void each(Repeat at, F f) {
  if (at.rows == 1) return for_numbers(at.cols, [&](int64_t begin, int64_t end) { for (int64_t i = begin; i < end; ++i) f(i, i); });
  if (at.cols == 1) return for_numbers(at.rows, [&](int64_t begin, int64_t end) { for (int64_t i = begin; i < end; ++i) f(i, 0); });
  for_rows(at.rows, at.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t j = 0; j < at.cols; ++j) f(r * at.cols + j, j);
  });
}

// db_j += Σ_i term(i) over all i that meet j
template <class Term>
void add_to_repeated(float* db, Repeat at, Term term) {
  if (at.rows == 1) return for_numbers(at.cols, [&](int64_t begin, int64_t end) { for (int64_t i = begin; i < end; ++i) db[i] += term(i); });
  sum_over_rows(db, at.rows, at.cols, [&](float* partial, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t j = 0; j < at.cols; ++j) partial[j] += term(r * at.cols + j);
  });
}

// a + s b
Tensor add_scaled(const char* op, const Tensor& a, const Tensor& b, float s) {
  const Repeat at = repeat(op, a, b);
  Tensor y(a.shape());
  each(at, [to = y.data(), pa = a.data(), pb = b.data(), s](int64_t i, int64_t j) { to[i] = pa[i] + s * pb[j]; });

  return on_backward(y, {a, b}, [=, a = a.gradient(), b = b.gradient(), y = y.gradient()] {
    const float* dy = y.grad();
    if (b.wants_grad()) add_to_repeated(b.grad(), at, [dy, s](int64_t i) { return s * dy[i]; });
    if (!a.wants_grad()) return;
    if (!a.has_grad()) a.take(y.storage());      // nobody asks for dy any more
    else each({1, y.size()}, [da = a.grad(), dy](int64_t i, int64_t) { da[i] += dy[i]; });
  });
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
  const Timed timed([] { return "add"; });
  return add_scaled("add", a, b, 1);
}
Tensor sub(const Tensor& a, const Tensor& b) { return add_scaled("sub", a, b, -1); }

Tensor mul(const Tensor& a, const Tensor& b) {
  const Repeat at = repeat("mul", a, b);
  Tensor y(a.shape());
  each(at, [to = y.data(), pa = a.data(), pb = b.data()](int64_t i, int64_t j) { to[i] = pa[i] * pb[j]; });

  if (!recording({a, b})) return y;
  const auto kept = [&](const Tensor& x, const Tensor& for_grad_of) {
    return !for_grad_of.wants_grad() ? Kept() : x.size() < y.size() ? Kept([x] { return x; }) : saved(x);      // what is repeated is small
  };
  return on_backward(y, {a, b}, [=, kept_a = kept(a, b), kept_b = kept(b, a), a = a.gradient(), b = b.gradient(), y = y.gradient()] {
    const float* dy = y.grad();
    if (a.wants_grad()) {
      const Tensor other = kept_b();
      each(at, [da = a.grad(), dy, pb = other.data()](int64_t i, int64_t j) { da[i] += dy[i] * pb[j]; });
    }
    if (b.wants_grad()) {
      const Tensor other = kept_a();
      add_to_repeated(b.grad(), at, [dy, pa = other.data()](int64_t i) { return dy[i] * pa[i]; });
    }
  });
}

Tensor bias(const Tensor& x, const Tensor& b) {
  require(b.rank() == 1 && x.rank() >= 1 && b.dim(0) == x.dim(-1), "bias: ", b.shape(), " does not fit the last axis of ", x.shape());
  return add_scaled("bias", x, b, 1);
}

Tensor scale(const Tensor& x, float s) {
  Tensor y(x.shape());
  each({1, x.size()}, [to = y.data(), from = x.data(), s](int64_t i, int64_t) { to[i] = s * from[i]; });
  return on_backward(y, {x}, [=, x = x.gradient(), y = y.gradient()] {
    each({1, x.size()}, [dx = x.grad(), dy = y.grad(), s](int64_t i, int64_t) { dx[i] += s * dy[i]; });
  });
}

Tensor relu(const Tensor& x) {
  Tensor y(x.shape());
  each({1, x.size()}, [to = y.data(), from = x.data()](int64_t i, int64_t) { to[i] = from[i] > 0 ? from[i] : 0; });
  if (!recording({x})) return y;
  return on_backward(y, {x}, [=, kept = saved(y), x = x.gradient(), y = y.gradient()] {      // y serves as well as x, and what follows keeps it too
    const Tensor result = kept();
    each({1, x.size()}, [dx = x.grad(), dy = y.grad(), from = result.data()](int64_t i, int64_t) { dx[i] += from[i] > 0 ? dy[i] : 0; });
  });
}

// The mask is not kept: backward draws the same numbers again from a copy of the generator.
Tensor dropout(const Tensor& x, float p, Rng& rng) {
  require(p >= 0 && p < 1, "dropout: probability ", p, " outside [0, 1)");
  if (p == 0) return x;
  const float kept = 1 / (1 - p);
  const Rng before = rng;
  Tensor y(x.shape());
  for (int64_t i = 0; i < x.size(); ++i) y.data()[i] = rng.uniform() < p ? 0 : kept * x.data()[i];

  return on_backward(y, {x}, [=, x = x.gradient(), y = y.gradient()] {
    Rng again = before;
    float* dx = x.grad();
    const float* dy = y.grad();
    for (int64_t i = 0; i < x.size(); ++i) dx[i] += again.uniform() < p ? 0 : kept * dy[i];
  });
}

}  // namespace kvt
