#include "models/causal_lm.h"

#include "ops/interleave.h"

namespace kvt {

Tensor CausalLm::through_blocks(Tensor x, const Forward& options, const Block& block) const {
  const int64_t T = x.dim(1), first = options.twins_from, blocks = options.blocks < 0 ? layers() : options.blocks;
  AdapterPass pass = AdapterPass::current();
  for (int64_t i = 0; i < blocks; ++i) {
    if (i == first) x = twins(x, x), pass.rows = AdapterPass::Rows::twins;
    // In backward the block runs again, when the scopes of this pass are long gone.
    const auto step = [block, i, pass](const Tensor& h) {
      const AdapterPass::Scope scope(pass);
      return block(i, h);
    };
    x = options.recompute ? recompute(step, x) : step(x);
  }
  if (options.cache) options.cache->advance(T);
  return first == layers() ? twins(x, x) : x;
}

Tensor CausalLm::scores(const Linear& output, const Embedding& embedding, const Tensor& hidden) const {
  return output.with(config().tied_output ? embedding.weight : output.weight, hidden);
}

Tensor CausalLm::scored_loss(const Linear& output, const Embedding& embedding, const Tensor& hidden, std::span<const int32_t> targets) const {
  if (!output.adapters.empty()) return CausalLm::loss(hidden, targets);
  return linear_cross_entropy(hidden, config().tied_output ? embedding.weight : output.weight, targets);
}

int64_t interleave_weights(CausalLm& model) {
  int64_t bytes = 0;
  const auto use = [&](const Tensor& w) {
    if (!w || w.interleaved() || !gains_by_interleaving(w)) return;
    interleave(w);
    bytes += w.bytes();
  };
  if (model.config().tied_output)                           // the largest first: its pages are gone again before the others need memory
    model.each_parameter([&](const std::string& name, Parameter& p) { if (name == "token_embd.weight") use(p); });
  model.each_linear([&](const std::string&, Linear& linear) { use(linear.weight); });
  return bytes;
}

}  // namespace kvt
