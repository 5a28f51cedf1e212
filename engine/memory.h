// How much memory a model and a session on it take, told from the file's header before anything is allocated.
#pragma once
#include "engine/gguf.h"
#include "models/bert.h"
#include "models/causal_lm.h"

namespace kvt {

int64_t tokenizer_bytes(const Gguf& gguf);                                                  // the vocabulary in its forms, and look-up tables: an estimate
int64_t cache_bytes(const LmConfig& config, int64_t context, DType dtype);                  // keys and values of one sequence
// Results that exist at once while a prompt is read `batch` tokens at a time and then continued; at most, without adapters.
int64_t work_bytes(const LmConfig& config, int64_t batch);
int64_t work_bytes(const BertConfig& config, int64_t texts, int64_t tokens);                // while so many texts of so many tokens are encoded

}  // namespace kvt
