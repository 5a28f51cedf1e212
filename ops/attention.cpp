// attention    O = softmax(scale Q Kᵀ + mask) V      in blocks of queries and keys, never a T × S matrix (Dao et al. 2022)
//
// Forward: a panel of queries of one head meets its keys block by block, and carries the softmax along to base 2,
//   s = (scale log₂e) Q K_jᵀ,   (p, m, l, fix) ← online softmax of s,   O ← fix O + p V_j,   the last time divided by l
// A job is a range of queries for all G = H/Hkv heads that share one head of keys, so a block of keys comes into the cache once for
// all their panels. Few queries (decoding) have too little to do for that: their keys are split among jobs, and dot products serve.
//
// Backward, with L = log Σ e^s of each row kept from forward, where a row is a pair (t, g): row t G + g:
//   P = e^(s − L),   delta = rowsum(dO ⊙ O),   dS = P ⊙ (dO Vᵀ − delta)
//   dV = Pᵀ dO,      dQ = scale dS K,          dK = scale dSᵀ Q
#include <cmath>
#include <limits>

#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/tuning.h"

namespace kvt {

namespace {

using kernel::Mat;

constexpr int64_t query_rows = 128, key_block = 96;     // of a block, backward
constexpr int64_t few_rows = 16;                        // up to here a panel has too many empty lanes
constexpr int64_t key_split = 256, few_keys = 64, turn = 16;      // few rows: so many keys a job, a step of the softmax, a product
constexpr float infinity = std::numeric_limits<float>::infinity(), log2_e = 1.44269504f, ln_2 = 0.693147181f;

int64_t pieces(int64_t n, int64_t of) { return (n + of - 1) / of; }

struct Problem {
  int64_t B, T, S, H, Hkv, D, G;
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

Problem check(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o) {
  require(q.rank() == 4 && k.rank() == 4 && v.shape() == k.shape() && q.dim(0) == k.dim(0) && q.dim(3) == k.dim(3), "attention: q ", q.shape(), ", k ",
          k.shape(), ", v ", v.shape(), " do not fit");
  Problem p{q.dim(0), q.dim(1), k.dim(1), q.dim(2), k.dim(2), q.dim(3), 0, o.scale, o.causal, o.lengths, o.window};
  require(p.Hkv > 0 && p.H % p.Hkv == 0, "attention: ", p.H, " query heads do not share ", p.Hkv, " key heads evenly");
  require(p.D > 0 && p.D <= 256, "attention: heads of ", p.D, " numbers; expected 1 to 256");
  require(k.dtype() == v.dtype() && (k.dtype() == DType::F32 || k.dtype() == DType::F16), "attention: keys ", k.dtype(), " and values ", v.dtype(),
          "; expected both F32 or both F16");
  require(k.dtype() == DType::F32 || !(k.wants_grad() || v.wants_grad()), "attention: F16 keys and values take no gradient");
  require(o.lengths.empty() || int64_t(o.lengths.size()) == p.B, "attention: ", o.lengths.size(), " lengths for a batch of ", p.B);
  for (const int32_t n : o.lengths) require(n >= 0 && n <= p.S, "attention: length ", n, " of ", p.S, " keys");
  require(o.window >= 0 && (o.causal || o.window == 0), "attention: a window of ", o.window, o.causal ? "" : " without causal order");
  p.G = p.H / p.Hkv;
  if (p.scale == 0) p.scale = 1 / std::sqrt(float(p.D));
  return p;
}

// K or V: rows of D numbers, `stride` apart, F32 or F16
struct Rows {
  const Tensor& x;
  int64_t stride;
  const float* f32(int64_t at) const { return reinterpret_cast<const float*>(x.raw()) + at; }
  const uint16_t* f16(int64_t at) const { return reinterpret_cast<const uint16_t*>(x.raw()) + at; }
  bool half() const { return x.dtype() == DType::F16; }
};

// n rows as F32: where they lie, or unpacked to `buffer`
struct Floats { const float* p; int64_t stride; };
Floats floats(float* buffer, Rows x, int64_t at, int64_t n, int64_t D) {
  if (!x.half()) return {x.f32(at), x.stride};
  for (int64_t i = 0; i < n; ++i) kernel::unpack_f16(buffer + i * D, x.f16(at + i * x.stride), D);
  return {buffer, D};
}

// Queries of one key/value head, gathered and scaled: rows (t, g) of D numbers.
void gather(float* y, const Problem& p, const float* q, int64_t b, int64_t hk, int64_t t0, int64_t t1, float s) {
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

// What attention_scores does for its scores, for those of attention_dots.
void hide(float* s, float* top, int64_t keys, kernel::Seen seen) {
  float t[4] = {top[0], top[1], top[2], top[3]};
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t j = 0; j < int64_t(seen.from[r]); ++j) s[4 * j + r] = -infinity;
    for (int64_t j = int64_t(seen.to[r]); j < keys; ++j) s[4 * j + r] = -infinity;
  }
  for (int64_t j = 0; j < keys; ++j)
    for (int64_t r = 0; r < 4; ++r) t[r] = std::max(t[r], s[4 * j + r]);
  std::copy_n(t, 4, top);
}

// Queries [t0, t1) of one head: a panel. Four or fewer take dot products where a vector would be mostly empty.
struct Queries {
  int64_t h, t0, t1, lanes;
  float *q, *m, *l;
};

// Queries [t0, t1) of the heads that share key/value head hk, over all the keys they see.
void attend(float* y, float* lse, const Problem& p, const float* q, Rows k, Rows v, int64_t b, int64_t hk, int64_t t0, int64_t t1) {
  thread_local Scratch scratch;
  const kernel::Panel panel = kernel::attention_scores.best().traits;
  const int64_t D = p.D, row = p.H * D, most = panel.most, cuts = pieces(t1 - t0, most), panels = p.G * cuts;
  const int64_t begin = p.first(t0), end = p.limit(b, t1 - 1);
  const int64_t block = pieces(pieces(end - begin, std::max<int64_t>(1, pieces(end - begin, tuning::key_block()))), panel.keys) * panel.keys;
  float* const queries = scratch.floats(panels * most * (D + 2) + (block + 5) * most + 2 * block * D);
  float *const s = queries + panels * most * (D + 2), *const top = s + block * most, *const fix = top + most, *const share = fix + most;
  float *const from = share + most, *const to = from + most, *const k_floats = to + most, *const v_floats = k_floats + block * D;

  const auto take = [&](int64_t i) {
    const int64_t u0 = t0 + i % cuts * most, u1 = std::min(u0 + most, t1);
    float* const of = queries + i * most * (D + 2);
    return Queries{hk * p.G + i / cuts, u0, u1, u1 - u0 <= 4 ? 4 : pieces(u1 - u0, panel.step) * panel.step, of, of + most * D, of + most * (D + 1)};
  };
  for (int64_t i = 0; i < panels; ++i) {
    const Queries x = take(i);
    const float* const from_q = q + p.query(b, x.t0, 0) + x.h * D;
    if (x.lanes < panel.step) {
      std::fill_n(x.q, 4 * D, 0.f);
      for (int64_t r = 0; r < x.t1 - x.t0; ++r)
        for (int64_t d = 0; d < D; ++d) x.q[r * D + d] = p.scale * log2_e * from_q[r * row + d];
    } else {
      kernel::attention_pack(x.q, x.lanes, from_q, row, x.t1 - x.t0, D, p.scale * log2_e);
    }
    std::fill_n(x.m, x.lanes, -infinity);
    std::fill_n(x.l, x.lanes, 0.f);
  }

  for (int64_t j = begin; j < end; j += block) {
    const int64_t cols = std::min(block, end - j), at = p.key(b, j, hk);
    const Floats kj = floats(k_floats, k, at, cols, D), vj = floats(v_floats, v, at, cols, D);
    for (int64_t i = 0; i < panels; ++i) {
      const Queries x = take(i);
      const int64_t first = p.first(x.t0), last = p.limit(b, x.t1 - 1);                       // keys that some query of the panel sees
      const int64_t j0 = std::max(j, first), n = std::min(j + cols, last) - j0;               // those of them in this block
      if (n <= 0) continue;
      const bool all = p.limit(b, x.t0) >= j0 + n && p.first(x.t1 - 1) <= j0, divide = j0 + n == last;
      const kernel::Seen seen{from, to};
      if (!all || x.lanes < panel.step) look(from, to, x.lanes, p, b, j0, n, [&](int64_t r) { return std::min(x.t0 + r, x.t1 - 1); });
      std::copy_n(x.m, x.lanes, top);
      const float* const keys = kj.p + (j0 - j) * kj.stride;
      if (x.lanes < panel.step) kernel::attention_dots_f32(s, x.q, keys, kj.stride, n, D), hide(s, top, n, seen);
      else kernel::attention_scores(s, top, x.q, x.lanes, keys, kj.stride, n, D, all ? nullptr : &seen);
      kernel::attention_softmax(s, x.m, x.l, fix, top, x.lanes, n);
      for (int64_t r = 0; divide && r < x.lanes; ++r) share[r] = x.l[r] > 0 ? 1 / x.l[r] : x.l[r] - x.l[r];      // 0, and NaN for NaN
      kernel::attention_values_f32(y + p.query(b, x.t0, 0) + x.h * D, row, j0 == first ? nullptr : fix, divide ? share : nullptr, s, x.lanes,
                                   vj.p + (j0 - j) * vj.stride, vj.stride, x.t1 - x.t0, n, D);
    }
  }

  for (int64_t i = 0; i < panels; ++i) {
    const Queries x = take(i);
    for (int64_t t = x.t0; t < x.t1; ++t) {
      if (p.first(x.t0) >= p.limit(b, x.t1 - 1)) std::fill_n(y + p.query(b, t, 0) + x.h * D, D, 0.f);          // a panel without keys
      if (lse) lse[((b * p.Hkv + hk) * p.T + t) * p.G + x.h - hk * p.G] = ln_2 * (x.m[t - x.t0] + std::log2(x.l[t - x.t0]));
    }
  }
}

// --- few queries ---

// The online softmax of `rows` rows (t, g), a multiple of 4: o [rows, D] not yet divided by l
struct State { float *o, *m, *l; };

// All queries of batch row b over the keys [j0, j1): states [Hkv, rows] of the heads of keys. Memory is what they wait for, so the heads
// take turns at so few keys that the cache lines are asked for in the order in which they lie.
void attend_few(State state, const Problem& p, const float* q, Rows k, Rows v, int64_t b, int64_t rows, int64_t j0, int64_t j1) {
  thread_local Scratch scratch;
  const int64_t D = p.D;
  float* const queries = scratch.floats(p.Hkv * rows * (D + few_keys + 1) + 12);
  float *const s = queries + p.Hkv * rows * D, *const fix = s + p.Hkv * rows * few_keys, *const top = fix + p.Hkv * rows, *const from = top + 4, *const to = from + 4;
  constexpr float ones[4] = {1, 1, 1, 1};
  std::fill_n(queries, p.Hkv * rows * D, 0.f);
  for (int64_t hk = 0; hk < p.Hkv; ++hk) gather(queries + hk * rows * D, p, q, b, hk, 0, p.T, p.scale * log2_e);
  std::fill_n(state.o, p.Hkv * rows * D, 0.f);
  std::fill_n(state.m, p.Hkv * rows, -infinity);
  std::fill_n(state.l, p.Hkv * rows, 0.f);

  j0 = std::max(j0, p.first(0));                            // the first query's window begins first
  j1 = std::min(j1, p.limit(b, p.T - 1));                   // the last query sees most
  const auto for_heads = [&](int64_t n, auto f) {           // f(first key, keys, head, first row of four)
    for (int64_t i = 0; i < n; i += turn)
      for (int64_t hk = 0; hk < p.Hkv; ++hk)
        for (int64_t r = 0; r < rows; r += 4) f(i, std::min(turn, n - i), hk, r);
  };
  for (int64_t j = j0; j < j1; j += few_keys) {
    const int64_t n = std::min(few_keys, j1 - j);
    for_heads(n, [&](int64_t i, int64_t keys, int64_t hk, int64_t r) {
      const int64_t at = p.key(b, j + i, hk);
      const float* const x = queries + (hk * rows + r) * D;
      float* const to = s + ((hk * rows + r) * few_keys + i * 4);
      if (k.half()) kernel::attention_dots_f16(to, x, k.f16(at), k.stride, keys, D);
      else kernel::attention_dots_f32(to, x, k.f32(at), k.stride, keys, D);
    });
    for (int64_t r = 0; r < p.Hkv * rows; r += 4) {
      look(from, to, 4, p, b, j, n, [&](int64_t i) { return std::min((r % rows + i) / p.G, p.T - 1); });
      std::copy_n(state.m + r, 4, top);
      hide(s + r * few_keys, top, n, {from, to});
      kernel::attention_softmax(s + r * few_keys, state.m + r, state.l + r, fix + r, top, 4, n);
    }
    for_heads(n, [&](int64_t i, int64_t keys, int64_t hk, int64_t r) {
      const int64_t at = p.key(b, j + i, hk), row = hk * rows + r, used = std::min<int64_t>(4, p.T * p.G - r);
      const float *const keep = i ? ones : fix + row, *const weights = s + row * few_keys + i * 4;
      if (v.half()) kernel::attention_values_f16(state.o + row * D, D, keep, nullptr, weights, 4, v.f16(at), v.stride, used, keys, D);
      else kernel::attention_values_f32(state.o + row * D, D, keep, nullptr, weights, 4, v.f32(at), v.stride, used, keys, D);
    });
  }
}

// Joins the states of `parts` ranges of keys, [parts, Hkv, rows] each, and writes the outputs of batch row b.
void join(float* y, float* lse, const Problem& p, State s, int64_t parts, int64_t rows, int64_t b) {
  for (int64_t hk = 0; hk < p.Hkv; ++hk)
    for (int64_t r = 0; r < p.T * p.G; ++r) {
      const auto at = [&](int64_t i) { return (i * p.Hkv + hk) * rows + r; };
      float top = -infinity, sum = 0;
      for (int64_t i = 0; i < parts; ++i) top = std::max(top, s.m[at(i)]);
      float* const to = y + p.query(b, r / p.G, hk) + r % p.G * p.D;
      std::fill_n(to, p.D, 0.f);
      for (int64_t i = 0; top > -infinity && i < parts; ++i) {
        const float fix = std::exp2(s.m[at(i)] - top);
        sum += fix * s.l[at(i)];
        for (int64_t d = 0; d < p.D; ++d) to[d] += fix * s.o[at(i) * p.D + d];
      }
      for (int64_t d = 0; sum != 0 && d < p.D; ++d) to[d] /= sum;
      if (lse) lse[(b * p.Hkv + hk) * p.T * p.G + r] = ln_2 * (top + std::log2(sum));
    }
}

void forward_few(float* y, float* lse, const Problem& p, const float* q, Rows k, Rows v) {
  thread_local Scratch scratch;                             // the parts, which other threads fill
  const int64_t rows = pieces(p.T * p.G, 4) * 4, parts = std::max<int64_t>(1, pieces(p.S, key_split)), all = p.Hkv * rows;
  float* const o = scratch.floats(p.B * parts * all * (p.D + 2));
  const auto part = [=, m = o + p.B * parts * all * p.D, B = p.B, D = p.D](int64_t i) { return State{o + i * all * D, m + i * all, m + (B * parts + i) * all}; };
  const int64_t grain = std::max<int64_t>(1, piece_products / (all * std::min(p.S, key_split) * p.D + 1));
  parallel_for(p.B * parts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const int64_t j = job % parts * key_split;
      attend_few(part(job), p, q, k, v, job / parts, rows, j, std::min(j + key_split, p.S));
    }
  });
  for (int64_t b = 0; b < p.B; ++b) join(y, lse, p, part(b * parts), parts, rows, b);
}

