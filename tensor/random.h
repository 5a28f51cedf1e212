// Seeded random numbers: xoshiro256** (Blackman and Vigna 2018), seeded through splitmix64. The same seed gives the same
// numbers on every machine; the state can be stored and restored.
#pragma once
#include <array>
#include <cstdint>

#include "tensor/tensor.h"

namespace kvt {

class Rng {
 public:
  using State = std::array<uint64_t, 4>;

  explicit Rng(uint64_t seed = 0);

  uint64_t next();                          // 64 random bits
  uint64_t below(uint64_t n);               // uniform in [0, n), without bias; n > 0
  float uniform();                          // uniform in [0, 1), 24 bits
  float normal();                           // N(0, 1) by the polar method

  const State& state() const { return state_; }
  void set_state(const State& s) { state_ = s; }

 private:
  State state_;
};

Tensor randn(const Shape& shape, Rng& rng, float std = 1.f);                  // N(0, std²)
Tensor rand_uniform(const Shape& shape, Rng& rng, float low, float high);     // U[low, high)

}  // namespace kvt
