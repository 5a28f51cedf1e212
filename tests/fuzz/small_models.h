// The smallest models of every architecture, in memory: bases for adapters, and seeds.
#pragma once
#include "tests/small_llama.h"

namespace kvt::fuzz {

constexpr const char* adapter_base_id = "0123456789abcdef";
inline SmallLlama adapter_base() { return {.layers = 2, .channels = 8, .hidden = 8, .heads = 2, .kv_heads = 1, .vocabulary = 300}; }

}  // namespace kvt::fuzz
