#include "engine/text_data.h"

namespace kvt {

void add_text(Examples& data, const Tokenizer& tokenizer, std::string_view text) {
  data.add_text(tokenizer.encode(text, {.add_special = false, .parse_special = false}));
}

void add_pair(Examples& data, const Tokenizer& tokenizer, std::string_view prompt, std::string_view completion) {
  const Vocab& vocab = tokenizer.vocab();
  Ids ids = tokenizer.encode(prompt, {.add_special = false, .parse_special = true});
  if (vocab.add_bos && vocab.bos >= 0) ids.insert(ids.begin(), vocab.bos);
  const Ids learned = tokenizer.encode(completion, {.add_special = false, .parse_special = true});
  require(!learned.empty(), "the completion is empty");
  data.add_pair(ids, learned, vocab.eos);
}

}  // namespace kvt
