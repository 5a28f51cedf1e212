#include "models/fusion.h"

#include <cmath>

namespace kvt {

float Fusion::weight() const {
  require(std::isfinite(value) && value >= 0, "fusion: ", form == Form::residual ? "lambda" : "gamma", " is ", value, ", expected 0 or more");
  return form == Form::residual ? value / (1 + value) : 1 + value;
}

TwinScores twin_scores(const std::function<Tensor()>& scores) {
  TwinScores z;
  {
    AdapterPass pass = AdapterPass::current();
    pass.rows = AdapterPass::Rows::base;
    const AdapterPass::Scope scope(pass);
    const Tape::Pause frozen;
    z.base = scores();
  }
  z.adapted = scores();
  return z;
}

Tensor fused_scores(const Fusion& fusion, const std::function<Tensor()>& scores) {
  const TwinScores z = twin_scores(scores);
  return z.base + scale(z.adapted - z.base, fusion.weight());
}

Fused::Fused(std::shared_ptr<CausalLm> model, const Fusion& fusion) : model_(std::move(model)), fusion_(fusion), first_(-1) {
  fusion.weight();
  model_->each_linear([&](const std::string& name, Linear& linear) {
    for (const auto& adapter : linear.adapters) {
      if (adapter->of_base) continue;
      const int64_t inside = block_and_name(name).first, block = inside < 0 ? model_->layers() : inside;      // what is in no block is behind the last
      first_ = first_ < 0 ? block : std::min(first_, block);
      output_adapted_ |= inside < 0;
    }
  });
  require(first_ >= 0, "fusion: the model has no adapter to be fused with its base");
}

Tensor Fused::twin_states(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const {
  require(options.twins_from < 0, "fusion: of a model that is fused already");
  Forward both = options;
  both.twins_from = first_;
  return model_->hidden(ids, B, T, both);
}

Tensor Fused::twin_logits(const Tensor& states) const {
  AdapterPass pass = AdapterPass::current();
  pass.rows = AdapterPass::Rows::twins;
  const AdapterPass::Scope scope(pass);
  return model_->logits(states);
}

Tensor Fused::mix(const Tensor& twins) const {
  const Tensor base = base_rows(twins);
  return base + scale(adapted_rows(twins) - base, fusion_.weight());
}

Tensor Fused::hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const {
  if (Tape::current()) {                                   // training learns nothing from the base's side: it is run apart, unrecorded
    const auto run = [&](AdapterPass::Rows rows) {
      AdapterPass pass = AdapterPass::current();
      pass.rows = rows;
      const AdapterPass::Scope scope(pass);
      return model_->hidden(ids, B, T, options);
    };
    Tensor base;
    {
      const Tape::Pause frozen;
      base = run(AdapterPass::Rows::base);
    }
    return join(base, run(AdapterPass::Rows::adapted));
  }
  const Tensor states = twin_states(ids, B, T, options);
  return join(base_rows(states), adapted_rows(states));
}

// With an adapted output matrix both states are kept, [B, T, 2C], until there are scores to mix.
Tensor Fused::join(const Tensor& base, const Tensor& adapted) const {
  if (!output_adapted_) return base + scale(adapted - base, fusion_.weight());
  const Tensor parts[] = {base, adapted};
  return concat(parts, -1);
}

Tensor Fused::logits(const Tensor& hidden) const {
  if (!output_adapted_) return model_->logits(hidden);
  const int64_t C = hidden.dim(-1) / 2;
  const Shape each = hidden.shape().with_last(C), rows{1, each.numel() / C, C};
  const Tensor z = mix(twin_logits(twins(slice(hidden, -1, 0, C).view(rows), slice(hidden, -1, C, 2 * C).view(rows))));
  return z.view(each.with_last(z.dim(-1)));
}

Tensor Fused::loss(const Tensor& hidden, std::span<const int32_t> targets) const {
  return output_adapted_ ? CausalLm::loss(hidden, targets) : model_->loss(hidden, targets);
}

KvCache Fused::make_cache(int64_t capacity, DType dtype, int64_t) const { return model_->make_cache(capacity, dtype, first_); }

}  // namespace kvt
