// GGUF: the reader, look-ups of every key under every type, and the check of all numbers.
#include "engine/fingerprint.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/gguf_mutator.h"

using namespace kvt;

KVT_GGUF_MUTATOR(nullptr)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::works_or_refuses([&] {
    const Gguf file = Gguf::parse(fuzz::storage(data, size), "f.gguf");
    for (const Gguf::Key& key : file.keys()) fuzz::expect(file.find(key.name) == &key.value, "a key is not found by its name");
    if (!file.keys().empty()) {                          // exceptions take most of an input's time: the last key alone is asked for as what it may not be
      const std::string& key = file.keys().back().name;
      fuzz::works_or_refuses([&] { file.integer(key); });
      fuzz::works_or_refuses([&] { file.real(key); });
      fuzz::works_or_refuses([&] { file.boolean(key, true); });
      fuzz::works_or_refuses([&] { file.string(key); });
      fuzz::works_or_refuses([&] { file.array<float>(key); });
      fuzz::works_or_refuses([&] { file.array<std::string>(key); });
    }
    uint64_t end = 0;
    for (const Gguf::Entry& e : file.tensors()) {
      fuzz::expect(file.find_tensor(e.name).raw() == e.tensor.raw(), "a tensor is not found by its name");
      fuzz::expect(e.offset >= end && e.offset + uint64_t(e.tensor.bytes()) <= size, "tensors overlap, or leave the file");
      fuzz::expect(e.offset % file.alignment() == 0, "a tensor is not aligned");
      end = e.offset + uint64_t(e.tensor.bytes());
    }
    fingerprint(file);
    tokenizer_of(file);
    file.check_tensors();
  });
  return 0;
}
