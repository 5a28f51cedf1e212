// Banks as files: LoRA adapters of several domains in one GGUF (models/bank.h).
//
//   general.type "adapter"    general.architecture, kvt.base.fingerprint: the base's    adapter.type "kvt-bank"
//   kvt.bank.domains string[]     kvt.bank.alphas f32[]: adapter.lora.alpha of each
//   tensors: <domain>:<base tensor>.lora_a, .lora_b   as in the domain's adapter, and <domain>:center c [C]
//
// Adding and removing copy what the others have byte for byte.
#pragma once
#include "engine/gguf.h"
#include "models/bank.h"

namespace kvt {

struct Domain { std::string name; float alpha; int64_t layers, bytes; };      // layers adapted; bytes of its tensors
// Throws an Error naming the file unless it is a bank whose keys agree with one another.
std::vector<Domain> bank_domains(const Gguf& bank);

// `bank` (null = a new one) with the LoRA adapter of `adapter` as domain `name`, whose text has the mean embedding `center` [C]. Throws for
// a name that is taken or is not made of 1 to 16 letters, digits, '-' and '_', and for an adapter of another base or another kind.
Gguf bank_with(const Gguf* bank, const std::string& name, const Gguf& adapter, const Tensor& center);
// Throws when there is no such domain, or no other.
Gguf bank_without(const Gguf& bank, const std::string& name);

// Attaches all domains to `model`, to be run through BankLm. Throws as load_adapter does.
struct LoadedBank {
  std::shared_ptr<Bank> bank;
  std::vector<std::shared_ptr<BankAdapter>> adapters;
};
LoadedBank load_bank(CausalLm& model, const Gguf& file, float scale, const std::string& base, bool any_base = false);

}  // namespace kvt
