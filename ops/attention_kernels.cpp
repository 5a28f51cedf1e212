// Reference kernels of attention: contracts in ops/kernels.h, the driver in ops/attention.cpp.
#include <algorithm>
#include <cmath>

#include "ops/kernels.h"

namespace kvt {

static void scores_reference(float* s, int64_t lds, const float* q, int64_t ldq, const float* kt, int64_t rows, int64_t cols, int64_t D) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < cols; ++j) {
      float total = 0;
      for (int64_t d = 0; d < D; ++d) total += q[r * ldq + d] * kt[d * cols + j];
      s[r * lds + j] = total;
    }
}

static void softmax_reference(float* s, int64_t lds, float* m, float* l, float* fix, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r, s += lds) {
    float top = m[r];
    for (int64_t j = 0; j < cols; ++j) top = std::max(top, s[j]);
    const bool nothing = std::isinf(top) && top < 0;                  // no key seen so far: −∞ − −∞ is no number
    fix[r] = nothing ? 1 : std::exp(m[r] - top);
    l[r] *= fix[r];
    for (int64_t j = 0; j < cols; ++j) l[r] += s[j] = nothing ? 0 : std::exp(s[j] - top);
    m[r] = top;
  }
}

static void values_reference(float* o, int64_t ldo, const float* s, int64_t lds, const float* v, int64_t ldv, const float* fix, int64_t rows, int64_t cols,
                             int64_t D) {
  for (int64_t r = 0; r < rows; ++r, o += ldo, s += lds) {
    for (int64_t d = 0; d < D; ++d) o[d] *= fix[r];
    for (int64_t j = 0; j < cols; ++j)
      for (int64_t d = 0; d < D; ++d) o[d] += s[j] * v[j * ldv + d];
  }
}

namespace kernel {
Kernel<void(float*, int64_t, const float*, int64_t, const float*, int64_t, int64_t, int64_t)> attention_scores("attention_scores", scores_reference);
Kernel<void(float*, int64_t, float*, float*, float*, int64_t, int64_t)> attention_softmax("attention_softmax", softmax_reference);
Kernel<void(float*, int64_t, const float*, int64_t, const float*, int64_t, const float*, int64_t, int64_t, int64_t)> attention_values("attention_values", values_reference);
}  // namespace kernel
}  // namespace kvt
