// cross_entropy    loss = 1/count Σ_r (log Σ_j e^(x_rj) − x_r,target)  over the rows whose target counts
//                  dx_r = (softmax(x_r) − onehot(target)) / count · dloss
// Backward makes the softmax again from the logits and one number a row, so that no second [rows, V] is kept.
#include <cmath>

#include "ops/loops.h"
#include "ops/ops.h"

namespace kvt {

Tensor cross_entropy(const Tensor& logits, std::span<const int32_t> targets, int32_t ignore) {
  require(logits.rank() >= 1, "cross_entropy: expected logits [.., V], got ", logits.shape());
  const int64_t rows = logits.shape().leading().numel(), V = logits.dim(-1);
  require(int64_t(targets.size()) == rows, "cross_entropy: ", targets.size(), " targets for logits ", logits.shape());
  int64_t count = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t target = targets[size_t(r)];
    require(target == ignore || (target >= 0 && target < V), "cross_entropy: target ", target, " of row ", r, " outside [0, ", V, ")");
    count += target != ignore;
  }

  Tensor lse({rows});
  for_rows(rows, V, [&, to = lse.data(), x = logits.data()](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      if (targets[size_t(r)] != ignore) to[r] = log_sum_exp(x + r * V, V);
  });
  double total = 0;
  for (int64_t r = 0; r < rows; ++r)
    if (targets[size_t(r)] != ignore) total += double(lse.data()[r]) - double(logits.data()[r * V + targets[size_t(r)]]);
  const Tensor loss = Tensor::filled({1}, count > 0 ? float(total / double(count)) : 0.f);

  return on_backward(loss, {logits}, [=, targets = Ids(targets.begin(), targets.end())] {
    const float *x = logits.data(), d = loss.grad()[0] / float(std::max<int64_t>(count, 1));
    float* dx = logits.grad();
    for_rows(rows, V, [&](int64_t begin, int64_t end) {
      thread_local Scratch scratch;
      float* p = scratch.floats(V);
      for (int64_t r = begin; r < end; ++r) {
        if (targets[size_t(r)] == ignore) continue;
        for (int64_t j = 0; j < V; ++j) p[j] = x[r * V + j] - lse.data()[r];
        kernel::exp(p, p, V);
        p[targets[size_t(r)]] -= 1;
        for (int64_t j = 0; j < V; ++j) dx[r * V + j] += d * p[j];
      }
    });
  });
}

}  // namespace kvt
