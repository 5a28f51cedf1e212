// Attention of few queries (decoding): memory is what they wait for. The keys are split among jobs, each with an online softmax of its own; the last step joins
// their states.
//
//   part i:   m_i = max s,   l_i = Σ 2^(s − m_i),   o_i = Σ 2^(s − m_i) v
//   O = Σ 2^(m_i − m) o_i / Σ 2^(m_i − m) l_i,      m = max m_i
#include "ops/attention.h"

#include <cmath>
#include <limits>

#include "ops/loops.h"
#include "ops/quant.h"
#include "ops/tuning.h"

namespace kvt::attn {

namespace {

constexpr int64_t key_split = 256;                          // keys of a job
constexpr float infinity = std::numeric_limits<float>::infinity();

// The online softmax of `rows` rows (t, g), a multiple of 4: o [rows, D] not yet divided by l
struct State { float *o, *m, *l; };

// All queries of batch row b over the keys [j0, j1): states [Hkv, rows] of the heads of keys. Meanwhile the next keys and values are asked for.
void attend_few(State state, const Problem& p, const float* q, Rows k, Rows v, int64_t b, int64_t rows, int64_t j0, int64_t j1) {
  thread_local Scratch scratch;
  const int64_t D = p.D, step = tuning::few_keys(), block = k.blocks() ? step * p.Hkv * D : 0;      // numbers that are unpacked before they are used
  float* const queries = scratch.floats(p.Hkv * rows * (D + step + 1) + 12 + block);
  float *const s = queries + p.Hkv * rows * D, *const fix = s + p.Hkv * rows * step, *const top = fix + p.Hkv * rows, *const from = top + 4, *const to = from + 4, *const unpacked = to + 4;
  std::fill_n(queries, p.Hkv * rows * D, 0.f);
  for (int64_t hk = 0; hk < p.Hkv; ++hk) gather(queries + hk * rows * D, p, q, b, hk, 0, p.T, p.scale * log2_e);
  std::fill_n(state.o, p.Hkv * rows * D, 0.f);
  std::fill_n(state.m, p.Hkv * rows, -infinity);
  std::fill_n(state.l, p.Hkv * rows, 0.f);

  j0 = std::max(j0, p.first(0));                            // the first query's window begins first
  j1 = std::min(j1, p.limit(b, p.T - 1));                   // the last query sees most
  for (int64_t j = j0; j < j1; j += step) {
    const int64_t n = std::min(step, j1 - j);
    const bool all = p.limit(b, 0) >= j + n && p.first(p.T - 1) <= j;
    // Rows of the keys from `next` on lie together, those of values too. Each head asks for its share of n rows of both, half with scores, half with values.
    const int64_t next = j + step;
    kernel::Ahead ahead;
    const auto asked = [&](int64_t hk, int64_t r, bool values) -> const kernel::Ahead* {
      if (r > 0 || next + n > p.S || block) return nullptr;      // blocks are read in order, which the processor guesses
      const int64_t at = p.key(b, next, 0) + (hk + (values ? p.Hkv : 0)) * n * D / 2;
      return ahead = {k.at(at), v.at(at)}, &ahead;
    };
    // The rows of one head as F32 where they are, or will be once those of all heads are unpacked
    const auto f32 = [&](Rows x, int64_t hk) { return block ? unpacked + hk * D : x.f32(p.key(b, j, hk)); };
    if (block) unpack(unpacked, DType::Q8_0, k.at(p.key(b, j, 0)), n * p.Hkv * D);
    for (int64_t hk = 0; hk < p.Hkv; ++hk)
      for (int64_t r = 0; r < rows; r += 4) {
        const int64_t row = hk * rows + r, at = p.key(b, j, hk), used = std::min<int64_t>(4, p.T * p.G - r);
        const float* const x = queries + row * D;
        float* const scores = s + row * step;
        std::copy_n(state.m + row, 4, top);
        if (k.half()) kernel::attention_dots_f16(scores, top, x, used, k.f16(at), k.stride, n, D, asked(hk, r, false));
        else kernel::attention_dots_f32(scores, top, x, used, f32(k, hk), k.stride, n, D, asked(hk, r, false));
        if (!all) {
          look(from, to, 4, p, b, j, n, [&](int64_t i) { return std::min((r + i) / p.G, p.T - 1); });
          hide(scores, top, state.m + row, n, from, to);
        }
        kernel::attention_softmax(scores, state.m + row, state.l + row, fix + row, top, 4, n);
      }
    if (block) unpack(unpacked, DType::Q8_0, v.at(p.key(b, j, 0)), n * p.Hkv * D);
    for (int64_t hk = 0; hk < p.Hkv; ++hk)
      for (int64_t r = 0; r < rows; r += 4) {
        const int64_t row = hk * rows + r, at = p.key(b, j, hk), used = std::min<int64_t>(4, p.T * p.G - r);
        float* const o = state.o + row * D;
        const float* const weights = s + row * step;
        if (v.half()) kernel::attention_values_f16(o, D, fix + row, nullptr, weights, 4, v.f16(at), v.stride, used, n, D, asked(hk, r, true));
        else kernel::attention_values_f32(o, D, fix + row, nullptr, weights, 4, f32(v, hk), v.stride, used, n, D, asked(hk, r, true));
      }
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

}  // namespace

void hide(float* s, float* top, const float* before, int64_t keys, const float* from, const float* to) {
  std::copy_n(before, 4, top);
  for (int64_t j = 0; j < keys; ++j)
    for (int64_t r = 0; r < 4; ++r) {
      float& x = s[4 * j + r];
      if (!(float(j) >= from[r] && float(j) < to[r])) x = -infinity;
      top[r] = std::max(top[r], x);
    }
}

void forward_few(const Problem& p, std::span<const Sequences> all) {
  thread_local Scratch scratch;                             // the parts, which other threads fill
  const int64_t rows = pieces(p.T * p.G, 4) * 4, parts = std::max<int64_t>(1, pieces(p.S, key_split)), heads = p.Hkv * rows, jobs = int64_t(all.size()) * p.B * parts;
  float* const o = scratch.floats(jobs * heads * (p.D + 2));
  const auto part = [=, m = o + jobs * heads * p.D, D = p.D](int64_t i) { return State{o + i * heads * D, m + i * heads, m + (jobs + i) * heads}; };
  const int64_t grain = std::max<int64_t>(1, piece_products / (heads * std::min(p.S, key_split) * p.D + 1));
  parallel_for(jobs, grain, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const Sequences& s = all[size_t(job / parts / p.B)];
      const int64_t j = job % parts * key_split;
      attend_few(part(job), p, s.q, s.k, s.v, job / parts % p.B, rows, j, std::min(j + key_split, p.S));
    }
  });
  for (int64_t i = 0; i < int64_t(all.size()) * p.B; ++i) {
    const Sequences& s = all[size_t(i / p.B)];
    join(s.y, s.lse, p, part(i * parts), parts, rows, i % p.B);
  }
}

}  // namespace kvt::attn