void forward(float* y, float* lse, const Problem& p, const float* q, Rows k, Rows v) {
  if (p.T * p.G <= few_rows) return forward_few(y, lse, p, q, k, v);
  const int64_t most = kernel::attention_scores.best().traits.most, step = std::max<int64_t>(1, tuning::query_block() / (p.G * most)) * most, blocks = pieces(p.T, step);
  const int64_t grain = std::max<int64_t>(1, piece_products / (step * p.G * std::max<int64_t>(p.S, 1) * p.D));
  parallel_for(p.B * p.Hkv * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const int64_t head = job / blocks, t0 = job % blocks * step;
      attend(y, lse, p, q, k, v, head / p.Hkv, head % p.Hkv, t0, std::min(t0 + step, p.T));
    }
  });
}

// All that flows back through one key/value head. Each gradient may be null; dk and dv as k and v.
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

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  const Problem p = check(q, k, v, options);
  const bool record = recording({q, k, v});
  const Tensor lse = record ? Tensor({p.B, p.Hkv, p.T, p.G}) : Tensor();
  Tensor y(q.shape());
  const Tensor near_q = rounded(q), near_k = rounded(k), near_v = rounded(v);
  if (y.size() > 0) forward(y.data(), record ? lse.data() : nullptr, p, near_q.data(), {near_k, p.Hkv * p.D}, {near_v, p.Hkv * p.D});
  if (!record) return y;

  require(k.dtype() == DType::F32, "attention: F16 keys and values in training");
  return on_backward(y, {q, k, v}, [=, kept_q = saved(near_q), kept_k = saved(near_k), kept_v = saved(near_v), kept_y = saved(y),
                                    q = q.gradient(), k = k.gradient(), v = v.gradient(), y = y.gradient()] {
    const auto wanted = [](const Gradient& x) { return x.wants_grad() ? x.grad() : nullptr; };
    float *const dq = wanted(q), *const dk = wanted(k), *const dv = wanted(v);
    const Tensor Q = kept_q(), K = kept_k(), V = kept_v(), Y = kept_y();
    parallel_for(p.B * p.Hkv, 1, [&, dy = y.grad()](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        backward(dq, dk, dv, p, Q.data(), K.data(), V.data(), Y.data(), dy, lse.data(), i / p.Hkv, i % p.Hkv);
    });
  });
}

}  // namespace kvt
