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

namespace {

// Where weights will lie: in the order in which a token reads them, at multiples of 64.
struct Place { Tensor w; int64_t at; };
struct Places { std::vector<Place> places; int64_t bytes = 0; };
template <class Mapped>
Places places_of(CausalLm& model, Mapped mapped) {
  Places all;
  const auto use = [&](const Tensor& w) {
    if (!w || w.rank() != 2 || w.interleaved() || !(gains_by_interleaving(w) || mapped(w))) return;
    all.places.push_back({w, all.bytes});
    all.bytes += (w.bytes() + 63) / 64 * 64;
  };
  model.each_linear([&](const std::string&, Linear& linear) { use(linear.weight); });
  if (model.config().tied_output) model.each_parameter([&](const std::string& name, Parameter& p) { if (name == "token_embd.weight") use(p); });
  return all;
}

}  // namespace

int64_t arranged_bytes(CausalLm& model, bool mapped) { return places_of(model, [mapped](const Tensor&) { return mapped; }).bytes; }

int64_t arrange_weights(CausalLm& model) {
  const auto [places, all] = places_of(model, [](const Tensor& w) { return w.storage().mapped(); });
  if (places.empty()) return 0;
  int64_t interleaved = 0;
  const Storage block = Storage::allocate_large(size_t(all));
  for (const Place& p : places) {
    const Storage to = block.part(size_t(p.at), size_t(p.w.bytes()));
    if (gains_by_interleaving(p.w)) interleave(p.w, to), interleaved += p.w.bytes();
    else move(p.w, to);
  }
  return interleaved;
}

}  // namespace kvt
