// Reference kernels of attention: contracts in ops/kernels.h, the driver in ops/attention.cpp.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/kernels.h"
#include "ops/quant.h"

namespace kvt {

using kernel::Ahead;
using kernel::Seen;

static constexpr float infinity = std::numeric_limits<float>::infinity();

static void pack_reference(float* y, int64_t lanes, const float* x, int64_t ldx, int64_t rows, int64_t D, float scale) {
  for (int64_t d = 0; d < D; ++d)
    for (int64_t r = 0; r < lanes; ++r) y[d * lanes + r] = r < rows ? scale * x[r * ldx + d] : 0;
}

static void scores_reference(float* s, float* top, const float* q, int64_t lanes, const float* k, int64_t ldk, int64_t keys, int64_t D, const Seen* seen) {
  for (int64_t j = 0; j < keys; ++j)
    for (int64_t r = 0; r < lanes; ++r) {
      float total = 0;
      for (int64_t d = 0; d < D; ++d) total += q[d * lanes + r] * k[j * ldk + d];
      if (seen && !(float(j) >= seen->from[r] && float(j) < seen->to[r])) total = -infinity;
      s[j * lanes + r] = total;
      top[r] = std::max(top[r], total);
    }
}

static float number(float x) { return x; }
static float number(uint16_t x) { return f16_to_f32(x); }

template <class Number>
static void dots_reference(float* s, float* top, const float* q, int64_t rows, const Number* k, int64_t ldk, int64_t keys, int64_t D, const Ahead*) {
  for (int64_t j = 0; j < keys; ++j)
    for (int64_t r = 0; r < 4; ++r) {
      float total = 0;
      for (int64_t d = 0; r < rows && d < D; ++d) total += q[r * D + d] * number(k[j * ldk + d]);
      s[j * 4 + r] = total;
      top[r] = std::max(top[r], total);
    }
}

static void softmax_reference(float* s, float* m, float* l, float* fix, const float* top, int64_t lanes, int64_t keys) {
  const auto power = [](float y) { return y < -126.5f ? 0 : std::exp2(y); };
  for (int64_t r = 0; r < lanes; ++r) {
    const bool nothing = top[r] == -infinity;               // no key seen so far: −∞ − −∞ is no number
    fix[r] = nothing ? 1 : power(m[r] - top[r]);
    l[r] *= fix[r];
    for (int64_t j = 0; j < keys; ++j) {
      float& p = s[j * lanes + r];
      p = nothing ? 0 : power(p - top[r]);
      l[r] += p;
    }
    m[r] = top[r];
  }
}

template <class Number>
static void values_reference(float* o, int64_t ldo, const float* keep, const float* share, const float* p, int64_t lanes, const Number* v, int64_t ldv,
                             int64_t rows, int64_t keys, int64_t D, const Ahead*) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t d = 0; d < D; ++d) {
      float total = 0;
      for (int64_t j = 0; j < keys; ++j) total += p[j * lanes + r] * number(v[j * ldv + d]);
      float& to = o[r * ldo + d];
      to = (share ? share[r] : 1) * ((keep ? keep[r] * to : 0) + total);
    }
}

namespace kernel {
Kernel<void(float*, int64_t, const float*, int64_t, int64_t, int64_t, float)> attention_pack("attention_pack", pack_reference);
Kernel<void(float*, float*, const float*, int64_t, const float*, int64_t, int64_t, int64_t, const Seen*), Panel> attention_scores("attention_scores", scores_reference,
                                                                                                                      {4, 32, 1, 64});
Kernel<AttentionDots<float>> attention_dots_f32("attention_dots_f32", dots_reference<float>);
Kernel<AttentionDots<uint16_t>> attention_dots_f16("attention_dots_f16", dots_reference<uint16_t>);
Kernel<void(float*, float*, float*, float*, const float*, int64_t, int64_t)> attention_softmax("attention_softmax", softmax_reference);
Kernel<AttentionValues<float>> attention_values_f32("attention_values_f32", values_reference<float>);
Kernel<AttentionValues<uint16_t>> attention_values_f16("attention_values_f16", values_reference<uint16_t>);
}  // namespace kernel
}  // namespace kvt
