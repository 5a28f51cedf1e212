// Sequence classification: scores of classes from what a Transformer makes of a text.
//
//   head     z = W h̄ + b                    h̄ [C] pooled from the states of the text's tokens;  W [n, C]
//   words    z_c = z_next[word_c]           a language model's scores of n tokens as the next behind the text: nothing is added to it
//
// Fused with its base (models/fusion.h), z = z_θ + w (z_θ' − z_θ): θ is the model without its adapters, the head is the same on both sides.
#pragma once
#include <optional>

#include "models/bert.h"
#include "models/fusion.h"

namespace kvt {

struct TextBatch {
  Ids ids;                               // [B, T], each text filled up behind
  std::vector<int32_t> lengths;          // [B]
  int64_t T = 0;
};

class TextClassifier {
 public:
  Pooling pooling = Pooling::mean;
  Linear head;                           // or none, where
  Ids words;                             // these tokens stand for the classes
  std::optional<Fusion> fusion;

  // Of a language model or of an encoder, which must outlive it.
  explicit TextClassifier(const CausalLm& model) : lm_(&model) {}
  explicit TextClassifier(const Bert& model) : bert_(&model) {}

  int64_t classes() const { return words.empty() ? head.weight.shape[0] : int64_t(words.size()); }
  int64_t channels() const { return lm_ ? lm_->config().channels : bert_->config().channels; }
  // What the head gets, [B, C].
  Tensor features(const TextBatch& batch, bool recompute = false) const;
  Tensor scores(const TextBatch& batch, bool recompute = false) const;           // [B, n]
  TwinScores twin_scores(const TextBatch& batch) const;                          // before they are fused

 private:
  Tensor states(const TextBatch& batch, bool recompute) const;
  Tensor adapted_scores(const TextBatch& batch, bool recompute) const;
  Tensor base_scores(const TextBatch& batch) const;

  const CausalLm* lm_ = nullptr;
  const Bert* bert_ = nullptr;
};

}  // namespace kvt
