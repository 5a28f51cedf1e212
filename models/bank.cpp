#include "models/bank.h"

#include <algorithm>

#include "models/kvt.h"

namespace kvt {

static Tensor unit(const Tensor& embedding) { return rms_norm(embedding, Tensor::filled({embedding.dim(-1)}, 1.f), 1e-6f); }

Tensor domain_center(const Tensor& embedding) {
  const Tape::Pause pause;
  return mean(unit(embedding), 0);
}

// |e − c|² without what all domains share:  −2 c·e + |c|². The products are averaged instead of the embeddings.
Tensor Bank::choose(const Tensor& embedding, KvCache* cache) const {
  const Tape::Pause pause;
  const int64_t B = embedding.dim(0), T = embedding.dim(1), D = int64_t(names.size()), C = centers.dim(1);
  Tensor choice = Tensor::filled({B * T}, float(std::max<int64_t>(fixed, 0)));
  if (fixed >= 0) return choice;
  Tensor near = linear(unit(embedding), centers);                        // c·e, [B, T, D]
  if (level == Level::sentence) {
    const int64_t count = cache ? cache->length() : 0;
    near = prefix_mean(near, count > 0 ? scale(slice(cache->notes(), 0, count - 1, count), float(count)).view({D}) : Tensor(), count);
    if (cache) std::copy_n(near.data(), T * D, cache->notes().data() + count * D);
  }
  std::vector<float> half(static_cast<size_t>(D), 0.f);                  // |c|²/2
  for (int64_t d = 0; d < D; ++d)
    for (int64_t i = 0; i < C; ++i) half[size_t(d)] += centers.data()[d * C + i] * centers.data()[d * C + i] / 2;
  for (int64_t t = 0; t < B * T; ++t) {
    const float* row = near.data() + t * D;
    int64_t best = 0;
    for (int64_t d = 1; d < D; ++d)
      if (row[d] - half[size_t(d)] > row[best] - half[size_t(best)]) best = d;
    choice.data()[t] = float(best);
  }
  return choice;
}

// Each domain that is chosen somewhere computes all rows, whatever the others are: a row's numbers are those of its domain alone.
Tensor BankAdapter::operator()(const Tensor& x, const Tensor& y) const {
  const AdapterPass& pass = AdapterPass::current();
  const int64_t rows = y.shape().leading().numel(), N = y.dim(-1);
  require(pass.made && pass.maker == bank.get() && pass.made.size() == rows, "bank: no domain has been chosen for this pass");
  const auto chosen = pass.made.values();
  Tensor z = y;
  bool mixed = false;
  for (size_t d = 0; d < domains.size(); ++d) {
    const int64_t count = std::count(chosen.begin(), chosen.end(), float(d));
    if (count == 0 || !domains[d]) continue;
    if (count == rows) return (*domains[d])(x, y);
    const Tensor of_domain = (*domains[d])(x, y.clone());
    if (!mixed) z = y.clone(), mixed = true;
    for (int64_t r = 0; r < rows; ++r)
      if (chosen[size_t(r)] == float(d)) std::copy_n(of_domain.data() + r * N, N, z.data() + r * N);
  }
  return z;
}

BankLm::BankLm(std::shared_ptr<CausalLm> model, std::shared_ptr<const Bank> bank) : model_(std::move(model)), bank_(std::move(bank)) {
  model_->each_parameter([&](const std::string& name, Parameter& p) { if (name == "token_embd.weight") embedding_ = p.tensor; });
  require(bool(embedding_), "bank: the model has no token embedding");
}

Tensor BankLm::hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const {
  require(!Tape::current(), "bank: a bank is not trained");
  AdapterPass pass = AdapterPass::current();
  pass.made = bank_->choose(embedding(ids, {B, T}, embedding_), options.cache);
  pass.maker = bank_.get();
  const AdapterPass::Scope scope(pass);
  return model_->hidden(ids, B, T, options);
}

KvCache BankLm::make_cache(int64_t capacity, DType dtype, int64_t twins_from) const {
  KvCache cache = model_->make_cache(capacity, dtype, twins_from);
  cache.keep_notes(int64_t(bank_->names.size()));
  return cache;
}

}  // namespace kvt
