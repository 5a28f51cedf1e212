#include "engine/bpe_train.h"

#include <algorithm>
#include <array>
#include <queue>

#include "engine/pretokenize.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_models.h"

namespace kvt {

namespace {

using Pair = std::pair<int32_t, int32_t>;
struct PairHash {
  size_t operator()(const Pair& p) const { return size_t((uint64_t(uint32_t(p.first)) << 32 | uint32_t(p.second)) * 0x9e3779b97f4a7c15 >> 16); }
};

struct Word {
  std::vector<int32_t> ids;
  int64_t count;
};

// A pair with the count it had when it was queued: the true count may be another by now.
struct Queued {
  int64_t count;
  Pair pair;
  bool operator<(const Queued& o) const { return count != o.count ? count < o.count : pair > o.pair; }       // of a max-heap
};

// All words, and where each pair occurs. A merge touches the words that hold its pair alone.
class Corpus {
 public:
  void add(Word word) {
    const auto w = int32_t(words_.size());
    for_pairs(word.ids, [&](Pair p) { change(p, word.count, w); });
    words_.push_back(std::move(word));
  }
  void queue_all() {
    for (const auto& [pair, place] : pairs_) queue_.push({place.count, pair});
  }

  // The most frequent pair, if it occurs `least` times.
  bool best(int64_t least, Queued& result) {
    while (!queue_.empty()) {
      result = queue_.top();
      queue_.pop();
      const int64_t now = pairs_.at(result.pair).count;
      if (now == result.count) return now >= least;
      if (now > 0) queue_.push({now, result.pair});
    }
    return false;
  }

  void merge(const Pair& pair, int32_t id) {
    const std::vector<int32_t> where = std::move(pairs_.at(pair).words);
    std::vector<Pair> grown;
    for (int32_t w : where) {
      Word& word = words_[size_t(w)];
      std::vector<int32_t> merged;
      for (size_t i = 0; i < word.ids.size(); ++i) {
        const bool here = i + 1 < word.ids.size() && word.ids[i] == pair.first && word.ids[i + 1] == pair.second;
        merged.push_back(here ? id : word.ids[i]);
        i += here;
      }
      if (merged.size() == word.ids.size()) continue;          // an older merge took the pair
      for_pairs(word.ids, [&](Pair p) { pairs_.at(p).count -= word.count; });
      for_pairs(merged, [&](Pair p) {
        change(p, word.count, w);
        if (p.first == id || p.second == id) grown.push_back(p);
      });
      word.ids = std::move(merged);
    }
    std::sort(grown.begin(), grown.end());
    grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
    for (const Pair& p : grown) queue_.push({pairs_.at(p).count, p});
  }

 private:
  struct Place {
    int64_t count = 0;
    std::vector<int32_t> words;                               // each at least once; some may have lost the pair
  };

  template <class F>
  static void for_pairs(const std::vector<int32_t>& ids, F f) {
    for (size_t i = 1; i < ids.size(); ++i) f(Pair(ids[i - 1], ids[i]));
  }
  void change(const Pair& p, int64_t by, int32_t word) {
    Place& place = pairs_[p];
    place.count += by;
    if (place.words.empty() || place.words.back() != word) place.words.push_back(word);
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, Place, PairHash> pairs_;
  std::priority_queue<Queued> queue_;
};

}  // namespace

BpeTrainer::BpeTrainer(Options options) : options_(std::move(options)) {
  const auto least = int64_t(256 + options_.special.size());
  require(options_.size >= least, "bpe: a vocabulary of ", options_.size, " tokens; bytes and special tokens alone are ", least);
  require(options_.size <= 1 << 24, "bpe: a vocabulary of ", options_.size, " tokens, expected at most ", 1 << 24);
  for (const std::string& s : options_.special) {
    require(!s.empty(), "bpe: an empty special token");
    require(std::count(options_.special.begin(), options_.special.end(), s) == 1, "bpe: the special token '", s, "' is there twice");
  }
  PreTokenizer::named(options_.pre, "bpe");
}

void BpeTrainer::add(std::string_view text) {
  std::vector<std::string_view> words;
  PreTokenizer::named(options_.pre, "bpe").split(text, words);
  for (const std::string_view w : words) ++words_[std::string(w)];
}

Gguf BpeTrainer::train() const {
  std::vector<std::string> tokens = options_.special, merges;
  const auto special = int32_t(tokens.size());
  // Letters in the order of their code points; the id of each byte.
  std::array<std::pair<uint32_t, int>, 256> letters;
  const std::array<uint32_t, 256> letter_of = byte_letters();
  for (int b = 0; b < 256; ++b) letters[size_t(b)] = {letter_of[size_t(b)], b};
  std::sort(letters.begin(), letters.end());
  std::array<int32_t, 256> id_of_byte{};
  std::unordered_map<std::string, int32_t> ids;
  for (const auto& [letter, byte] : letters) {
    std::string text;
    unicode::append(text, letter);
    id_of_byte[size_t(byte)] = int32_t(tokens.size());
    ids.emplace(text, int32_t(tokens.size()));
    tokens.push_back(text);
  }

  Corpus corpus;
  for (const auto& [text, count] : words_) {
    Word word{{}, count};
    for (const char c : text) word.ids.push_back(id_of_byte[static_cast<unsigned char>(c)]);
    corpus.add(std::move(word));
  }
  corpus.queue_all();
  Queued best;
  while (int64_t(tokens.size()) < options_.size && corpus.best(options_.least, best)) {
    const auto& [left, right] = best.pair;
    const std::string text = tokens[size_t(left)] + tokens[size_t(right)];
    merges.push_back(tokens[size_t(left)] + " " + tokens[size_t(right)]);
    // Two merges may spell the same token: it keeps its id.
    const auto [found, fresh] = ids.emplace(text, int32_t(tokens.size()));
    if (fresh) tokens.push_back(text);
    corpus.merge(best.pair, found->second);
  }

  Gguf gguf;
  std::vector<int32_t> kinds(tokens.size(), int32_t(Vocab::Kind::normal));
  std::fill_n(kinds.begin(), special, int32_t(Vocab::Kind::control));
  for (int32_t i = 0; i < special; ++i)
    require(!ids.contains(tokens[size_t(i)]), "bpe: the special token '", tokens[size_t(i)], "' is also a token of the text");
  gguf.set("general.type", std::string("vocab"));
  gguf.set("tokenizer.ggml.model", std::string("gpt2"));
  gguf.set("tokenizer.ggml.pre", options_.pre);
  gguf.set("tokenizer.ggml.tokens", tokens);
  gguf.set("tokenizer.ggml.token_type", kinds);
  gguf.set("tokenizer.ggml.merges", merges);
  if (special > 0) {
    gguf.set("tokenizer.ggml.bos_token_id", uint32_t(0));
    gguf.set("tokenizer.ggml.eos_token_id", uint32_t(special - 1));
  }
  gguf.set("tokenizer.ggml.add_bos_token", false);
  return gguf;
}

}  // namespace kvt
