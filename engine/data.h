// Training data: token sequences with, for each token, the token to be predicted after it.
//
//   plain text   cut into windows of T tokens:        tokens  t0 t1 t2 | t3 t4 t5 | t6       labels  t1 t2 t3 | t4 t5 t6 | t7
//                each token but the first is predicted exactly once; the last window may be short
//   pairs        prompt, completion, end of text:      tokens  p0 p1 c0 c1                    labels  –  c0 c1 EOS
//                only the completion and its end are learned; one pair a row
#pragma once
#include "ops/ops.h"

namespace kvt {

// labels[t] follows tokens[t], or is ignored_label.
struct Example { Ids tokens, labels; };

// Rows of equal length T: short examples are filled up with token 0 and ignored labels. Causal attention keeps what
// stands behind a token from changing it, so the filling costs time and nothing else.
struct Batch {
  int64_t B = 0, T = 0;
  Ids tokens, labels;           // [B, T] row-major
  int64_t learned = 0;          // labels that count
};

class Examples {
 public:
  explicit Examples(int64_t length);      // T ≥ 1: the most tokens of an example

  void add(Example example);              // as it is; at most T tokens, as many labels
  void add_text(std::span<const int32_t> tokens);
  // `end` (−1 = none) is learned behind the completion. Cut to T tokens; a pair with nothing left to learn is dropped.
  void add_pair(std::span<const int32_t> prompt, std::span<const int32_t> completion, int32_t end);

  int64_t size() const { return int64_t(examples_.size()); }
  int64_t length() const { return length_; }
  const Example& operator[](int64_t i) const { return examples_.at(size_t(i)); }
  int64_t learned() const { return learned_; }        // labels that count, over all examples
  int64_t truncated() const { return truncated_; }    // pairs cut to T tokens, the dropped ones included
  int64_t dropped() const { return dropped_; }

  Batch batch(std::span<const int64_t> indices) const;
  // The last ⌈fraction · size⌉ examples move into a set of their own; 0 < fraction < 1, and both sets keep at least one.
  Examples split(double fraction);
  uint64_t fingerprint() const;            // of tokens and labels, in order

 private:
  int64_t length_, learned_ = 0, truncated_ = 0, dropped_ = 0;
  std::vector<Example> examples_;
};

// Which example comes next: `index` of the shuffled order of `epoch`.
struct DataPosition { int64_t epoch = 0, index = 0; };

// Batches in an order shuffled anew each epoch. The order depends on the seed and the epoch alone, so that a position is all
// there is to store. The last batch of an epoch may be smaller.
//
// With `lengths`, one for each example, batches hold examples of nearly the same length, so that little is filled up: the shuffled
// order is cut into pools of pool_batches batches, each pool sorted by length, and the full batches shuffled once more.
class BatchOrder {
 public:
  static constexpr int64_t pool_batches = 50;
  BatchOrder(int64_t examples, int64_t batch, uint64_t seed, std::vector<int64_t> lengths = {});
  std::vector<int64_t> next();                       // indices of the next batch's examples
  DataPosition position() const { return position_; }
  void seek(DataPosition position);                  // throws unless it lies within the data
  int64_t batches() const { return (examples_ + batch_ - 1) / batch_; }     // in one epoch

 private:
  void shuffle();
  void sort_by_length(Rng& rng);

  std::vector<int64_t> lengths_;
  int64_t examples_, batch_;
  uint64_t seed_;
  DataPosition position_;
  std::vector<int64_t> order_;
};

}  // namespace kvt
