// What the parts of attention have in common: the problem, who sees what, and rows of keys and values. The operation and its way of many queries are in
// ops/attention.cpp, that of few in ops/attention_few.cpp, backward in ops/attention_backward.cpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace kvt::attn {

constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

struct Problem {
  int64_t B, T, S, H, Hkv, D, G;                            // G = H/Hkv heads of queries share one of keys
  float scale;
  bool causal;
  std::vector<int32_t> lengths;
  int64_t window;

  // How many keys query t of batch row b sees: the first so many.
  int64_t limit(int64_t b, int64_t t) const {
    const int64_t keys = lengths.empty() ? S : lengths[size_t(b)];
    return causal ? std::clamp<int64_t>(S - T + t + 1, 0, keys) : keys;
  }
  // The first key of query t that the window leaves.
  int64_t first(int64_t t) const { return window > 0 ? std::max<int64_t>(0, S - T + t + 1 - window) : 0; }
  int64_t query(int64_t b, int64_t t, int64_t hk) const { return ((b * T + t) * H + hk * G) * D; }       // G heads of D numbers begin here
  int64_t key(int64_t b, int64_t j, int64_t hk) const { return ((b * S + j) * Hkv + hk) * D; }           // the next is Hkv D further
};

// K or V: rows of D numbers, `stride` apart, F32, F16 or Q8_0 (rows of whole blocks)
struct Rows {
  const Tensor& x;
  int64_t stride;
  bool half() const { return x.dtype() == DType::F16; }
  bool blocks() const { return x.dtype() == DType::Q8_0; }
  int64_t bytes(int64_t numbers) const { return byte_size(x.dtype(), numbers); }
  const void* at(int64_t i) const { return x.raw() + bytes(i); }
  const float* f32(int64_t i) const { return static_cast<const float*>(at(i)); }
  const uint16_t* f16(int64_t i) const { return static_cast<const uint16_t*>(at(i)); }
};

// Queries of one key/value head, gathered and scaled: rows (t, g) of D numbers.
inline void gather(float* y, const Problem& p, const float* q, int64_t b, int64_t hk, int64_t t0, int64_t t1, float s) {
  for (int64_t t = t0; t < t1; ++t)
    for (int64_t i = 0; i < p.G * p.D; ++i) *y++ = s * q[p.query(b, t, hk) + i];
}

// Which keys some queries see of n keys from j on: query r is number t(r).
template <class Query>
void look(float* from, float* to, int64_t lanes, const Problem& p, int64_t b, int64_t j, int64_t n, Query t) {
  for (int64_t r = 0; r < lanes; ++r) {
    from[r] = float(std::clamp<int64_t>(p.first(t(r)) - j, 0, n));
    to[r] = float(std::clamp<int64_t>(p.limit(b, t(r)) - j, 0, n));
  }
}

// −∞ for the scores s [keys, 4] of attention_dots that four queries do not see, and `top` anew: the largest of the others and of `before`.
void hide(float* s, float* top, const float* before, int64_t keys, const float* from, const float* to);

// Few queries wait for their keys, more have work for each. lse [B, Hkv, T, G] may be null.
constexpr int64_t few_rows = 16;                            // T G; up to here a panel has too many empty lanes
struct Sequences { float *y, *lse; const float* q; Rows k, v; };      // p.B of them; lse may be null
void forward_few(const Problem& p, std::span<const Sequences> all);

// All that flows back through one key/value head. Each gradient may be null; dk and dv as k and v.
void backward(float* dq, float* dk, float* dv, const Problem& p, const float* q, const float* k, const float* v, const float* y, const float* dy,
              const float* lse, int64_t b, int64_t hk);

}  // namespace kvt::attn
