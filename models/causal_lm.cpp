#include "models/causal_lm.h"

#include "ops/interleave.h"

namespace kvt {

Tensor CausalLm::scores(const Linear& output, const Embedding& embedding, const Tensor& hidden) const {
  return output.with(config().tied_output ? embedding.weight : output.weight, hidden);
}

Tensor CausalLm::scored_loss(const Linear& output, const Embedding& embedding, const Tensor& hidden, std::span<const int32_t> targets) const {
  if (!output.adapters.empty()) return CausalLm::loss(hidden, targets);
  return linear_cross_entropy(hidden, config().tied_output ? embedding.weight : output.weight, targets);
}

int64_t arrange_weights(CausalLm& model) {
  struct Place { Tensor w; int64_t at; };
  std::vector<Place> places;                                // in the order in which a token reads them, at multiples of 64
  int64_t all = 0, interleaved = 0;
  const auto use = [&](const Tensor& w) {
    if (!w || w.rank() != 2 || w.interleaved() || !(gains_by_interleaving(w) || w.storage().mapped())) return;
    places.push_back({w, all});
    all += (w.bytes() + 63) / 64 * 64;
  };
  model.each_linear([&](const std::string&, Linear& linear) { use(linear.weight); });
  if (model.config().tied_output) model.each_parameter([&](const std::string& name, Parameter& p) { if (name == "token_embd.weight") use(p); });
  if (places.empty()) return 0;
  const Storage block = Storage::allocate_large(size_t(all));
  for (const Place& p : places) {
    const Storage to = block.part(size_t(p.at), size_t(p.w.bytes()));
    if (gains_by_interleaving(p.w)) interleave(p.w, to), interleaved += p.w.bytes();
    else move(p.w, to);
  }
  return interleaved;
}

}  // namespace kvt
