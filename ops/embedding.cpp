// embedding    y_i = W[id_i, :]        dW[id, :] = Σ dy_i over all i with id_i = id
#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/profile.h"
#include "ops/quant.h"

namespace kvt {

Tensor embedding(std::span<const int32_t> ids, const Shape& ids_shape, const Tensor& w) {
  const Timed timed([] { return "embedding"; });
  require(w && w.rank() == 2, "embedding: expected a matrix [V, C], got ", w ? w.shape() : Shape{});
  require(int64_t(ids.size()) == ids_shape.numel(), "embedding: ", ids.size(), " ids for shape ", ids_shape);
  const int64_t V = w.dim(0), C = w.dim(1), row_bytes = byte_size(w.dtype(), C);
  for (size_t i = 0; i < ids.size(); ++i)
    require(ids[i] >= 0 && ids[i] < V, "embedding: id ", ids[i], " at position ", i, " outside a vocabulary of ", V);

  Shape shape = ids_shape;
  shape.push_back(C);
  Tensor y(shape);
  for_rows(int64_t(ids.size()), C, [&, to = y.data()](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) unpack(to + i * C, w.dtype(), w.raw() + ids[size_t(i)] * row_bytes, C);
  });
  if (!recording({w})) return y;

  return on_backward(y, {w}, [=, w = w.gradient(), y = y.gradient(), ids = Ids(ids.begin(), ids.end())] {
    float* dw = w.grad();
    const float* dy = y.grad();
    for_rows(C, int64_t(ids.size()), [&](int64_t begin, int64_t end) {      // an id may come twice: split the columns instead
      for (size_t i = 0; i < ids.size(); ++i)
        for (int64_t c = begin; c < end; ++c) dw[ids[i] * C + c] += dy[int64_t(i) * C + c];
    });
  });
}

}  // namespace kvt
