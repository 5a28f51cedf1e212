// WordPiece, as BERT (Devlin et al. 2019) has it: the text is lower-cased, freed of accents and cut at white space, punctuation and
// ideographs; each word is then the longest tokens that fit, from the left, or [UNK] if some part of it is none.
// The files store the first piece of a word with ▁ before it and the later ones bare.
#include "engine/tokenizer_models.h"
#include "engine/unicode.h"

namespace kvt {

namespace {

constexpr std::string_view word_start = "\u2581";            // ▁
constexpr size_t longest_word = 100;                         // characters; longer ones are [UNK], as in BERT's own tokenizer

class WordPiece : public Tokenizer {
 public:
  WordPiece(Vocab vocab, const std::string& source) : Tokenizer(std::move(vocab)) {
    require(vocab_.unknown >= 0, source, ": tokenizer.ggml.unknown_token_id is missing; the tokenizer model 'bert' needs it");
    for (const std::string& t : vocab_.text) longest_token_ = std::max(longest_token_, t.size());
  }

 protected:
  void encode_text(std::string_view text, bool, std::vector<int32_t>& ids) const override {
    using namespace unicode;
    std::string word;
    size_t characters = 0;
    const auto finish = [&] {
      if (characters > 0) encode_word(word, characters, ids);
      word = word_start;
      characters = 0;
    };
    finish();
    std::vector<uint32_t> parts;
    for (const Char c : unicode::decode(text)) {
      if (c.in(set_of(Zs, Zl, Zp)) || c.code() == '\t' || c.code() == '\n' || c.code() == '\r') {
        finish();
        continue;
      }
      if (c.code() == replacement || c.code() >= invalid_byte || c.in(set_of(Cc, Cf, Co))) continue;
      const bool alone = ideograph(c.code()) || c.in(punctuation) || (c.code() < 0x80 && c.in(symbols));
      if (alone) finish();
      parts.clear();
      decompose(c.code(), parts);
      for (const uint32_t part : parts) {
        if (category(part) == Mn) continue;
        append(word, lower(part));
        ++characters;
      }
      if (alone) finish();
    }
    finish();
  }

  std::string piece_text(int32_t id) const override {
    const std::string& t = vocab_.text[size_t(id)];
    return t.starts_with(word_start) ? std::string(1, ' ').append(t, word_start.size()) : t;
  }

 private:
  void encode_word(std::string_view word, size_t characters, std::vector<int32_t>& ids) const {
    if (characters > longest_word) return ids.push_back(vocab_.unknown);
    const size_t before = ids.size();
    for (size_t at = 0; at < word.size();) {
      size_t end = std::min(word.size(), at + longest_token_);
      int32_t id = -1;
      for (; end > at; --end) {
        id = vocab_.find(word.substr(at, end - at));
        if (id >= 0 && vocab_.is_text(id)) break;
      }
      if (end == at) {
        ids.resize(before);
        return ids.push_back(vocab_.unknown);
      }
      ids.push_back(id);
      at = end;
    }
  }

  size_t longest_token_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> make_wordpiece(Vocab vocab, const std::string& source) { return std::make_unique<WordPiece>(std::move(vocab), source); }

}  // namespace kvt
