// Cross-entropy of a linear layer's scores, without the matrix of all scores in memory.
//
//   forward    loss = 1/n Σ_r (log Σ_v e^(z_rv) − Σ_v p_rv z_rv),   z = x Wᵀ + b,   over the n rows whose target counts,
//              p = (1 − ε) onehot(target) + ε/V
//   backward   dz = (softmax(z) − p) / n,   dx = dz W,   dW = dzᵀ x,   db = Σ_r dz_r
//
// A chunk of rows goes through all of that before the next one starts: scores for a vocabulary of 49152 take 25 MB at a time
// instead of 100 MB for 512 tokens, and backward has only to scale what forward left. Rows without a target cost nothing.
#include <algorithm>
#include <cmath>
#include <optional>

#include "ops/kernels.h"
#include "ops/ops.h"
#include "tensor/parallel.h"

namespace kvt {

static constexpr int64_t chunk_rows = 128;

// losses[r] of scores z [n, V], and dz = (softmax(z) − p) · scale if wanted, which may be z. z is scratch afterwards.
static void score_rows(const Tensor& z, const int32_t* targets, float smoothing, double* losses, float* dz, float scale) {
  const int64_t V = z.dim(1);
  parallel_for(z.dim(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = z.data() + r * V;
      const float most = *std::max_element(row, row + V);
      for (int64_t v = 0; v < V; ++v) row[v] -= most;
      double matched = double(1 - smoothing) * double(row[targets[r]]);
      if (smoothing > 0) {
        double all = 0;
        for (int64_t v = 0; v < V; ++v) all += double(row[v]);
        matched += double(smoothing) / double(V) * all;
      }
      kernel::exp(row, row, V);
      double sum = 0;
      for (int64_t v = 0; v < V; ++v) sum += double(row[v]);
      losses[r] = std::log(sum) - matched;
      if (!dz) continue;
      const auto factor = float(double(scale) / sum);
      const float spread = scale * smoothing / float(V);
      for (int64_t v = 0; v < V; ++v) dz[r * V + v] = row[v] * factor - spread;
      dz[r * V + targets[r]] -= scale * (1 - smoothing);
    }
  });
}

Tensor linear_cross_entropy(const Tensor& x, const Tensor& w, std::span<const int32_t> targets, const LinearLossOptions& options) {
  const Tensor& b = options.bias;
  require(x.rank() >= 1 && w.rank() == 2 && x.dim(-1) == w.dim(1), "linear_cross_entropy: x ", x.shape(), " does not fit W ", w.shape());
  const int64_t C = x.dim(-1), V = w.dim(0), rows = x.shape().leading().numel();
  require(int64_t(targets.size()) == rows, "linear_cross_entropy: ", targets.size(), " targets for ", rows, " rows");
  require(!b || b.shape() == Shape{V}, "linear_cross_entropy: bias ", b ? b.shape() : Shape{}, " for ", V, " scores");
  require(options.smoothing >= 0 && options.smoothing < 1, "linear_cross_entropy: label smoothing ", options.smoothing, ", expected 0 ≤ ε < 1");
  std::vector<int64_t> used;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t target = targets[size_t(r)];
    if (target == options.ignore) continue;
    require(target >= 0 && target < V, "linear_cross_entropy: target ", target, " of row ", r, " lies outside of 0 … ", V - 1);
    used.push_back(r);
  }
  Tensor loss = Tensor::zeros({1});
  if (used.empty()) return loss;

  const bool wanted = recording({x, w, b});
  const Tensor dx = wanted && x.wants_grad() ? Tensor::zeros(x.shape()) : Tensor();
  const Tensor weights(w.shape(), w.dtype(), w.storage());      // the same numbers, with a gradient apart
  if (wanted) weights.want_grad(w.wants_grad());
  const Tensor offsets = b ? Tensor(b.shape(), b.dtype(), b.storage()) : Tensor();
  if (wanted && b) offsets.want_grad(b.wants_grad());

  const auto n = int64_t(used.size());
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += chunk_rows) {
    const int64_t count = std::min(chunk_rows, n - begin);
    const Tensor chunk({count, C});
    Ids chunk_targets;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t r = used[size_t(begin + i)];
      std::copy_n(x.data() + r * C, C, chunk.data() + i * C);
      chunk_targets.push_back(targets[size_t(r)]);
    }
    std::optional<Tape> tape;                                    // of this chunk alone: linear's own backward gives dx and dW
    if (wanted) tape.emplace();
    chunk.want_grad(bool(dx));
    const Tensor z = linear(chunk, weights, offsets);
    std::vector<double> losses(static_cast<size_t>(count));
    score_rows(z, chunk_targets.data(), options.smoothing, losses.data(), wanted ? z.data() : nullptr, 1 / float(n));
    for (double l : losses) total += l;
    if (!wanted) continue;
    z.gradient().take(z.storage());
    tape->backward_from_grads();
    for (int64_t i = 0; dx && i < count; ++i) std::copy_n(chunk.grad() + i * C, C, dx.data() + used[size_t(begin + i)] * C);
  }
  loss.data()[0] = float(total / double(n));

  return on_backward(loss, {x, w, b}, [=, x = x.gradient(), w = w.gradient(), b = b.gradient()] {
    const float g = loss.grad()[0];
    const auto accumulate = [g](float* to, const float* from, int64_t size) {
      parallel_for(size, 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] += g * from[i];
      });
    };
    if (dx) accumulate(x.grad(), dx.data(), dx.size());
    if (w.wants_grad()) accumulate(w.grad(), weights.grad(), w.size());
    if (b.wants_grad()) accumulate(b.grad(), offsets.grad(), b.size());
  });
}

}  // namespace kvt
