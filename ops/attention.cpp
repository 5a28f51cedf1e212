// attention    O = softmax(scale Q Kᵀ + mask) V      in blocks of queries and keys, never a T × S matrix (Dao et al. 2022)
//
// Forward: a panel of queries of one head meets its keys block by block, and carries the softmax along to base 2,
//   s = (scale log₂e) Q K_jᵀ,   (p, m, l, fix) ← online softmax of s,   O ← fix O + p V_j,   the last time divided by l
// A job is a range of queries for all G = H/Hkv heads that share one head of keys, so a block of keys comes into the cache once, and its rows together, for
// all their panels. Few queries (decoding) have too little to do for that: ops/attention_few.cpp. Backward: ops/attention_backward.cpp.
#include "ops/attention.h"

#include <cmath>
#include <limits>

#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/profile.h"
#include "ops/quant.h"
#include "ops/tuning.h"

namespace kvt {

using namespace attn;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

Problem check(const Shape& q, const Tensor& k, const Tensor& v, const AttentionOptions& o) {
  require(q.rank() == 4 && k.rank() == 4 && v.shape() == k.shape() && q[0] == k.dim(0) && q[3] == k.dim(3), "attention: q ", q, ", k ", k.shape(), ", v ", v.shape(),
          " do not fit");
  Problem p{q[0], q[1], k.dim(1), q[2], k.dim(2), q[3], 0, o.scale, o.causal, o.lengths, o.window};
  require(p.Hkv > 0 && p.H % p.Hkv == 0, "attention: ", p.H, " query heads do not share ", p.Hkv, " key heads evenly");
  require(p.D > 0 && p.D <= 256, "attention: heads of ", p.D, " numbers; expected 1 to 256");
  require(k.dtype() == v.dtype() && (k.dtype() == DType::F32 || k.dtype() == DType::F16 || k.dtype() == DType::Q8_0), "attention: keys ", k.dtype(),
          " and values ", v.dtype(), "; expected both F32, both F16 or both Q8_0");
  require(k.dtype() == DType::F32 || !(k.wants_grad() || v.wants_grad()), "attention: ", k.dtype(), " keys and values take no gradient");
  require(o.lengths.empty() || int64_t(o.lengths.size()) == p.B, "attention: ", o.lengths.size(), " lengths for a batch of ", p.B);
  for (const int32_t n : o.lengths) require(n >= 0 && n <= p.S, "attention: length ", n, " of ", p.S, " keys");
  require(o.window >= 0 && (o.causal || o.window == 0), "attention: a window of ", o.window, o.causal ? "" : " without causal order");
  p.G = p.H / p.Hkv;
  if (p.scale == 0) p.scale = 1 / std::sqrt(float(p.D));
  return p;
}

// Rows that will be read soon, asked for a few at a time between other work: rows of one head lie too far apart for the processor to guess, and it keeps
// track of no more than a dozen or so lines on their way.
class Ahead {
 public:
  // What was expected before is forgotten; all that will be is asked for in so many turns.
  void begin(int64_t turns) { at_ = end_ = ranges_, rows_ = 0, turns_ = turns; }
  // `rows` rows of `bytes`, `stride` bytes apart; up to four times
  void expect(const void* from, int64_t rows, int64_t bytes, int64_t stride) {
    if (rows > 0) *end_++ = {static_cast<const char*>(from), rows, bytes, stride}, each_ = pieces(rows_ += rows, turns_);
  }
  void ask() {
    for (int64_t n = each_; n > 0 && at_ < end_; --n, at_->from += at_->stride, at_ += --at_->rows == 0)
      for (int64_t i = 0; i < at_->bytes; i += 64) __builtin_prefetch(at_->from + i, 0, 2);
  }

