// Training data of an encoder–decoder model: sentences and their translations.
//
//   encoder          x0 x1 … xS
//   decoder reads    start y0 y1 …          labels    y0 y1 … end
#pragma once
#include "engine/train.h"
#include "models/seq2seq.h"

namespace kvt {

class SentencePairs {
 public:
  explicit SentencePairs(int64_t length) : length_(length) {}      // the most tokens of either side, start and end included

  // A pair that is too long, or empty on one side, is dropped.
  void add(Ids source, Ids target);
  int64_t size() const { return int64_t(sources_.size()); }
  int64_t dropped() const { return dropped_; }
  const Ids& source(int64_t i) const { return sources_.at(size_t(i)); }
  const Ids& target(int64_t i) const { return targets_.at(size_t(i)); }
  int64_t tokens() const;                                           // of both sides
  uint64_t fingerprint() const;

 private:
  int64_t length_, dropped_ = 0;
  std::vector<Ids> sources_, targets_;
};

// Mean cross-entropy of the target tokens; label smoothing and dropout in training only. Batches hold pairs of similar length.
class TranslationTask : public Task {
 public:
  TranslationTask(const Seq2Seq& model, const SentencePairs& pairs, int32_t start, int32_t end, float smoothing)
      : model_(model), pairs_(pairs), start_(start), end_(end), smoothing_(smoothing) {}
  int64_t size() const override { return pairs_.size(); }
  Extent extent(std::span<const int64_t> indices) const override;
  BatchOrder order(int64_t batch, uint64_t seed) const override;
  Tensor loss(std::span<const int64_t> indices, const Pass& pass) const override;

 private:
  const Seq2Seq& model_;
  const SentencePairs& pairs_;
  int32_t start_, end_;
  float smoothing_;
};

}  // namespace kvt
