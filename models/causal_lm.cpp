#include "models/causal_lm.h"

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

}  // namespace kvt
