#include "tensor/random.h"

#include <bit>
#include <cmath>

namespace kvt {

Rng::Rng(uint64_t seed) {
  for (uint64_t& word : state_) {
    uint64_t z = (seed += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    word = z ^ (z >> 31);
  }
}

uint64_t Rng::next() {
  auto& s = state_;
  const uint64_t result = std::rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = std::rotl(s[3], 45);
  return result;
}

uint64_t Rng::below(uint64_t n) {
  require(n > 0, "random: below(0)");
  const uint64_t limit = UINT64_MAX - UINT64_MAX % n;     // reject the incomplete last cycle
  for (;;)
    if (const uint64_t x = next(); x < limit) return x % n;
}

float Rng::uniform() { return float(next() >> 40) * 0x1p-24f; }

float Rng::normal() {
  for (;;) {
    const double u = double(next() >> 11) * 0x1p-52 - 1, v = double(next() >> 11) * 0x1p-52 - 1, s = u * u + v * v;
    if (s > 0 && s < 1) return float(u * std::sqrt(-2 * std::log(s) / s));
  }
}

Tensor randn(const Shape& shape, Rng& rng, float std) {
  Tensor t(shape);
  for (float& x : t.values()) x = std * rng.normal();
  return t;
}

Tensor rand_uniform(const Shape& shape, Rng& rng, float low, float high) {
  Tensor t(shape);
  for (float& x : t.values()) x = low + (high - low) * rng.uniform();
  return t;
}

}  // namespace kvt
