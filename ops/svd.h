// Orthogonal decompositions of matrices, for adapters: QR, the singular value decomposition, least squares, and leading singular
// triplets of large weights. Computed in double precision, returned as F32; none of them is differentiable.
#pragma once
#include "tensor/random.h"
#include "tensor/tensor.h"

namespace kvt {

// A [m, n] = Q R, m ≥ n:  Q [m, n] with orthonormal columns, R [n, n] upper triangular. Householder reflections
// (Golub and Van Loan, Matrix Computations, 5.2): Q is orthonormal whatever the rank of A.
struct Qr { Tensor q, r; };
Qr qr(const Tensor& a);

// A [m, n] ≈ U diag(s) Vᵀ:  U [m, k], s [k] falling and ≥ 0, V [n, k]. Columns of U and V are orthonormal but where s = 0: there
// the columns of one of the two are zero.
struct Svd {
  Tensor u, s, v;
  int64_t rank() const { return s.dim(0); }
  Svd leading(int64_t k) const;                     // the first min(k, rank()) triplets
};
// All min(m, n) triplets: QR of the longer side, then one-sided Jacobi rotations (Hestenes 1958) of the triangle.
Svd svd(const Tensor& a);
// The leading k by subspace iteration (Halko, Martinsson, Tropp 2011, algorithms 4.4 and 5.1):
//   Q = orth((W Wᵀ)^q W Ω),  Ω [n, k + 8] Gaussian;   W ≈ Q svd(Qᵀ W)
// W of any dtype; nothing but one F32 copy of W is as large as W. All triplets if k + 8 reaches min(m, n).
Svd leading_svd(const Tensor& w, int64_t k, Rng& rng, int iterations = 8);

// X [n, c] with the least ‖A X − B‖, A [m, n] of full column rank, m ≥ n, B [m, c].
Tensor least_squares(const Tensor& a, const Tensor& b);

}  // namespace kvt
