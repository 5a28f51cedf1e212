// A language model with random weights, as the file it would be read from: metadata under the keys of its architecture and one tensor
// for each weight, for training from scratch.
//
//   matrices        N(0, 0.02²);  those that add to the residual stream N(0, 0.02² / 2L)      (Radford et al. 2019, section 2.3)
//   norms 1, biases 0
#pragma once
#include "engine/gguf.h"
#include "tensor/random.h"

namespace kvt {

struct NewModel {
  std::string architecture = "gpt2";        // gpt2 or llama
  int64_t vocabulary = 0, channels = 0, layers = 0, heads = 0, kv_heads = 0, hidden = 0, context = 0;
  bool tied_output = true;                  // the output matrix is the embedding
};

// Sets the keys and adds the tensors to `gguf`, which may hold a tokenizer already. Throws an Error naming the value that no model can have.
void add_random_model(Gguf& gguf, const NewModel& shape, Rng& rng);

}  // namespace kvt
