#include "models/layers.h"

#include <algorithm>
#include <utility>

#include "ops/linears.h"

namespace kvt {

Linear::Linear(int64_t in, int64_t out, bool has_bias) : weight(Shape{out, in}) {
  if (has_bias) bias = Parameter(Shape{out});
}

using Rows = AdapterPass::Rows;

Tensor Linear::with(const Tensor& w, const Tensor& x) const {
  ArenaVector<LowRank> more;
  if (adapters.empty() || !factors(x.shape().leading().numel(), more)) return adapted(x, linear(input(x), w, bias));
  const WeightsAndBias one[] = {{w, bias.tensor, more}};
  return linears(x, one)[0];
}

bool Linear::factors(int64_t rows, ArenaVector<LowRank>& all) const {
  if (Tape::current()) return false;
  const Rows of = AdapterPass::current().rows;
  for (const auto& adapter : adapters) {
    if (of == Rows::base && !adapter->of_base) continue;
    const bool half = of == Rows::twins && !adapter->of_base;
    std::optional<LowRank> m = adapter->low_rank(half ? rows / 2 : rows);
    if (!m) return false;
    if (half) m->from = rows / 2;
    all.push_back(*m);
  }
  return true;
}

Tensor Linear::input(const Tensor& x) const {
  const Rows rows = AdapterPass::current().rows;
  Tensor in = x;
  for (const auto& adapter : adapters) {
    if (rows == Rows::adapted || adapter->of_base) {
      in = adapter->input(in);
    } else if (rows == Rows::twins) {
      const Tensor part = adapted_rows(in), changed = adapter->input(part);
      if (!changed.same(part)) in = twins(base_rows(in), changed);
    }
  }
  return in;
}

Tensor Linear::adapted(const Tensor& x, const Tensor& y) const {
  const Rows rows = AdapterPass::current().rows;
  Tensor z = y;
  for (const auto& adapter : adapters) {
    if (rows == Rows::adapted || adapter->of_base) {
      z = (*adapter)(x, z);
    } else if (rows == Rows::base) {
      continue;
    } else if (const Tensor part = adapted_rows(z), changed = (*adapter)(adapted_rows(x), part); changed.same(part)) {
      continue;
    } else if (Tape::current()) {
      z = twins(base_rows(z), changed);
    } else {
      std::copy_n(changed.data(), changed.size(), z.data() + changed.size());      // z is this layer's own
    }
  }
  return z;
}

Tensor pooled(const Tensor& states, const std::vector<int32_t>& lengths, Pooling pooling) {
  const int64_t B = states.dim(0), T = states.dim(1);
  require(int64_t(lengths.size()) == B, "pooled: ", lengths.size(), " lengths for states ", states.shape());
  const Tensor share = Tensor::zeros({B, 1, T});           // of each state in its text's vector
  for (int64_t b = 0; b < B; ++b) {
    const int64_t n = lengths[size_t(b)];
    require(n >= 1 && n <= T, "pooled: a text of ", n, " tokens in rows of ", T);
    float* row = share.data() + b * T;
    if (pooling == Pooling::mean) std::fill_n(row, n, 1 / float(n));
    else row[pooling == Pooling::last ? n - 1 : 0] = 1;
  }
  return matmul(share, states).view({B, states.dim(2)});
}

static thread_local AdapterPass current_pass;

const AdapterPass& AdapterPass::current() { return current_pass; }
AdapterPass::Scope::Scope(AdapterPass pass) : outer_(std::exchange(current_pass, std::move(pass))) {}
AdapterPass::Scope::~Scope() { current_pass = std::move(outer_); }

Tensor twins(const Tensor& base, const Tensor& adapted) {
  const Tensor parts[] = {base, adapted};
  return concat(parts, 0);
}

}  // namespace kvt
