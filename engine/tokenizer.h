// Text ↔ token ids, from the metadata of a GGUF file.
//
//   tokenizer.ggml.model   llama = SentencePiece-style BPE by score (SPM)    spm.cpp
//                          gpt2  = byte-level BPE by merge rank              bpe.cpp, pre-tokenizers in pretokenize.cpp
//                          bert  = WordPiece                                 wordpiece.cpp
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/gguf.h"

namespace kvt {

// The vocabulary and the special ids; shared by all models of tokenization.
struct Vocab {
  enum class Kind : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };   // tokenizer.ggml.token_type

  // Hashes a std::string_view as the std::string of its characters, so that look-ups copy nothing.
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };

  std::vector<std::string> text;            // as stored: SPM's ▁, BPE's byte letters, WordPiece's forms
  std::vector<float> score;                 // empty if the file has none
  std::vector<Kind> kind;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> id;      // of a text stored twice, the first
  int32_t bos = -1, eos = -1, eot = -1, eom = -1, unknown = -1, separator = -1, padding = -1, cls = -1, mask = -1;
  bool add_bos = false, add_eos = false;
  bool add_space_prefix = false;            // a text begins with a space that decoding takes away again

  // Lists and ids that every model of tokenization shares. Throws an Error naming file, key and value.
  static Vocab from(const Gguf& gguf);

  int32_t size() const { return int32_t(text.size()); }
  int32_t find(std::string_view token) const;                              // −1 if there is none
  // Such a token stands for text; control tokens, whatever their spelling, do not.
  bool is_text(int32_t id) const {
    const Kind k = kind[size_t(id)];
    return k == Kind::normal || k == Kind::user_defined || k == Kind::unused;
  }
};

class Tokenizer {
 public:
  // Throws for an unknown model or pre-tokenizer, saying which keys to change and what is known.
  static std::unique_ptr<Tokenizer> from(const Gguf& gguf);
  virtual ~Tokenizer() = default;

  struct Options {
    bool add_special = true;       // BOS/EOS (CLS/SEP) as the file asks
    bool parse_special = true;     // "<|im_start|>" in the text is that token, not its letters
  };
  // User-defined tokens are found in the text in any case, the longest first.
  std::vector<int32_t> encode(std::string_view text, Options options) const;
  std::vector<int32_t> encode(std::string_view text) const { return encode(text, Options()); }

  // The text of ids; control tokens are left out unless asked for. decode(encode(text)) == text for SPM and byte-level BPE whose
  // vocabulary has every byte.
  std::string decode(const std::vector<int32_t>& ids, bool control = false) const;
  // The bytes of one token as it continues a text (for streaming: may be part of a UTF-8 character).
  std::string piece(int32_t id, bool control = false) const;

  const Vocab& vocab() const { return vocab_; }
  bool ends_generation(int32_t id) const;      // EOS, end of turn, end of message

 protected:
  explicit Tokenizer(Vocab vocab);
  // Ids of a text without special tokens; `first` = nothing, or a special token, stands before it.
  virtual void encode_text(std::string_view text, bool first, std::vector<int32_t>& ids) const = 0;
  virtual std::string piece_text(int32_t id) const = 0;       // of a token that is normal, unused or a byte

  Vocab vocab_;

 private:
  int32_t find_special(std::string_view text, bool parse_special) const;

  std::vector<int32_t> specials_;              // by text
  std::array<bool, 256> special_starts_{};     // their first bytes
  std::vector<int32_t> ends_;
};

// The keys of a file's tokenizer alone, as the beginning of another file.
Gguf tokenizer_of(const Gguf& file);

}  // namespace kvt
