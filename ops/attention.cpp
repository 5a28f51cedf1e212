// attention    O = softmax(scale Q Kᵀ + mask) V      in blocks of queries and keys, never a T × S matrix (Dao et al. 2022)
//
// Forward, for one key/value head and a block of query rows: the softmax is carried along over blocks of keys,
//   s = scale Q K_jᵀ,   (s, m, l, fix) ← online softmax,   O ← O fix + s V_j,       and at the end  O ← O / l
// All G = H/Hkv query heads of a group share their keys, so a row is a pair (t, g): row t G + g.
//
// Backward, with L = m + log l of each row kept from forward:
//   P = e^(s − L),   delta = rowsum(dO ⊙ O),   dS = P ⊙ (dO Vᵀ − delta)
//   dV = Pᵀ dO,      dQ = scale dS K,          dK = scale dSᵀ Q
#include <cmath>
#include <limits>

#include "ops/loops.h"
#include "ops/ops.h"

namespace kvt {

namespace {

using kernel::Mat;

constexpr int64_t key_block = 64, query_rows = 128;     // scores, packed keys and values of one step: 32 + 16 + 16 KB at D = 64
constexpr int64_t few_rows = 16;                        // up to here transposing the keys costs more than it gains
constexpr int64_t key_split = 256;                      // few rows: so many keys are a job of their own
constexpr float infinity = std::numeric_limits<float>::infinity();

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

// y[d n + j] = the d-th number of row j
void transpose(float* y, Rows k, int64_t at, int64_t n, int64_t D) {
  float row[256];
  for (int64_t j = 0; j < n; ++j, at += k.stride) {
    if (k.half()) kernel::unpack_f16(row, k.f16(at), D);
    const float* from = k.half() ? row : k.f32(at);
    for (int64_t d = 0; d < D; ++d) y[d * n + j] = from[d];
  }
}

// Queries [rows, D] of one key/value head, gathered and scaled.
void gather(float* y, const Problem& p, const float* q, int64_t b, int64_t hk, int64_t t0, int64_t t1, float s) {
  for (int64_t t = t0; t < t1; ++t)
    for (int64_t i = 0; i < p.G * p.D; ++i) *y++ = s * q[p.query(b, t, hk) + i];
}

// The state of the online softmax of some rows: o [rows, D] not yet divided by l
struct State { float *o, *m, *l; };

// Rows (t, g), t in [t0, t1), of one key/value head over the keys [j0, j1)
void attend(State to, const Problem& p, const float* q, Rows k, Rows v, int64_t b, int64_t hk, int64_t t0, int64_t t1, int64_t j0, int64_t j1) {
  thread_local Scratch scratch;
  const int64_t rows = (t1 - t0) * p.G, D = p.D;
  float* const queries = scratch.floats(rows * (D + key_block + 1) + 2 * key_block * D);
  float *const s = queries + rows * D, *const fix = s + rows * key_block, *const kt = fix + rows, *const values = kt + key_block * D;
  gather(queries, p, q, b, hk, t0, t1, p.scale);
  std::fill_n(to.o, rows * D, 0.f);
  std::fill_n(to.m, rows, -infinity);
  std::fill_n(to.l, rows, 0.f);

  j0 = std::max(j0, p.first(t0));                           // the first query's window begins first
  j1 = std::min(j1, p.limit(b, t1 - 1));                    // the last query sees most
  for (int64_t j = j0; j < j1; j += key_block) {
    const int64_t cols = std::min(key_block, j1 - j), at = p.key(b, j, hk);
    if (rows > few_rows) {
      transpose(kt, k, at, cols, D);
      kernel::attention_scores(s, key_block, queries, D, kt, rows, cols, D);
    } else {
      for (int64_t r = 0; r < rows; ++r)
        if (k.half()) kernel::dot_f16(s + r * key_block, k.f16(at), k.stride, queries + r * D, cols, D);
        else kernel::dot_f32(s + r * key_block, k.f32(at), k.stride, queries + r * D, cols, D);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t seen = std::clamp<int64_t>(p.limit(b, t0 + r / p.G) - j, 0, cols);
      std::fill(s + r * key_block + seen, s + r * key_block + cols, -infinity);
      std::fill_n(s + r * key_block, std::clamp<int64_t>(p.first(t0 + r / p.G) - j, 0, cols), -infinity);
    }
    kernel::attention_softmax(s, key_block, to.m, to.l, fix, rows, cols);
    if (v.half())
      for (int64_t i = 0; i < cols; ++i) kernel::unpack_f16(values + i * D, v.f16(at + i * v.stride), D);
    kernel::attention_values(to.o, D, s, key_block, v.half() ? values : v.f32(at), v.half() ? D : v.stride, fix, rows, cols, D);
  }
}

// Joins the states of `parts` ranges of keys, [parts, rows] each, into the first.
void join(State s, int64_t parts, int64_t rows, int64_t D) {
  for (int64_t r = 0; r < rows; ++r) {
    float top = -infinity;
    for (int64_t i = 0; i < parts; ++i) top = std::max(top, s.m[i * rows + r]);
    if (top == -infinity) continue;                         // no keys at all: zeros
    for (int64_t i = 0; i < parts; ++i) {
      const float fix = std::exp(s.m[i * rows + r] - top);
      for (int64_t d = 0; d < D; ++d) s.o[r * D + d] = (i ? s.o[r * D + d] : 0) + fix * s.o[(i * rows + r) * D + d];
      s.l[r] = (i ? s.l[r] : 0) + fix * s.l[i * rows + r];
    }
    s.m[r] = top;
  }
}

// o /= l, scattered to y; lse (if any) gets m + log l of each row
void finish(float* y, float* lse, State s, const Problem& p, int64_t b, int64_t hk, int64_t t0, int64_t t1) {
  for (int64_t t = t0, r = 0; t < t1; ++t)
    for (int64_t g = 0; g < p.G; ++g, ++r) {
      const float share = s.l[r] > 0 ? 1 / s.l[r] : 0;
      for (int64_t d = 0; d < p.D; ++d) y[p.query(b, t, hk) + g * p.D + d] = share * s.o[r * p.D + d];
      if (lse) lse[((b * p.Hkv + hk) * p.T + t) * p.G + g] = s.m[r] + std::log(s.l[r]);
    }
}

void forward(float* y, float* lse, const Problem& p, const float* q, Rows k, Rows v) {
  const bool few = p.T * p.G <= few_rows;
  const int64_t step = few ? p.T : std::max<int64_t>(1, query_rows / p.G), blocks = (p.T + step - 1) / step, rows = step * p.G;
  const int64_t parts = few ? std::max<int64_t>(1, (p.S + key_split - 1) / key_split) : 1;
  const int64_t heads = p.B * p.Hkv, state = rows * (p.D + 2);
  if (parts == 1) {
    const int64_t grain = std::max<int64_t>(1, piece_products / (rows * std::max<int64_t>(p.S, 1) * p.D));
    return parallel_for(heads * blocks, grain, [&](int64_t begin, int64_t end) {
      thread_local Scratch scratch;
      for (int64_t job = begin; job < end; ++job) {
        const int64_t head = job / blocks, t0 = job % blocks * step, t1 = std::min(t0 + step, p.T);
        float* const o = scratch.floats(state);
        const State s{o, o + rows * p.D, o + rows * (p.D + 1)};
        attend(s, p, q, k, v, head / p.Hkv, head % p.Hkv, t0, t1, 0, p.S);
        finish(y, lse, s, p, head / p.Hkv, head % p.Hkv, t0, t1);
      }
    });
  }
  thread_local Scratch scratch;                             // the parts of all heads, which other threads fill
  float* const o = scratch.floats(heads * parts * state);
  const auto part = [=](int64_t head, int64_t i) {
    float* const of = o + head * parts * state;
    return State{of + i * rows * p.D, of + parts * rows * p.D + i * rows, of + parts * rows * (p.D + 1) + i * rows};
  };
  parallel_for(heads * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const int64_t head = job / parts, j = job % parts * key_split;
      attend(part(head, job % parts), p, q, k, v, head / p.Hkv, head % p.Hkv, 0, p.T, j, std::min(j + key_split, p.S));
    }
  });
  for (int64_t head = 0; head < heads; ++head) {
    join(part(head, 0), parts, rows, p.D);
    finish(y, lse, part(head, 0), p, head / p.Hkv, head % p.Hkv, 0, p.T);
  }
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
  const bool record = recording(std::initializer_list<Tensor>{q, k, v});
  const Tensor lse = record ? Tensor({p.B, p.Hkv, p.T, p.G}) : Tensor();
  Tensor y(q.shape());
  if (y.size() > 0) forward(y.data(), record ? lse.data() : nullptr, p, q.data(), {k, p.Hkv * p.D}, {v, p.Hkv * p.D});
  if (!record) return y;

  require(k.dtype() == DType::F32, "attention: F16 keys and values in training");
  return on_backward(y, {q, k, v}, [=] {
    const auto wanted = [](const Tensor& x) { return x.wants_grad() ? x.grad() : nullptr; };
    float *const dq = wanted(q), *const dk = wanted(k), *const dv = wanted(v);
    parallel_for(p.B * p.Hkv, 1, [&, dy = y.grad()](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        backward(dq, dk, dv, p, q.data(), k.data(), v.data(), y.data(), dy, lse.data(), i / p.Hkv, i % p.Hkv);
    });
  });
}

}  // namespace kvt
