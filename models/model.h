// What every model offers, whatever it computes: its parameters and its linear layers by name. Adapters (engine/adapter.h) and
// training (engine/train.h) ask for no more.
#pragma once
#include <functional>
#include <string>
#include <utility>

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

// Of a linear layer that a model has:  "blk.3.attn_q", "enc.blk.3.attn_q" → 3 and "attn_q"; −1 and the whole name outside of the blocks
inline std::pair<int64_t, std::string> block_and_name(const std::string& layer) {
  const size_t side = layer.starts_with("enc.") || layer.starts_with("dec.") ? 4 : 0, number = side + 4, dot = layer.find('.', number);
  if (layer.compare(side, 4, "blk.") != 0 || dot == std::string::npos) return {-1, layer};
  return {std::stoll(layer.substr(number, dot - number)), layer.substr(dot + 1)};
}

}  // namespace kvt
