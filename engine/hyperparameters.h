// Hyperparameters of a GGUF file, each checked against a range that no real model leaves; errors name file and key.
#pragma once
#include <cmath>
#include <string>

#include "engine/gguf.h"

namespace kvt {

// Reads `<architecture>.<key>` and checks it against a range that no real model leaves.
class Hyperparameters {
 public:
  explicit Hyperparameters(const Gguf& gguf) : gguf_(gguf), architecture_(gguf.string("general.architecture")) {}

  const std::string& architecture() const { return architecture_; }
  std::string key(const char* name) const { return architecture_ + "." + name; }

  int64_t count(const char* name, int64_t most) const { return checked(name, gguf_.integer(key(name)), most); }
  int64_t count(const char* name, int64_t most, int64_t fallback) const { return checked(name, gguf_.integer(key(name), fallback), most); }
  float positive(const char* name, double fallback) const {
    const double x = gguf_.real(key(name), fallback);
    require(std::isfinite(x) && x > 0, gguf_.path(), ": key '", key(name), "' is ", x, ", expected a positive number");
    return float(x);
  }
  void absent(const char* name, const char* what) const {
    const Gguf::Value* value = gguf_.find(key(name));
    require(!value || gguf_.integer(key(name)) == 0, gguf_.path(), ": key '", key(name), "' asks for ", what, ", which this engine does not compute");
  }

 private:
  int64_t checked(const char* name, int64_t n, int64_t most) const {
    require(n >= 1 && n <= most, gguf_.path(), ": key '", key(name), "' is ", n, ", expected 1 to ", most);
    return n;
  }

  const Gguf& gguf_;
  std::string architecture_;
};

}  // namespace kvt
