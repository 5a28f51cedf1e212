// What every model offers, whatever it computes: its parameters and its linear layers by name. Adapters (engine/adapter.h) and
// training (engine/train.h) ask for no more.
#pragma once
#include <functional>

#include "models/layers.h"

namespace kvt {

class Model {
 public:
  virtual ~Model() = default;
  virtual const std::string& architecture() const = 0;      // GGUF's general.architecture
  virtual int64_t layers() const = 0;                        // blocks
  virtual int64_t channels() const = 0;                      // of the states between them
  virtual void each_parameter(const std::function<void(const std::string& name, Parameter&)>& f) = 0;
  virtual void each_linear(const std::function<void(const std::string& name, Linear&)>& f) = 0;   // "blk.0.attn_q"

  // Of an encoder, or an encoder and decoder, whose adapters are made from its inputs (models/kvt.h): what they know in a pass with these embeddings
  // [B, T, C], of which row b has the first lengths[b] (all, if empty); a decoder's are of B translations of the sentences of the pass `source`.
  // Language models are wrapped in place of that (KvtLm), since what they know of earlier tokens lies in their cache.
  std::function<AdapterPass(const Tensor& embeddings, const std::vector<int32_t>& lengths, const AdapterPass* source)> adapter_pass;

 protected:
  AdapterPass pass_with(const Tensor& embeddings, const std::vector<int32_t>& lengths = {}, const AdapterPass* source = nullptr) const {
    return adapter_pass ? adapter_pass(embeddings, lengths, source) : AdapterPass::current();
  }
};

}  // namespace kvt
