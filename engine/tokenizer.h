// Text ↔ token ids, from the metadata of a GGUF file.
//
//   tokenizer.ggml.model   llama = SentencePiece-style BPE by score (SPM)    spm.cpp
//                          gpt2  = byte-level BPE by merge rank              bpe.cpp, pre-tokenizers in pretokenize.cpp
//                          bert  = WordPiece                                 wordpiece.cpp
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/gguf.h"

namespace kvt {

// The vocabulary and the special ids; shared by all models of tokenization.
struct Vocab {
  enum class Kind : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };   // tokenizer.ggml.token_type

  std::vector<std::string> text;            // as stored: SPM's ▁, BPE's byte letters, WordPiece's forms
  std::vector<float> score;
  std::vector<Kind> kind;
  std::unordered_map<std::string, int32_t> id;
  int32_t bos = -1, eos = -1, eot = -1, unknown = -1, separator = -1, padding = -1, cls = -1, mask = -1;
  bool add_bos = false, add_eos = false, add_space_prefix = true;

  int32_t size() const { return int32_t(text.size()); }
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
  std::vector<int32_t> encode(std::string_view text, Options options) const;
  std::vector<int32_t> encode(std::string_view text) const { return encode(text, Options()); }

  // The text of ids; control tokens are left out unless asked for. decode(encode(text)) == text for SPM and byte-level BPE.
  std::string decode(const std::vector<int32_t>& ids, bool control = false) const;
  // The bytes of one token as it continues a text (for streaming: may be part of a UTF-8 character).
  std::string piece(int32_t id, bool control = false) const;

  const Vocab& vocab() const { return vocab_; }
  bool ends_generation(int32_t id) const;      // EOS, end of turn, end of message

 protected:
  explicit Tokenizer(Vocab vocab);
  // Ids of a text without special tokens; `first` = nothing stands before it.
  virtual void encode_text(std::string_view text, bool first, std::vector<int32_t>& ids) const = 0;
  virtual std::string piece_text(int32_t id) const = 0;
  // What joins pieces to a text, undone at its start (SPM's added space).
  virtual std::string finish(std::string text) const { return text; }
  virtual int32_t begin_id() const { return vocab_.bos; }
  virtual int32_t end_id() const { return vocab_.eos; }

  Vocab vocab_;

 private:
  struct Special { std::string text; int32_t id; };
  std::vector<Special> specials_;              // longest first
};

}  // namespace kvt
