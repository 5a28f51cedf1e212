#include "models/text_classifier.h"

namespace kvt {

Tensor TextClassifier::states(const TextBatch& b, bool recompute) const {
  if (lm_) return lm_->hidden(b.ids, int64_t(b.lengths.size()), b.T, {.cache = nullptr, .recompute = recompute});
  require(!recompute, "classifier: an encoder's activations cannot be recomputed");
  return bert_->hidden(b.ids, b.lengths, b.T);
}

Tensor TextClassifier::features(const TextBatch& b, bool recompute) const { return pooled(states(b, recompute), b.lengths, pooling); }

// Behind the last token of each text the model scores all words; a product with unit vectors picks those of the classes.
Tensor TextClassifier::adapted_scores(const TextBatch& b, bool recompute) const {
  if (words.empty()) return head(features(b, recompute));
  require(lm_ != nullptr, "classifier: an encoder does not score words");
  const Tensor next = lm_->logits(pooled(states(b, recompute), b.lengths, Pooling::last));
  const int64_t n = classes(), V = next.dim(-1);
  const Tensor pick = Tensor::zeros({n, V});
  for (int64_t c = 0; c < n; ++c) pick.data()[c * V + words[size_t(c)]] = 1;
  return matmul(next, pick, false, true);
}

// The base learns nothing and runs unrecorded, but for the head, which is of both sides.
Tensor TextClassifier::base_scores(const TextBatch& b) const {
  AdapterPass pass = AdapterPass::current();
  pass.rows = AdapterPass::Rows::base;
  const AdapterPass::Scope scope(pass);
  if (words.empty()) {
    Tensor h;
    {
      const Tape::Pause frozen;
      h = features(b);
    }
    return head(h);
  }
  const Tape::Pause frozen;
  return adapted_scores(b, false);
}

TwinScores TextClassifier::twin_scores(const TextBatch& b) const {
  return kvt::twin_scores([&] { return adapted_scores(b, false); });
}

Tensor TextClassifier::scores(const TextBatch& b, bool recompute) const {
  if (!fusion) return adapted_scores(b, recompute);
  const Tensor base = base_scores(b);
  return base + scale(adapted_scores(b, recompute) - base, fusion->weight());
}

}  // namespace kvt
