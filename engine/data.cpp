#include "engine/data.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/fingerprint.h"
#include "tensor/order.h"

namespace kvt {

Examples::Examples(int64_t length) : length_(length) { require(length >= 1, "data: length ", length, ", expected at least 1 token"); }

void Examples::add(Example example) {
  require(example.tokens.size() == example.labels.size() && int64_t(example.tokens.size()) <= length_, "data: an example of ",
          example.tokens.size(), " tokens and ", example.labels.size(), " labels, at most ", length_);
  learned_ += std::count_if(example.labels.begin(), example.labels.end(), [](int32_t label) { return label != ignored_label; });
  examples_.push_back(std::move(example));
}

void Examples::add_text(std::span<const int32_t> tokens) {
  const auto predicted = int64_t(tokens.size()) - 1;
  for (int64_t begin = 0; begin < predicted; begin += length_) {
    const auto n = size_t(std::min(length_, predicted - begin));
    const auto inputs = tokens.subspan(size_t(begin), n), labels = tokens.subspan(size_t(begin) + 1, n);
    add({{inputs.begin(), inputs.end()}, {labels.begin(), labels.end()}});
  }
}

void Examples::add_pair(std::span<const int32_t> prompt, std::span<const int32_t> completion, int32_t end) {
  Ids all(prompt.begin(), prompt.end());
  all.insert(all.end(), completion.begin(), completion.end());
  if (end >= 0) all.push_back(end);
  if (int64_t(all.size()) > length_ + 1) {
    ++truncated_;
    all.resize(size_t(length_) + 1);
  }
  // The first learned label is the completion's first token; without a prompt nothing stands before that one.
  const size_t first = prompt.empty() ? 0 : prompt.size() - 1;
  if (all.size() < first + 2) {
    ++dropped_;
    return;
  }
  Example e{{all.begin(), all.end() - 1}, {all.begin() + 1, all.end()}};
  std::fill_n(e.labels.begin(), first, ignored_label);
  add(std::move(e));
}

Batch Examples::batch(std::span<const int64_t> indices) const {
  Batch batch;
  batch.B = int64_t(indices.size());
  for (int64_t i : indices) batch.T = std::max(batch.T, int64_t((*this)[i].tokens.size()));
  batch.tokens.assign(size_t(batch.B * batch.T), 0);
  batch.labels.assign(size_t(batch.B * batch.T), ignored_label);
  for (int64_t b = 0; b < batch.B; ++b) {
    const Example& e = (*this)[indices[size_t(b)]];
    std::copy(e.tokens.begin(), e.tokens.end(), batch.tokens.begin() + b * batch.T);
    std::copy(e.labels.begin(), e.labels.end(), batch.labels.begin() + b * batch.T);
  }
  batch.learned = int64_t(batch.labels.size()) - std::count(batch.labels.begin(), batch.labels.end(), ignored_label);
  return batch;
}

Examples Examples::split(double fraction) {
  require(fraction > 0 && fraction < 1, "data: cannot split off a fraction of ", fraction);
  require(size() >= 2, "data: cannot split ", size(), " example(s) into training and validation");
  const auto n = std::min(int64_t(std::ceil(fraction * double(size()))), size() - 1);
  Examples part(length_), rest(length_);
  for (int64_t i = 0; i < size(); ++i) (i < size() - n ? rest : part).add(std::move(examples_[size_t(i)]));
  rest.truncated_ = truncated_;
  rest.dropped_ = dropped_;
  *this = std::move(rest);
  return part;
}

uint64_t Examples::fingerprint() const {
  Hash64 hash;
  for (const Example& e : examples_) {
    hash.add(e.tokens.size());
    hash.add(e.tokens.data(), e.tokens.size() * sizeof(int32_t));
    hash.add(e.labels.data(), e.labels.size() * sizeof(int32_t));
  }
  return hash.value();
}

BatchOrder::BatchOrder(int64_t examples, int64_t batch, uint64_t seed, std::vector<int64_t> lengths)
    : lengths_(std::move(lengths)), examples_(examples), batch_(batch), seed_(seed) {
  require(examples >= 1, "data: no examples");
  require(batch >= 1, "data: batch size ", batch);
  require(lengths_.empty() || int64_t(lengths_.size()) == examples, "data: ", lengths_.size(), " lengths of ", examples, " examples");
  shuffle();
}

// Fisher and Yates, with a generator of this epoch's own.
void BatchOrder::shuffle() {
  Hash64 mixed;
  mixed.add(seed_);
  mixed.add(uint64_t(position_.epoch));
  Rng rng(mixed.value());
  order_.resize(size_t(examples_));
  std::iota(order_.begin(), order_.end(), 0);
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[rng.below(i)]);
  if (!lengths_.empty()) sort_by_length(rng);
}

void BatchOrder::sort_by_length(Rng& rng) {
  const int64_t pool = pool_batches * batch_;
  for (int64_t begin = 0; begin < examples_; begin += pool)
    stable_order(std::span(order_).subspan(size_t(begin), size_t(std::min(pool, examples_ - begin))), [&](int64_t a, int64_t b) { return lengths_[size_t(a)] < lengths_[size_t(b)]; });
  // Only full batches change places: a short one stays last, where next() expects it.
  for (int64_t i = examples_ / batch_; i > 1; --i) {
    const auto a = order_.begin() + (i - 1) * batch_, b = order_.begin() + int64_t(rng.below(uint64_t(i))) * batch_;
    if (a != b) std::swap_ranges(a, a + batch_, b);
  }
}

std::vector<int64_t> BatchOrder::next() {
  const auto begin = order_.begin() + position_.index;
  const int64_t n = std::min(batch_, examples_ - position_.index);
  std::vector<int64_t> indices(begin, begin + n);
  position_.index += n;
  if (position_.index == examples_) {
    position_ = {position_.epoch + 1, 0};
    shuffle();
  }
  return indices;
}

void BatchOrder::seek(DataPosition position) {
  require(position.epoch >= 0 && position.index >= 0 && position.index < examples_, "data: no example ", position.index, " of epoch ",
          position.epoch, " among ", examples_);
  position_ = position;
  shuffle();
}

}  // namespace kvt