 private:
  struct Range { const char* from; int64_t rows, bytes, stride; };
  Range ranges_[4], *at_ = ranges_, *end_ = ranges_;
  int64_t rows_ = 0, turns_ = 1, each_ = 0;
};

// n rows as F32: where they lie, or one behind the other in `buffer`, which F16 and Q8_0 take. Rows of one head that are kilobytes apart share few sets of
// the caches; a block of them that several panels read is closer by.
struct Floats { const float* p; int64_t stride; };
Floats floats(float* buffer, Rows x, int64_t at, int64_t n, int64_t D, bool together) {
  const bool f32 = x.x.dtype() == DType::F32;
  if (f32 && !together) return {x.f32(at), x.stride};
  for (int64_t i = 0; i < n; ++i) {
    if (f32) std::copy_n(x.f32(at + i * x.stride), D, buffer + i * D);
    else unpack(buffer + i * D, x.x.dtype(), x.at(at + i * x.stride), D);
  }
  return {buffer, D};
}

kernel::Panel tuned_panel() {
  kernel::Panel panel = kernel::attention_scores.best().traits;
  panel.most = int(std::clamp<int64_t>(tuning::panel_queries() / panel.step, 1, panel.most / panel.step)) * panel.step;
  return panel;
}

// Queries [t0, t1) of one head: a panel, with its outputs, largest scores and sums. Four or fewer take dot products where a vector would be mostly empty.
struct Queries {
  int64_t h, t0, t1, lanes;
  float *q, *o, *m, *l;
  int64_t count() const { return t1 - t0; }
};

// Queries [t0, t1) of the heads that share key/value head hk, over all the keys they see.
class Job {
 public:
  Job(float* y, const Problem& p, const float* q, Rows k, Rows v, int64_t b, int64_t hk, int64_t t0, int64_t t1)
      : y_(y), p_(p), q_(q), k_(k), v_(v), b_(b), hk_(hk), t0_(t0), t1_(t1) {
    const int64_t keys = end_ - begin_, most = panel_.most;
    block_ = pieces(pieces(keys, std::max<int64_t>(1, pieces(keys, tuning::key_block()))), panel_.keys) * panel_.keys;
    memory_ = scratch().floats(panels_ * most * (2 * D_ + 2) + (block_ + 5) * most + 2 * block_ * D_);
    s_ = memory_ + panels_ * most * (2 * D_ + 2), top_ = s_ + block_ * most, fix_ = top_ + most, share_ = fix_ + most, from_ = share_ + most, to_ = from_ + most;
    keys_ = to_ + most, values_ = keys_ + block_ * D_;
  }

  void run() {
    for (int64_t i = 0; i < panels_; ++i) start(panel(i));
    const bool together = panels_ >= tuning::gather_panels() && end_ - begin_ > 64;          // fewer rows fit the L1 cache wherever they lie
    for (int64_t j = begin_; j < end_; j += block_) {
      const int64_t n = std::min(block_, end_ - j), at = p_.key(b_, j, hk_);
      const Floats kj = floats(keys_, k_, at, n, D_, together), vj = floats(values_, v_, at, n, D_, together);
      if (together) expect(j);
      for (int64_t i = 0; i < panels_; ++i) meet(panel(i), j, n, kj, vj);
    }
  }

  // log Σ e^s of the queries, rows (t, g), and zeros for those of panels without keys
  void finish(float* lse) const {
    for (int64_t i = 0; i < panels_; ++i) {
      const Queries x = panel(i);
      const bool nothing = p_.first(x.t0) >= p_.limit(b_, x.t1 - 1);
      for (int64_t t = x.t0; nothing && t < x.t1; ++t) std::fill_n(y_ + place(x.h, t), D_, 0.f);
      for (int64_t t = x.t0; lse && t < x.t1; ++t) lse[((b_ * p_.Hkv + hk_) * p_.T + t) * p_.G + x.h - hk_ * p_.G] = ln_2 * (x.m[t - x.t0] + std::log2(x.l[t - x.t0]));
    }
  }

 private:
  static Scratch& scratch() {
    thread_local Scratch one;
    return one;
  }
  int64_t place(int64_t h, int64_t t) const { return p_.query(b_, t, 0) + h * D_; }         // of a query, and of its output

  Queries panel(int64_t i) const {
    const int64_t most = panel_.most, u0 = t0_ + i % cuts_ * most, u1 = std::min(u0 + most, t1_), lanes = u1 - u0 <= 4 ? 4 : pieces(u1 - u0, panel_.step) * panel_.step;
    float *const q = memory_ + i * most * (2 * D_ + 2), *const o = q + most * D_, *const m = o + most * D_;
    return {hk_ * p_.G + i / cuts_, u0, u1, lanes, q, o, m, m + most};
  }
  bool dots(const Queries& x) const { return x.lanes < panel_.step; }

