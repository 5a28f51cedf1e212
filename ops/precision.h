// What backward keeps of the forward pass, and in what precision.
//
// A step keeps numbers through saved(), which spares those that can be made again cheaply from what is kept anyway: results of norms,
// activation functions and gates.
//
// Mixed precision (Micikevicius et al. 2018; in BF16: Kalamkar et al. 2019), on request: all that is 16 bits wide under a Tape of
// Precision::bf16.
//
//   products     round(A) round(B), added up in F32, forward and backward: linear, matmul, add_linear, patch_embedding, the output matrix
//                of a loss. Attention rounds q, k and v; its softmax and what comes behind are F32
//   saved()      keeps BF16, one copy for all steps that need it: operands of products, arguments of activation functions
//
// All else is F32: weights and what the optimizer holds of them, gradients, every result on its way to the next operation, the sum that
// blocks add to (which norms keep for backward), statistics of norms, softmax, loss. BF16 has F32's range, so gradients need no scaling.
//
// One rounding moves a number by at most 2⁻⁸ of itself (8 significant bits), so a product Σ a b by at most (2⁻⁷ + 2⁻¹⁶) Σ |a b|.
#pragma once
#include "ops/kernels.h"
#include "tensor/tape.h"

namespace kvt {

// What a step of backward keeps of x: called, it gives x's numbers as F32, in the shape of x or of a view of it.
using Kept = std::function<Tensor()>;
Kept saved(const Tensor& x);

// x, or under a tape of bf16 its numbers rounded: F32 where they are to be computed with.
Tensor rounded(const Tensor& x);

// The product that this precision computes with.
inline const Kernel<kernel::Matmul>& product(Precision precision) { return precision == Precision::bf16 ? kernel::matmul_bf16 : kernel::matmul; }

}  // namespace kvt
