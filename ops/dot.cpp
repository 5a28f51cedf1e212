// Dot products of the rows of a weight matrix with one vector, and y += a x: what decoding one token is made of.
#include "ops/kernels.h"
#include "ops/quant.h"

namespace kvt {

static void dot_f32_reference(float* y, const float* w, int64_t stride, const float* x, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, w += stride) {
    float total = 0;
    for (int64_t i = 0; i < n; ++i) total += w[i] * x[i];
    y[r] = total;
  }
}

static void dot_f16_reference(float* y, const uint16_t* w, int64_t stride, const float* x, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, w += stride) {
    float total = 0;
    for (int64_t i = 0; i < n; ++i) total += f16_to_f32(w[i]) * x[i];
    y[r] = total;
  }
}

static void dot_bf16_reference(float* y, const uint16_t* w, int64_t stride, const float* x, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, w += stride) {
    float total = 0;
    for (int64_t i = 0; i < n; ++i) total += bf16_to_f32(w[i]) * x[i];
    y[r] = total;
  }
}

namespace kernel {
Kernel<void(float*, const float*, int64_t, const float*, int64_t, int64_t)> dot_f32("dot_f32", dot_f32_reference);
Kernel<void(float*, const uint16_t*, int64_t, const float*, int64_t, int64_t)> dot_f16("dot_f16", dot_f16_reference);
Kernel<void(float*, const uint16_t*, int64_t, const float*, int64_t, int64_t)> dot_bf16("dot_bf16", dot_bf16_reference);
}  // namespace kernel
}  // namespace kvt