  void start(const Queries& x) const {
    const float* const from = q_ + place(x.h, x.t0);
    if (dots(x)) {
      std::fill_n(x.q, 4 * D_, 0.f);
      for (int64_t r = 0; r < x.count(); ++r)
        for (int64_t d = 0; d < D_; ++d) x.q[r * D_ + d] = p_.scale * log2_e * from[r * row_ + d];
    } else {
      kernel::attention_pack(x.q, x.lanes, from, row_, x.count(), D_, p_.scale * log2_e);
    }
    std::fill_n(x.m, x.lanes, -infinity);
    std::fill_n(x.l, x.lanes, 0.f);
  }

  // While the block at j is worked on, the next keys and values are asked for, and queries and outputs of the next head.
  void expect(int64_t j) {
    const bool last = j + block_ >= end_, more = hk_ + 1 < p_.Hkv;
    const int64_t rows = !last ? std::min(block_, end_ - j - block_) : more ? block_ : 0, at = last ? p_.key(b_, begin_, hk_ + 1) : p_.key(b_, j + block_, hk_);
    ahead_.begin(3 * panels_);
    ahead_.expect(k_.at(at), rows, k_.bytes(D_), k_.bytes(k_.stride));
    ahead_.expect(v_.at(at), rows, v_.bytes(D_), v_.bytes(v_.stride));
    if (!more) return;
    const int64_t blocks = pieces(end_ - begin_, block_), i = (j - begin_) / block_, from = (t1_ - t0_) * i / blocks, to = (t1_ - t0_) * (i + 1) / blocks;
    const int64_t next = p_.query(b_, t0_ + from, hk_ + 1), bytes = p_.G * D_ * int64_t(sizeof(float)), stride = row_ * int64_t(sizeof(float));
    ahead_.expect(q_ + next, to - from, bytes, stride);
    ahead_.expect(y_ + next, to - from, bytes, stride);
  }

  // One panel, and those of the n keys from j on that it sees.
  void meet(const Queries& x, int64_t j, int64_t n, Floats k, Floats v) {
    const int64_t first = p_.first(x.t0), last = p_.limit(b_, x.t1 - 1), j0 = std::max(j, first), keys = std::min(j + n, last) - j0;      // that some query sees
    if (keys <= 0) return;
    const bool all = p_.limit(b_, x.t0) >= j0 + keys && p_.first(x.t1 - 1) <= j0, fresh = j0 == first, divide = j0 + keys == last;
    if (!all) look(from_, to_, x.lanes, p_, b_, j0, keys, [&](int64_t r) { return std::min(x.t0 + r, x.t1 - 1); });
    std::copy_n(x.m, x.lanes, top_);
    const float *const kj = k.p + (j0 - j) * k.stride, *const vj = v.p + (j0 - j) * v.stride;
    ahead_.ask();
    if (dots(x)) {
      kernel::attention_dots_f32(s_, top_, x.q, x.count(), kj, k.stride, keys, D_, nullptr);
      if (!all) hide(s_, top_, x.m, keys, from_, to_);
    } else {
      const kernel::Seen seen{from_, to_};
      kernel::attention_scores(s_, top_, x.q, x.lanes, kj, k.stride, keys, D_, all ? nullptr : &seen);
    }
    ahead_.ask();
    kernel::attention_softmax(s_, x.m, x.l, fix_, top_, x.lanes, keys);
    ahead_.ask();
    for (int64_t r = 0; divide && r < x.lanes; ++r) share_[r] = x.l[r] > 0 ? 1 / x.l[r] : x.l[r] - x.l[r];      // 0, and NaN for NaN
    // Outputs stay together until they are divided.
    float* const y = y_ + place(x.h, x.t0);
    const bool once = fresh && divide;
    kernel::attention_values_f32(once ? y : x.o, once ? row_ : D_, fresh ? nullptr : fix_, divide ? share_ : nullptr, s_, x.lanes, vj, v.stride, x.count(), keys, D_, nullptr);
    for (int64_t r = 0; divide && !once && r < x.count(); ++r) std::copy_n(x.o + r * D_, D_, y + r * row_);
  }

