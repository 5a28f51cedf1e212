// The leading singular triplets of a gradient G = Σ_t dy_tᵀ x_t [out, in] that is never held: the single-pass sketch of Tropp, Yurtsever,
// Udell and Cevher 2017 ("Practical sketching algorithms for low-rank matrix approximation", algorithms 4 and 7), with Gaussian
// Ω [in, p] and Ψ [q, out]:
//
//   Y = G Ω = Σ_t dy_tᵀ (x_t Ω)          Z = Ψ G = Σ_t (dy_t Ψᵀ)ᵀ x_t          from thin products, batch by batch
//   Q = orth(Y),   X = argmin ‖Ψ Q X − Z‖,   G ≈ Q X,   svd(X) = U' S Vᵀ,   U = Q U'
#pragma once
#include <map>

#include "ops/svd.h"

namespace kvt {

// Ω and Ψ by width, shared among all layers of that width. For k directions p = 2 k + 16, q = 2 p.
class TestMatrices {
 public:
  TestMatrices(int64_t k, uint64_t seed) : p_(2 * k + 16), q_(2 * p_), seed_(seed) {}
  int64_t p() const { return p_; }
  int64_t q() const { return q_; }
  const Tensor& omega(int64_t in);            // [in, p]
  const Tensor& psi(int64_t out);             // [q, out]

 private:
  Tensor gaussian(const Shape& shape, uint64_t stream) const;
  int64_t p_, q_;
  uint64_t seed_;
  std::map<int64_t, Tensor> omega_, psi_;
};

// One layer's G, sketched; or exact where that takes no more memory.
class GradientSketch {
 public:
  GradientSketch(int64_t out, int64_t in, TestMatrices& tests);
  void add(const Tensor& x, const float* dy);          // G += dyᵀ x;  x [.., in], dy [.., out]
  Svd leading(int64_t k) const;                        // min(k, out, in) triplets
  double energy() const;                               // ‖G‖² (Frobenius), unbiased if sketched: ‖Z‖²/q
  int64_t bytes() const;

 private:
  int64_t out_, in_;
  Tensor omega_, psi_;                                 // none: exact
  Tensor g_, y_, z_;                                   // [out, in] or [out, p] and [q, in]
};

}  // namespace kvt
