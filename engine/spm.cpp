// SentencePiece-style BPE: spaces become ▁, and of all neighbours that join to a token, those with the highest score join first.
// What remains without a token is written as its bytes, <0x00> … <0xFF>.
#include <cstdio>

#include "engine/tokenizer_models.h"
#include "engine/unicode.h"

namespace kvt {

namespace {

constexpr std::string_view space = "\u2581";      // ▁

class Spm : public Tokenizer {
 public:
  Spm(Vocab vocab, const std::string& source) : Tokenizer(std::move(vocab)) {
    require(!vocab_.score.empty(), source, ": tokenizer.ggml.scores is missing; the tokenizer model 'llama' needs it");
    for (int b = 0; b < 256; ++b) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", unsigned(b));
      byte_[size_t(b)] = vocab_.find(name);
    }
    for (int32_t i = 0; i < vocab_.size(); ++i) {
      const std::string& t = vocab_.text[size_t(i)];
      if (vocab_.kind[size_t(i)] == Vocab::Kind::byte)
        require(t.size() == 6 && std::find(byte_.begin(), byte_.end(), i) != byte_.end(), source, ": token ", i, " ('", t,
                "') is a byte by its type, but not named <0x00>…<0xFF>, or a second of that name");
      if (vocab_.is_text(i) && has_inner_space(t)) words_are_apart_ = false;
    }
  }

 protected:
  void encode_text(std::string_view text, bool first, std::vector<int32_t>& ids) const override {
    std::string marked;
    marked.reserve(text.size() * 3 / 2);
    if (first && vocab_.add_space_prefix) marked += space;
    for (const char c : text) c == ' ' ? marked += space : marked += c;
    Merger merger;
    // No token has ▁ behind anything else, so no merge reaches over such a place: each word by itself gives the same ids, faster.
    for (size_t begin = 0, at = 0; begin < marked.size(); begin = at) {
      at = words_are_apart_ ? word_end(marked, begin) : marked.size();
      encode_word(std::string_view(marked).substr(begin, at - begin), merger, ids);
    }
  }

  std::string piece_text(int32_t id) const override {
    const std::string& t = vocab_.text[size_t(id)];
    if (vocab_.kind[size_t(id)] == Vocab::Kind::byte)
      return std::string(1, char(std::find(byte_.begin(), byte_.end(), id) - byte_.begin()));
    std::string out;
    for (size_t at = 0; at < t.size();) {
      const bool is_space = t.compare(at, space.size(), space) == 0;
      out += is_space ? ' ' : t[at];
      at += is_space ? space.size() : 1;
    }
    return out;
  }

 private:
  static size_t word_end(std::string_view text, size_t at) {
    while (text.substr(at).starts_with(space)) at += space.size();
    return std::min(text.find(space, at), text.size());
  }
  static bool has_inner_space(std::string_view token) { return word_end(token, 0) < token.size(); }

  int32_t text_id(std::string_view token) const {
    const int32_t id = vocab_.find(token);
    return id >= 0 && vocab_.is_text(id) ? id : -1;
  }

  void encode_word(std::string_view word, Merger& merger, std::vector<int32_t>& ids) const {
    merger.symbols.clear();
    for (size_t at = 0; at < word.size();) {
      const size_t begin = at;
      unicode::next(word, at);
      merger.add(uint32_t(begin), uint32_t(at - begin), text_id(word.substr(begin, at - begin)));
    }
    merger.run([&](const Symbol& a, const Symbol& b) -> Merged {
      const int32_t id = text_id(word.substr(a.begin, a.length + b.length));
      return {id, id < 0 ? 0.0 : -double(vocab_.score[size_t(id)])};
    });
    for (const Symbol& s : merger.symbols) {
      if (s.length == 0) continue;
      if (s.id >= 0) ids.push_back(s.id);
      else add_bytes(word.substr(s.begin, s.length), ids);
    }
  }

  void add_bytes(std::string_view text, std::vector<int32_t>& ids) const {
    const bool all = std::all_of(text.begin(), text.end(), [this](char c) { return byte_[static_cast<unsigned char>(c)] >= 0; });
    require(all || vocab_.unknown >= 0, "tokenizer: '", text, "' is not in the vocabulary, which has neither its bytes nor an unknown token");
    if (!all) return ids.push_back(vocab_.unknown);
    for (const char c : text) ids.push_back(byte_[static_cast<unsigned char>(c)]);
  }

  std::array<int32_t, 256> byte_;
  bool words_are_apart_ = true;
};

}  // namespace

std::unique_ptr<Tokenizer> make_spm(Vocab vocab, const std::string& source) { return std::make_unique<Spm>(std::move(vocab), source); }

}  // namespace kvt
