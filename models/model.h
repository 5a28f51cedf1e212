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
  virtual void each_parameter(const std::function<void(const std::string& name, Parameter&)>& f) = 0;
  virtual void each_linear(const std::function<void(const std::string& name, Linear&)>& f) = 0;   // "blk.0.attn_q"
};

}  // namespace kvt
