// Checkpoints of a run that trains two tensors. Mutations mend the checksum, without which nothing else would be reached.
#include "engine/checkpoint.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/gguf_mutator.h"
#include "tests/fuzz/training_run.h"

using namespace kvt;

static void mend(fuzz::RawGguf& file) {
  const auto found = std::find_if(file.keys.begin(), file.keys.end(), [](const auto& key) { return key.name == "kvt.checkpoint.checksum"; });
  if (found == file.keys.end() || found->value.size() != 8) return;
  const std::string bytes = file.write();
  try {
    const uint64_t sum = checkpoint_checksum(Gguf::parse(Storage::borrow(const_cast<char*>(bytes.data()), bytes.size(), false), "mutated"));
    std::memcpy(found->value.data(), &sum, sizeof sum);
  } catch (const Error&) {
  }
}

KVT_GGUF_MUTATOR(mend)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::TrainingRun run;
  fuzz::works_or_refuses([&] {
    const Gguf file = Gguf::parse(fuzz::storage(data, size), "f.checkpoint");
    TrainState state;
    state.step = -5;
    try {
      read_checkpoint(file, state, run.trained, run.identity);
    } catch (const Error&) {
      fuzz::expect(state.step == -5 && state.moments.empty(), "a refused checkpoint has changed the state");
      throw;
    }
    fuzz::expect(state.moments.size() == run.trained.size() && state.step >= 0, "an incomplete state");
    BatchOrder order(10, 3, 1);
    order.seek(state.position);
    order.next();
  });
  return 0;
}
