// Training data: lines of JSON, and plain text, as examples and batches.
#include "engine/text_data.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/vocabularies.h"

using namespace kvt;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tokenizer = Tokenizer::from(fuzz::bpe_vocabulary("gpt-2"));
  if (size == 0) return 0;
  const std::string_view text = fuzz::text(data + 1, size - 1);
  Examples examples(1 + data[0] % 32);
  fuzz::works_or_refuses([&] { add_pairs(examples, *tokenizer, text, "f.jsonl"); });
  if (examples.size() == 0) examples.add_text(tokenizer->encode(text, {.add_special = false, .parse_special = false}));
  fuzz::works_or_refuses([&] {
    const Examples held_out = examples.split(0.25);
    BatchOrder order(examples.size(), 3, data[0]);
    for (int64_t i = 0; i <= order.batches(); ++i) {
      const Batch b = examples.batch(order.next());
      fuzz::expect(b.T <= examples.length() && int64_t(b.tokens.size()) == b.B * b.T && b.labels.size() == b.tokens.size(), "a batch of another shape");
      for (const int32_t label : b.labels) fuzz::expect(label == ignored_label || (label >= 0 && label < tokenizer->vocab().size()), "a label outside of the vocabulary");
    }
  });
  return 0;
}
