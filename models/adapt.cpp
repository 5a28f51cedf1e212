#include "models/adapt.h"

#include <cmath>

#include "ops/precision.h"
#include "ops/quant.h"

namespace kvt {

void freeze(std::span<LowRankAdapter* const> adapters) {
  std::vector<LowRankFactors*> factors;
  for (LowRankAdapter* adapter : adapters) {
    adapter->freeze();
    factors.push_back(&adapter->fast);
  }
  bring_together(factors);
}

std::shared_ptr<Lora> Lora::init(int64_t in, int64_t out, int64_t rank, float alpha, Rng& rng) {
  require(rank >= 1 && rank <= std::min(in, out), "lora: rank ", rank, " does not fit a layer of ", out, " × ", in);
  const float bound = 1 / std::sqrt(float(in));
  auto lora = std::make_shared<Lora>(rand_uniform({rank, in}, rng, -bound, bound), Tensor::zeros({out, rank}), alpha / float(rank));
  lora->a.want_grad();
  lora->b.want_grad();
  return lora;
}

// s where it is cheapest: on r numbers a token
Tensor Lora::operator()(const Tensor& x, const Tensor& y) const {
  if (!fast || Tape::current()) return add_linear(y, kvt::scale(linear(x, a), scale), b);
  add_low_rank(y, x, *low_rank(0));
  return y;
}

std::optional<LowRank> Lora::low_rank(int64_t) const {
  if (!fast) return std::nullopt;
  return LowRank{.a = fast.a, .f = fast.f, .scale = scale * fast.scale};
}

Tensor Core::operator()(const Tensor& x, const Tensor& y) const {
  const Tensor h = kvt::scale(linear(x, a), scale);
  return add_linear(y, c.rank() == 1 ? h * c : linear(h, c), b);
}

std::shared_ptr<Lora> Core::folded() const {
  const Tape::Pause pause;
  return std::make_shared<Lora>(a.clone(), kvt::scale(c.rank() == 1 ? b * c : matmul(b, c), scale), 1.f);
}

Tensor Rescale::factors(int64_t out) const {
  const int64_t rest = out - l.dim(0);
  const Tensor parts[] = {Tensor::filled({rest}, 1), l};
  return rest > 0 ? concat(parts, 0) : l;
}

Tensor Rescale::operator()(const Tensor&, const Tensor& y) const { return side == Side::output ? y * factors(y.dim(-1)) : y; }

// The step runs after those of all that uses y, when ∂L/∂y is complete.
Tensor GradientTap::operator()(const Tensor& x, const Tensor& y) const {
  if (Tape* tape = Tape::current()) {
    y.want_grad();
    tape->push([see = see, kept = saved(x), y = y.gradient()] {
      if (y.has_grad()) see(kept(), y.grad());
    });
  }
  return y;
}

Tensor merged(const Tensor& w, const Lora& lora) {
  const Tape::Pause pause;
  return unpack(w) + scale(matmul(lora.b, lora.a), lora.scale);
}

Affine merged(const std::string& layer, const Tensor& w, const Tensor& b, const std::vector<std::shared_ptr<const Adapter>>& adapters) {
  const Tape::Pause pause;
  Affine m{unpack(w), b ? unpack(b) : b};
  for (const auto& adapter : adapters)         // these are for W alone, so they come before all that is added to it
    if (const auto* r = dynamic_cast<const Rescale*>(adapter.get()); r && r->side == Rescale::Side::input) m.w = m.w * r->l;
  for (const auto& adapter : adapters) {
    if (const auto* lora = dynamic_cast<const Lora*>(adapter.get())) {
      m.w = merged(m.w, *lora);
    } else if (const auto* r = dynamic_cast<const Rescale*>(adapter.get())) {
      if (r->side == Rescale::Side::input) continue;
      const Tensor rows = r->factors(m.w.dim(0));
      m.w = permute(permute(m.w, {1, 0}) * rows, {1, 0});
      if (m.b) m.b = m.b * rows;
    } else {
      fail("merge: the adapter on '", layer, "' is neither LoRA nor IA3");
    }
  }
  return m;
}

}  // namespace kvt
