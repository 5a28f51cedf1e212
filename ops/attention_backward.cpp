// Backward of attention: the weights are computed again, block by block. With L = log Σ e^s of each row kept from forward, where a row is a pair (t, g):
//   P = e^(s − L),   delta = rowsum(dO ⊙ O),   dS = P ⊙ (dO Vᵀ − delta)
//   dV = Pᵀ dO,      dQ = scale dS K,          dK = scale dSᵀ Q
#include "ops/attention.h"

#include "ops/loops.h"

namespace kvt::attn {

using kernel::Mat;

static constexpr int64_t query_rows = 128, key_block = 96;     // of a block

void backward(float* dq, float* dk, float* dv, const Problem& p, const float* q, const float* k, const float* v, const float* y, const float* dy,
              const float* lse, int64_t b, int64_t hk) {
  thread_local Scratch scratch;
  const int64_t rows = p.T * p.G, D = p.D, stride = p.Hkv * D, step = std::max<int64_t>(1, query_rows / p.G) * p.G;
  float* const Q = scratch.floats(rows * (3 * D + 1) + 2 * step * key_block);
  float *const dO = Q + rows * D, *const dQ = dO + rows * D, *const delta = dQ + rows * D, *const P = delta + rows, *const dS = P + step * key_block;
  lse += (b * p.Hkv + hk) * rows;

  gather(dQ, p, y, b, hk, 0, p.T, 1);                       // O for a moment
  gather(dO, p, dy, b, hk, 0, p.T, 1);
  for (int64_t r = 0; r < rows; ++r) {
    delta[r] = 0;
    for (int64_t d = 0; d < D; ++d) delta[r] += dO[r * D + d] * dQ[r * D + d];
  }
  gather(Q, p, q, b, hk, 0, p.T, p.scale);
  std::fill_n(dQ, rows * D, 0.f);

  const int64_t keys = p.T > 0 ? p.limit(b, p.T - 1) : 0;
  for (int64_t j = 0; j < keys; j += key_block) {
    const int64_t cols = std::min(key_block, keys - j), at = p.key(b, j, hk);
    int64_t first = 0;                                      // rows before do not see this block
    while (p.limit(b, first / p.G) <= j) first += p.G;
    for (int64_t r0 = first; r0 < rows; r0 += step) {
      const int64_t n = std::min(step, rows - r0);
      const Mat Qr{Q + r0 * D, D, 1}, dOr{dO + r0 * D, D, 1}, K{k + at, stride, 1}, V{v + at, stride, 1}, Pm{P, cols, 1}, dSm{dS, cols, 1};
      std::fill_n(P, n * cols, 0.f);
      kernel::matmul(P, cols, Qr, transposed(K), n, cols, D);
      for (int64_t r = 0; r < n; ++r)
        for (int64_t i = 0; i < cols; ++i) P[r * cols + i] -= lse[r0 + r];
      kernel::exp(P, P, n * cols);
      for (int64_t r = 0; r < n; ++r) {
        const int64_t seen = std::clamp<int64_t>(p.limit(b, (r0 + r) / p.G) - j, 0, cols);
        std::fill(P + r * cols + seen, P + (r + 1) * cols, 0.f);
        std::fill_n(P + r * cols, std::clamp<int64_t>(p.first((r0 + r) / p.G) - j, 0, cols), 0.f);
      }
      if (dv) kernel::matmul(dv + at, stride, transposed(Pm), dOr, cols, D, n);
      if (!dq && !dk) continue;
      std::fill_n(dS, n * cols, 0.f);
      kernel::matmul(dS, cols, dOr, transposed(V), n, cols, D);
      for (int64_t r = 0; r < n; ++r)
        for (int64_t i = 0; i < cols; ++i) dS[r * cols + i] = P[r * cols + i] * (dS[r * cols + i] - delta[r0 + r]);
      if (dq) kernel::matmul(dQ + r0 * D, D, dSm, K, n, D, cols);
      if (dk) kernel::matmul(dk + at, stride, transposed(dSm), Qr, cols, D, n);      // Q is scaled already
    }
  }
  for (int64_t t = 0; dq && t < p.T; ++t)
    for (int64_t i = 0; i < p.G * D; ++i) dq[p.query(b, t, hk) + i] += p.scale * dQ[t * p.G * D + i];
}

}  // namespace kvt::attn