  float* const y_;
  const Problem& p_;
  const float* const q_;
  const Rows k_, v_;
  const int64_t b_, hk_, t0_, t1_;
  const kernel::Panel panel_ = tuned_panel();
  const int64_t D_ = p_.D, row_ = p_.H * D_, cuts_ = pieces(t1_ - t0_, panel_.most), panels_ = p_.G * cuts_;
  const int64_t begin_ = p_.first(t0_), end_ = p_.limit(b_, t1_ - 1);
  int64_t block_;
  float *memory_, *s_, *top_, *fix_, *share_, *from_, *to_, *keys_, *values_;
  Ahead ahead_;
};

void forward(float* y, float* lse, const Problem& p, const float* q, Rows k, Rows v) {
  if (p.T * p.G <= few_rows) {
    const Sequences one[] = {{y, lse, q, k, v}};
    return forward_few(p, one);
  }
  const int64_t most = tuned_panel().most, panels = pieces(p.T, most), blocks = pieces(panels, std::max<int64_t>(1, tuning::query_block() / (p.G * most)));
  const int64_t grain = std::max<int64_t>(1, piece_products / (pieces(panels, blocks) * most * p.G * std::max<int64_t>(p.S, 1) * p.D));
  parallel_for(p.B * p.Hkv * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {                   // heads of one range of queries follow one another, first those of the last range: it sees most
      const int64_t hk = i % p.Hkv, at = blocks - 1 - i / p.Hkv % blocks;
      Job job(y, p, q, k, v, i / p.Hkv / blocks, hk, panels * at / blocks * most, std::min(panels * (at + 1) / blocks * most, p.T));
      job.run();
      job.finish(lse);
    }
  });
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  const Timed timed([] { return "attention"; }, k.bytes() + v.bytes());
  const Problem p = check(q.shape(), k, v, options);
  const bool record = recording({q, k, v});
  const Tensor lse = record ? Tensor({p.B, p.Hkv, p.T, p.G}) : Tensor();
  Tensor y(q.shape());
  const Tensor near_q = rounded(q), near_k = rounded(k), near_v = rounded(v);
  if (y.size() > 0) forward(y.data(), record ? lse.data() : nullptr, p, near_q.data(), {near_k, p.Hkv * p.D}, {near_v, p.Hkv * p.D});
  if (!record) return y;

  require(k.dtype() == DType::F32, "attention: ", k.dtype(), " keys and values in training");
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

Tensor attention(const Tensor& q, std::span<const KeysAndValues> sequences, const AttentionOptions& options) {
  const int64_t B = q.rank() == 4 ? q.dim(0) : 0, row = B > 0 ? q.size() / B : 0;
  require(B >= 1 && int64_t(sequences.size()) == B && options.lengths.empty() && !Tape::current(), "attention: ", sequences.size(), " sequences for queries ", q.shape(),
          ", without lengths and in inference");
  const Timed timed([] { return "attention"; }, B * (sequences[0].k.bytes() + sequences[0].v.bytes()));
  Problem p{};
  Tensor y(q.shape());
  ArenaVector<Sequences> all;
  all.reserve(sequences.size());
  for (const auto& [k, v] : sequences) {
    p = check({1, q.dim(1), q.dim(2), q.dim(3)}, k, v, options);
    require(p.S == sequences[0].k.dim(1), "attention: sequences of ", p.S, " and ", sequences[0].k.dim(1), " keys");
    const int64_t at = int64_t(all.size()) * row;
    all.push_back({y.data() + at, nullptr, q.data() + at, {k, p.Hkv * p.D}, {v, p.Hkv * p.D}});
  }
  if (y.size() == 0) return y;
  if (p.T * p.G <= few_rows) forward_few(p, all);
  else
    for (const Sequences& s : all) forward(s.y, nullptr, p, s.q, s.k, s.v);
  return y;
}

}  // namespace kvt
