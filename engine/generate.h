// Running a language model: a session holds one sequence and its cache; generate() extends it token by token.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "engine/tokenizer.h"
#include "models/causal_lm.h"

namespace kvt {

// One sequence being read and written. Sessions share a model; each is used by one thread at a time.
class Session {
 public:
  struct Options {
    int64_t context = 0;               // the most tokens it can hold; 0 = what the model was trained on, at most 4096
    DType cache = DType::F16;          // element type of keys and values: F32, F16, or Q8_0 where heads are of a multiple of 32
    int64_t batch = 512;               // tokens of a prompt computed at once: more is faster and takes more memory
  };

  Session(const CausalLm& model, Options options);

  // Reads `ids` behind what is there and returns the next token's scores [V], valid until the next call.
  // Throws when they do not fit; ids must lie in the vocabulary.
  std::span<const float> evaluate(std::span<const int32_t> ids);
  // Forgets all behind the first `length` tokens.
  void truncate(int64_t length);
  // From here on tokens are read by `model`, which must outlive the session: the same, with other adapters. What was read stays as it was
  // computed. Throws (Trouble::unsupported) unless its cache has the form of the one there is.
  void use(const CausalLm& model);
  bool fits(const CausalLm& model) const;
  // Puts scores where `other`, a session on the same base, has its own: who looks at those looks at these.
  void share_scores(const Session& other) { logits_ = other.logits_; }
  // Told, amid evaluate(), how many of the tokens it was given are read.
  void on_progress(std::function<void(int64_t done, int64_t total)> progress) { progress_ = std::move(progress); }

  const std::vector<int32_t>& tokens() const { return tokens_; }
  std::span<const float> scores() const { return logits_.values(); }      // what evaluate() returned last; only after it
  int64_t context() const { return cache_.capacity(); }
  int64_t room() const { return cache_.capacity() - cache_.length(); }
  int64_t cache_bytes() const { return cache_.bytes(); }

 private:
  const CausalLm* model_;
  Options options_;
  KvCache cache_;
  Arena arena_;
  Tensor logits_;
  std::vector<int32_t> tokens_;
  std::function<void(int64_t, int64_t)> progress_;
};

enum class Stop { end_token, length, context_full, cancelled };

struct Generation {
  std::vector<int32_t> ids;              // without the token that ended it
  Stop stop = Stop::length;
  int32_t unread = -1;                   // chosen last and not read by the session: the end token, or the last of ids; −1 = none
  int64_t prompt_tokens = 0;
  double prompt_seconds = 0, seconds = 0;    // reading the prompt; writing
};

// Reads `prompt`, then writes up to `most` tokens (−1 = until the end or the context is full). on_token gets each as it is chosen
// and returns false to stop.
Generation generate(Session& session, const Tokenizer& tokenizer, std::span<const int32_t> prompt, int64_t most, Sampler& sampler,
                    const std::function<bool(int32_t)>& on_token, bool ignore_end = false);

// Joins pieces of tokens and releases whole UTF-8 characters only, so that a stream never shows half of one.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);     // what is complete now
  std::string finish();                         // the rest, whatever it is

 private:
  std::string pending_;
};

}  // namespace kvt
