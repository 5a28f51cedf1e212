// Block formats of quantized weights, as GGUF stores them.
//
// A row of a quantized matrix is a sequence of blocks; each holds a scale d (and a minimum) as F16 and its numbers in few bits.
// Numbers are little-endian; "low/high" are the nibbles of a byte.
//
//   Q4_0    d, 16 bytes:            x_j = d (q_j − 8);     byte j holds q_j (low) and q_(j+16) (high)
//   Q4_1    d, m, 16 bytes:         x_j = d q_j + m
//   Q5_0    d, 4 bytes of fifth bits, 16 bytes:   x_j = d (q_j − 16);   bit j of the 32 is q_j's fifth
//   Q5_1    d, m, 4, 16 bytes:      x_j = d q_j + m
//   Q8_0    d, 32 signed bytes:     x_j = d q_j
//   IQ4_NL  d, 16 bytes:            x_j = d table[q_j], 16 levels placed where a bell curve has its mass
//   Q2_K … Q6_K   256 numbers in 8 or 16 sub-blocks, whose scales (and minima) are themselves quantized: see quant_k.cpp
#pragma once
#include <optional>

#include "ops/kernels.h"
#include "tensor/tensor.h"

namespace kvt {

// What can be done with a weight type. `dot_q8` is null for float types, `pack` for types the engine only reads.
struct WeightFormat {
  DType type;
  const Kernel<kernel::Unpack>* unpack;            // null for F32
  const Kernel<kernel::DotQ8>* dot_q8;
  const Kernel<kernel::Dot16>* dot16;              // these two null where rows are not interleaved (ops/interleave.h)
  const Kernel<kernel::Pairs16>* pairs16;
  void (*pack)(void* y, const float* x, int64_t n);    // nearest representation of n numbers (whole blocks)
};
const WeightFormat& weight_format(DType type);         // throws for a type that holds no weights (I32, …)

void unpack(float* y, DType type, const void* x, int64_t n);       // any weight type, F32 included
Tensor unpack(const Tensor& x);                                     // an F32 copy
Tensor pack(const Tensor& x, DType type);                           // F32 → type; throws when rows do not fill blocks

// The first of n numbers that is not finite, or whose block has a scale or minimum that is not. Integers always are.
struct NotFinite { int64_t element; double value; };
std::optional<NotFinite> find_not_finite(DType type, const void* x, int64_t n);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float x);              // nearest even; overflow gives ±∞
inline float bf16_to_f32(uint16_t h) { return __builtin_bit_cast(float, uint32_t(h) << 16); }
uint16_t f32_to_bf16(float x);             // nearest even; NaN stays NaN

// Where weights are quantized, are activations too? `q8` rounds each block of 32 activations to 8 bits for products with few rows
// (decoding); `f32` keeps them. Unless set here or by KVT_ACTIVATIONS=f32|q8 in the environment: q8 if the chosen kernels do integer
// products by vector instructions, else f32 (so KVT_KERNELS=reference computes in F32 throughout). Recording (training) is always f32.
enum class Activations { f32, q8 };
Activations activations();
void set_activations(std::optional<Activations> a);

}  // namespace kvt
