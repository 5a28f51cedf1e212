// What the models of tokenization share among themselves: merging neighbours, and how each model is made.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "tensor/error.h"

namespace kvt {

// `source` names the file in errors.
std::unique_ptr<Tokenizer> make_spm(Vocab vocab, const std::string& source);
std::unique_ptr<Tokenizer> make_bpe(Vocab vocab, const Gguf& gguf);
std::unique_ptr<Tokenizer> make_wordpiece(Vocab vocab, const std::string& source);

// The letter (a code point) that stands for each byte in byte-level BPE.
std::array<uint32_t, 256> byte_letters();

// A piece of text that merging has made so far: a list, linked by index.
struct Symbol {
  uint32_t begin, length;                      // bytes of the text; length 0 once merged into its left neighbour
  int32_t id;
  int32_t left, right;                         // −1 at the ends
};

// Merges the best pair of neighbours, the leftmost of equals, until no pair can merge: O(n log n).
// merged(a, b) says what a and b become: an id (−1: they do not merge) and an order (lower first).
struct Merged { int32_t id; double order; };

class Merger {
 public:
  std::vector<Symbol> symbols;

  void add(uint32_t begin, uint32_t length, int32_t id) {
    const int32_t n = int32_t(symbols.size());
    if (n > 0) symbols.back().right = n;
    symbols.push_back({begin, length, id, n - 1, -1});
  }

  template <class Function>
  void run(Function merged) {
    heap_.clear();
    const auto consider = [&](int32_t left, int32_t right) {
      if (left < 0 || right < 0) return;
      const Symbol &a = symbols[size_t(left)], &b = symbols[size_t(right)];
      const Merged m = merged(a, b);
      if (m.id < 0) return;
      heap_.push_back({m.order, left, right, m.id, a.length + b.length});
      std::push_heap(heap_.begin(), heap_.end());
    };
    for (int32_t i = 1; i < int32_t(symbols.size()); ++i) consider(i - 1, i);
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      const Pair p = heap_.back();
      heap_.pop_back();
      Symbol &a = symbols[size_t(p.left)], &b = symbols[size_t(p.right)];
      // Symbols only grow or vanish: the pair is as it was exactly if both are alive and their lengths still add up.
      if (a.length == 0 || b.length == 0 || a.length + b.length != p.length) continue;
      a.length = p.length;
      a.id = p.id;
      a.right = b.right;
      if (b.right >= 0) symbols[size_t(b.right)].left = p.left;
      b.length = 0;
      consider(a.left, p.left);
      consider(p.left, a.right);
    }
  }

 private:
  struct Pair {
    double order;
    int32_t left, right, id;
    uint32_t length;
    bool operator<(const Pair& o) const { return order != o.order ? order > o.order : left > o.left; }      // of a max-heap
  };
  std::vector<Pair> heap_;
};

}  // namespace kvt
