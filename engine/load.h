// Architecture name → model: the one list of what the engine runs.
#pragma once
#include <memory>

#include "engine/gguf.h"
#include "models/causal_lm.h"

namespace kvt {

// The language model in `gguf`, sharing its bytes. Throws an Error naming file and key or tensor: unknown architecture (with the
// list of known ones), hyperparameters that contradict each other or the tensors, features this engine does not compute.
std::unique_ptr<CausalLm> load_model(const Gguf& gguf);

}  // namespace kvt
