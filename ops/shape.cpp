// Operations that move numbers and compute none. Their gradients move back the same way, and add.
#include <array>

#include "ops/loops.h"
#include "ops/ops.h"

namespace kvt {

Tensor reshape(const Tensor& x, const Shape& shape) {
  require(shape.numel() == x.size(), "reshape: ", x.shape(), " has not the elements of ", shape);
  return x.view(shape);
}

Tensor permute(const Tensor& x, std::initializer_list<int> axes) {
  const int rank = x.rank();
  std::array<int64_t, Shape::max_rank> step{};                // how far x moves for one step along axis i of y
  std::array<bool, Shape::max_rank> seen{};
  Shape shape;
  require(int(axes.size()) == rank && rank >= 1, "permute: ", axes.size(), " axes for ", x.shape());
  for (const int a : axes) {
    require(a >= 0 && a < rank && !seen[size_t(a)], "permute: axis ", a, " is given twice or is none of ", x.shape());
    seen[size_t(a)] = true;
    int64_t below = 1;
    for (int i = a + 1; i < rank; ++i) below *= x.dim(i);
    step[size_t(shape.rank())] = below;
    shape.push_back(x.dim(a));
  }

  // move(row of y, where the row begins in x): one row of y at a time
  const int64_t cols = shape[-1], rows = shape.leading().numel(), stride = step[size_t(rank - 1)];
  const auto each_row = [=](auto move) {
    for_rows(rows, cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        int64_t from = 0, rest = r;
        for (int i = rank - 2; i >= 0; --i) {
          from += rest % shape[i] * step[size_t(i)];
          rest /= shape[i];
        }
        move(r * cols, from);
      }
    });
  };
  Tensor y(shape);
  each_row([=, to = y.data(), px = x.data()](int64_t at, int64_t from) {
    for (int64_t i = 0; i < cols; ++i) to[at + i] = px[from + i * stride];
  });
  return on_backward(y, {x}, [=, x = x.gradient(), y = y.gradient()] {
    each_row([=, dx = x.grad(), dy = y.grad()](int64_t at, int64_t from) {
      for (int64_t i = 0; i < cols; ++i) dx[from + i * stride] += dy[at + i];
    });
  });
}

namespace {

// [begin, begin + n) of an axis of `whole`: as [outer] runs of n·inner numbers
struct Part {
  int64_t outer, run, step, offset;
  Part(const Shape& whole, int axis, int64_t begin, int64_t n) {
    int64_t inner = 1;
    for (int i = axis + 1; i < whole.rank(); ++i) inner *= whole[i];
    outer = whole[axis] > 0 ? whole.numel() / (whole[axis] * std::max<int64_t>(inner, 1)) : 0;
    run = n * inner, step = whole[axis] * inner, offset = begin * inner;
  }
  // f(index in the whole, index in the part, count)
  template <class F>
  void each_run(F f) const {
    for_rows(outer, run, [&](int64_t b, int64_t e) { for (int64_t o = b; o < e; ++o) f(offset + o * step, o * run, run); });
  }
};

void add_to(float* y, const float* x, int64_t n) { for (int64_t i = 0; i < n; ++i) y[i] += x[i]; }

}  // namespace

Tensor concat(std::span<const Tensor> parts, int axis) {
  require(!parts.empty(), "concat: no parts");
  const int rank = parts[0].rank(), at = axis < 0 ? axis + rank : axis;
  require(at >= 0 && at < rank, "concat: no axis ", axis, " in ", parts[0].shape());
  Shape shape = parts[0].shape();
  shape[at] = 0;
  for (const Tensor& p : parts) {
    require(p.rank() == rank, "concat: ", p.shape(), " beside ", parts[0].shape());
    for (int i = 0; i < rank; ++i) require(i == at || p.dim(i) == shape[i], "concat: ", p.shape(), " beside ", parts[0].shape(), " along axis ", axis);
    shape[at] += p.dim(at);
  }

  Tensor y(shape);
  int64_t begin = 0;
  for (const Tensor& p : parts) {
    Part(shape, at, begin, p.dim(at)).each_run([to = y.data(), from = p.data()](int64_t i, int64_t j, int64_t n) { std::copy_n(from + j, n, to + i); });
    begin += p.dim(at);
  }
  if (!recording(parts)) return y;
  struct Source { Gradient grad; int64_t first, count; };
  std::vector<Source> sources;
  begin = 0;
  for (const Tensor& p : parts) {
    sources.push_back({p.gradient(), begin, p.dim(at)});
    begin += p.dim(at);
  }
  return on_backward(y, parts, [=, y = y.gradient()] {
    for (const Source& s : sources)
      if (s.grad.wants_grad())
        Part(shape, at, s.first, s.count).each_run([dp = s.grad.grad(), dy = y.grad()](int64_t i, int64_t j, int64_t n) { add_to(dp + j, dy + i, n); });
  });
}

Tensor slice(const Tensor& x, int axis, int64_t begin, int64_t end) {
  const int at = axis < 0 ? axis + x.rank() : axis;
  require(at >= 0 && at < x.rank(), "slice: no axis ", axis, " in ", x.shape());
  require(begin >= 0 && begin <= end && end <= x.dim(at), "slice: [", begin, ", ", end, ") of axis ", axis, " of ", x.shape());
  Shape shape = x.shape();
  shape[at] = end - begin;
  const Part part(x.shape(), at, begin, end - begin);
  if (x.dtype() == DType::F32 && part.outer == 1 && !recording(std::initializer_list<Tensor>{x}))        // in one piece: shared
    return Tensor(shape, DType::F32, x.storage().part(size_t(part.offset) * sizeof(float), size_t(part.run) * sizeof(float)));

  Tensor y(shape);
  part.each_run([to = y.data(), from = x.data()](int64_t i, int64_t j, int64_t n) { std::copy_n(from + i, n, to + j); });
  return on_backward(y, {x}, [=, x = x.gradient(), y = y.gradient()] {
    part.each_run([dx = x.grad(), dy = y.grad()](int64_t i, int64_t j, int64_t n) { add_to(dx + i, dy + j, n); });
  });
}

}  // namespace kvt
