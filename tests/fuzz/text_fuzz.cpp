// Text of any bytes through whole vocabularies: the first byte chooses one. Where every byte has a token, decoding gives the text again.
#include "engine/generate.h"
#include "engine/pretokenize.h"
#include "engine/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/vocabularies.h"

using namespace kvt;

static std::vector<std::unique_ptr<Tokenizer>> tokenizers() {
  std::vector<std::unique_ptr<Tokenizer>> all;
  for (const char* pre : fuzz::pre_tokenizers) all.push_back(Tokenizer::from(fuzz::bpe_vocabulary(pre)));
  for (const bool inner : {false, true}) all.push_back(Tokenizer::from(fuzz::spm_vocabulary(inner)));
  all.push_back(Tokenizer::from(fuzz::wordpiece_vocabulary()));
  return all;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto all = tokenizers();
  if (size == 0) return 0;
  const size_t which = data[0] % all.size(), bpes = std::size(fuzz::pre_tokenizers);
  const Tokenizer& tokenizer = *all[which];
  const std::string_view text = fuzz::text(data + 1, size - 1);

  if (which < bpes) {
    std::vector<std::string_view> words;
    PreTokenizer::named(fuzz::pre_tokenizers[which], "f").split(text, words);
    std::string joined;
    for (const std::string_view word : words) joined += word;
    fuzz::expect(joined == text, "the words of a text are not the text");
  }
  for (const bool special : {true, false}) {
    const std::vector<int32_t> ids = tokenizer.encode(text, {.add_special = special, .parse_special = special});
    for (const int32_t id : ids) fuzz::expect(id >= 0 && id < tokenizer.vocab().size(), "an id outside of the vocabulary");
    const std::string back = tokenizer.decode(ids, false);
    const bool whole = which < bpes || (which < bpes + 2 && text.find("\u2581") == std::string_view::npos);
    fuzz::expect(special || !whole || back == text, "decode(encode(text)) is not the text");
    Utf8Stream stream;
    std::string streamed, pieces;
    for (const int32_t id : ids) streamed += stream.push(tokenizer.piece(id)), pieces += tokenizer.piece(id);
    fuzz::expect(streamed + stream.finish() == pieces, "a stream of pieces is not their text");
  }
  return 0;
}
