#include "engine/sentence_pairs.h"

#include "engine/fingerprint.h"
#include "engine/rows.h"

namespace kvt {

void SentencePairs::add(Ids source, Ids target) {
  if (source.empty() || target.empty() || int64_t(source.size()) > length_ || int64_t(target.size()) + 1 > length_) {
    ++dropped_;
    return;
  }
  sources_.push_back(std::move(source));
  targets_.push_back(std::move(target));
}

int64_t SentencePairs::tokens() const {
  int64_t n = 0;
  for (const auto* side : {&sources_, &targets_})
    for (const Ids& ids : *side) n += int64_t(ids.size());
  return n;
}

uint64_t SentencePairs::fingerprint() const {
  Hash64 hash;
  for (const auto* side : {&sources_, &targets_})
    for (const Ids& ids : *side) {
      hash.add(ids.size());
      hash.add(ids.data(), ids.size() * sizeof(int32_t));
    }
  return hash.value();
}

Task::Extent TranslationTask::extent(std::span<const int64_t> indices) const {
  Extent e;
  for (int64_t i : indices) {
    e.labels += int64_t(pairs_.target(i).size()) + 1;
    e.tokens += int64_t(pairs_.source(i).size() + pairs_.target(i).size()) + 1;
  }
  return e;
}

BatchOrder TranslationTask::order(int64_t batch, uint64_t seed) const {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < size(); ++i) lengths.push_back(int64_t(pairs_.source(i).size() + pairs_.target(i).size()));
  return BatchOrder(size(), batch, seed, std::move(lengths));
}

Tensor TranslationTask::loss(std::span<const int64_t> indices, const Pass& pass) const {
  std::vector<Ids> inputs, labels;
  std::vector<const Ids*> source_rows, input_rows, label_rows;
  for (int64_t i : indices) {
    const Ids& target = pairs_.target(i);
    inputs.push_back({start_});
    inputs.back().insert(inputs.back().end(), target.begin(), target.end());
    labels.push_back(target);
    labels.back().push_back(end_);
    source_rows.push_back(&pairs_.source(i));
  }
  for (const Ids& ids : inputs) input_rows.push_back(&ids);
  for (const Ids& ids : labels) label_rows.push_back(&ids);
  const Rows source = fill_rows(source_rows, 0), input = fill_rows(input_rows, end_), label = fill_rows(label_rows, ignored_label);
  const Memory memory = model_.encode(source.ids, source.lengths, source.T, pass.random);
  const Tensor hidden = model_.decode(input.ids, input.T, memory, pass.random);
  return model_.loss(hidden, label.ids, pass.random ? smoothing_ : 0.f);
}

}  // namespace kvt
