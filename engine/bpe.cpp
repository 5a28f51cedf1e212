// Byte-level BPE: a text is cut into words (pretokenize.h), each byte is a letter, and neighbours merge in the order of
// tokenizer.ggml.merges.
//
// The letter of a byte is the character of that number where it prints (0x21…0x7E, 0xA1…0xAC, 0xAE…0xFF); the 68 others are
// numbered from U+0100 on: a space is Ġ, a newline Ċ.
#include "engine/pretokenize.h"
#include "engine/tokenizer_models.h"

namespace kvt {

std::array<uint32_t, 256> byte_letters() {
  std::array<uint32_t, 256> letters{};
  uint32_t next = 0x100;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool prints = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    letters[b] = prints ? b : next++;
  }
  return letters;
}

namespace {

// (left id, right id) → rank and merged id: open addressing, at most half full.
class MergeTable {
 public:
  explicit MergeTable(size_t merges) {
    size_t slots = 16;
    while (slots < 2 * merges) slots *= 2;
    slots_.resize(slots);
  }
  // False if the pair is there already.
  bool add(int32_t left, int32_t right, int32_t rank, int32_t id) {
    Slot& s = slots_[slot(left, right)];
    if (s.left >= 0) return false;
    s = {left, right, rank, id};
    return true;
  }
  Merged find(int32_t left, int32_t right) const {
    const Slot& s = slots_[slot(left, right)];
    return {s.id, double(s.rank)};
  }

 private:
  struct Slot { int32_t left = -1, right = -1, rank = 0, id = -1; };

  size_t slot(int32_t left, int32_t right) const {
    const uint64_t key = uint64_t(uint32_t(left)) << 32 | uint32_t(right);
    size_t i = size_t((key * 0x9E3779B97F4A7C15u) >> 32);
    for (;; ++i) {
      const Slot& s = slots_[i & (slots_.size() - 1)];
      if (s.left < 0 || (s.left == left && s.right == right)) return i & (slots_.size() - 1);
    }
  }

  std::vector<Slot> slots_;
};

class Bpe : public Tokenizer {
 public:
  Bpe(Vocab vocab, const Gguf& gguf)
      : Tokenizer(std::move(vocab)),
        pre_(PreTokenizer::named(gguf.string("tokenizer.ggml.pre", "default"), gguf.path())),
        merges_(gguf.array<std::string>("tokenizer.ggml.merges").size()) {
    const std::array<uint32_t, 256> letters = byte_letters();
    for (uint32_t b = 0; b < 256; ++b) {
      unicode::append(letter_[b], letters[b]);
      byte_of_.emplace(letters[b], char(b));
      byte_[b] = text_id(letter_[b]);
    }
    const auto& merges = gguf.array<std::string>("tokenizer.ggml.merges");
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      const std::string_view merge = merges[rank];
      // The left part has at least one character, which in old vocabularies may be a space itself.
      const size_t gap = merge.find(' ', 1);
      require(gap != std::string_view::npos && gap + 1 < merge.size(), gguf.path(), ": tokenizer.ggml.merges: item ", rank, " '", merge,
              "' is not two parts with a space between");
      const std::string_view left = merge.substr(0, gap), right = merge.substr(gap + 1);
      const auto known = [&](std::string_view part) {
        const int32_t id = vocab_.find(part);
        require(id >= 0, gguf.path(), ": tokenizer.ggml.merges: item ", rank, " '", merge, "': '", part, "' is not a token");
        return id;
      };
      const int32_t l = known(left), r = known(right), id = known(std::string(left).append(right));
      require(vocab_.is_text(id), gguf.path(), ": tokenizer.ggml.merges: item ", rank, " '", merge, "' makes a control token");
      // Of a merge listed twice the first counts, as its rank is the better.
      merges_.add(l, r, int32_t(rank), id);
    }
  }

 protected:
  void encode_text(std::string_view text, bool, std::vector<int32_t>& ids) const override {
    std::string replaced;
    if (std::any_of(text.begin(), text.end(), [this](char c) { return byte_[static_cast<unsigned char>(c)] < 0; })) text = replaced = replace_missing(text);
    std::vector<std::string_view> words;
    pre_.split(text, words);
    Merger merger;
    for (const std::string_view word : words) encode_word(word, merger, ids);
  }

  std::string piece_text(int32_t id) const override {
    const std::string& t = vocab_.text[size_t(id)];
    std::string out;
    for (size_t at = 0; at < t.size();) {
      const uint32_t code = unicode::next(t, at);
      const auto byte = byte_of_.find(code);
      if (byte != byte_of_.end()) out += byte->second;
      else unicode::append(out, code);                       // a token that is not spelled in byte letters
    }
    return out;
  }

 private:
  int32_t text_id(std::string_view token) const {
    const int32_t id = vocab_.find(token);
    return id >= 0 && vocab_.is_text(id) ? id : -1;
  }

  void encode_word(std::string_view word, Merger& merger, std::vector<int32_t>& ids) const {
    if (pre_.whole_words) {
      std::string letters;
      for (const char c : word) letters += letter_[static_cast<unsigned char>(c)];
      if (const int32_t id = text_id(letters); id >= 0) return ids.push_back(id);
    }
    merger.symbols.clear();
    for (size_t i = 0; i < word.size(); ++i) merger.add(uint32_t(i), 1, byte_[static_cast<unsigned char>(word[i])]);
    merger.run([this](const Symbol& a, const Symbol& b) { return merges_.find(a.id, b.id); });
    for (const Symbol& s : merger.symbols)
      if (s.length > 0) ids.push_back(s.id);
  }

  // Some vocabularies lack bytes (0xC0, 0xF5 and others never occur in UTF-8): characters that need one become U+FFFD.
  std::string replace_missing(std::string_view text) const {
    const auto has = [this](std::string_view bytes) {
      return std::all_of(bytes.begin(), bytes.end(), [this](char c) { return byte_[static_cast<unsigned char>(c)] >= 0; });
    };
    std::string out, stand_in;
    unicode::append(stand_in, unicode::replacement);
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      unicode::next(text, at);
      const std::string_view unit = text.substr(begin, at - begin);
      const bool fits = has(unit);
      require(fits || has(stand_in), "tokenizer: the vocabulary has no tokens for the bytes of '", unit, "', nor for U+FFFD in its place");
      out += fits ? unit : std::string_view(stand_in);
    }
    return out;
  }

  const PreTokenizer& pre_;
  MergeTable merges_;
  std::array<std::string, 256> letter_;
  std::unordered_map<uint32_t, char> byte_of_;               // letter → byte
  std::array<int32_t, 256> byte_{};                          // byte → token, −1 if there is none
};

}  // namespace

std::unique_ptr<Tokenizer> make_bpe(Vocab vocab, const Gguf& gguf) { return std::make_unique<Bpe>(std::move(vocab), gguf); }

}  // namespace kvt
