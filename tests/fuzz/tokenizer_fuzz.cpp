// Tokenizer tables: a vocabulary as a model's file has it, then texts through it. One text is the file's own, under the key fuzz.text.
#include "engine/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/gguf_mutator.h"

using namespace kvt;

KVT_GGUF_MUTATOR(nullptr)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::works_or_refuses([&] {
    const Gguf file = Gguf::parse(fuzz::storage(data, size), "f.gguf");
    const auto tokenizer = Tokenizer::from(file);
    const int32_t n = tokenizer->vocab().size();
    for (const std::string& text : {file.string("fuzz.text", ""), std::string("Hello  World's <s>12345\n\n \xff\xe2\x96\x81naïve 漢字 <unk>")})
      for (const bool special : {false, true})
        fuzz::works_or_refuses([&] {
          const std::vector<int32_t> ids = tokenizer->encode(text, {.add_special = special, .parse_special = special});
          for (const int32_t id : ids) fuzz::expect(id >= 0 && id < n, "an id outside of the vocabulary");
          tokenizer->decode(ids, special);
        });
    for (int32_t id = 0; id < std::min(n, 64); ++id) {
      tokenizer->piece(id, true);
      tokenizer->ends_generation(id);
    }
  });
  return 0;
}
