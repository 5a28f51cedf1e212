// The pieces of attention for vectors of any length (contracts: ops/kernels.h). Queries lie in the lanes, so that scores come out of the first product as the
// second wants to read them, and the softmax between the two is arithmetic on whole vectors.
//
//   scores   acc[R keys][C vectors of queries] = Σ_d k[j, d] q[d, :]        keys broadcast where they lie
//   values   acc[R queries][C vectors of D]    = Σ_j p[j, r] v[j, :]        weights broadcast, R neighbours
#pragma once
#include "ops/simd/formats.h"
#include "ops/simd/tile.h"

namespace kvt {
namespace {

#if defined(__AVX512F__)
constexpr int score_keys = 8, score_vectors = 3, value_rows = 6, value_vectors = 4;      // 24 + 3 + 1, 24 + 4 + 1 of 32 registers
#elif defined(__AVX2__)
constexpr int score_keys = 6, score_vectors = 2, value_rows = 6, value_vectors = 2;      // 12 + 2 + 1 of 16
#elif defined(__aarch64__)
constexpr int score_keys = 4, score_vectors = 2, value_rows = 4, value_vectors = 4;      // what arm/attention.cpp leaves over
#else
constexpr int score_keys = 4, score_vectors = 2, value_rows = 4, value_vectors = 2;      // 8 + 2 + 1 + 1 for a product, of 16
#endif
constexpr int panel_lanes = 48;      // whole tiles of values, and of scores in vectors of any length

// --- queries into lanes ---

// Rows i, i + 4, i + 8 … of W rows: four numbers of each, side by side
inline V quads(const float* const* row, int i, int64_t d) {
#if defined(__AVX512F__)
  const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row[i] + d)), _mm_loadu_ps(row[i + 4] + d), 1);
  const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row[i + 8] + d)), _mm_loadu_ps(row[i + 12] + d), 1);
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#elif defined(__AVX2__)
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row[i] + d)), _mm_loadu_ps(row[i + 4] + d), 1);
#else
  return load(row[i] + d);
#endif
}

// Transposes the 4 × 4 numbers in each 128 bits of four vectors.
inline void transpose_quads(V (&x)[4]) {
#if defined(__AVX512F__)
  const __m512 a = _mm512_unpacklo_ps(x[0], x[1]), b = _mm512_unpackhi_ps(x[0], x[1]), c = _mm512_unpacklo_ps(x[2], x[3]), d = _mm512_unpackhi_ps(x[2], x[3]);
  x[0] = _mm512_shuffle_ps(a, c, 0x44), x[1] = _mm512_shuffle_ps(a, c, 0xee), x[2] = _mm512_shuffle_ps(b, d, 0x44), x[3] = _mm512_shuffle_ps(b, d, 0xee);
#elif defined(__AVX2__)
  const __m256 a = _mm256_unpacklo_ps(x[0], x[1]), b = _mm256_unpackhi_ps(x[0], x[1]), c = _mm256_unpacklo_ps(x[2], x[3]), d = _mm256_unpackhi_ps(x[2], x[3]);
  x[0] = _mm256_shuffle_ps(a, c, 0x44), x[1] = _mm256_shuffle_ps(a, c, 0xee), x[2] = _mm256_shuffle_ps(b, d, 0x44), x[3] = _mm256_shuffle_ps(b, d, 0xee);
#elif defined(__aarch64__)
  const float32x4_t a = vzip1q_f32(x[0], x[2]), b = vzip2q_f32(x[0], x[2]), c = vzip1q_f32(x[1], x[3]), d = vzip2q_f32(x[1], x[3]);
  x[0] = vzip1q_f32(a, c), x[1] = vzip2q_f32(a, c), x[2] = vzip1q_f32(b, d), x[3] = vzip2q_f32(b, d);
#else
  __m128 a = x[0], b = x[1], c = x[2], d = x[3];
  _MM_TRANSPOSE4_PS(a, b, c, d);
  x[0] = a, x[1] = b, x[2] = c, x[3] = d;
#endif
}

inline void attention_pack(float* y, int64_t lanes, const float* x, int64_t ldx, int64_t rows, int64_t D, float scale) {
  for (int64_t at = 0; at < lanes; at += W) {
    const float* row[W];
    alignas(64) float factor[W];
    for (int i = 0; i < W; ++i) {
      row[i] = x + std::clamp<int64_t>(at + i, 0, std::max<int64_t>(rows - 1, 0)) * ldx;
      factor[i] = at + i < rows ? scale : 0;
    }
    const V factors = V::load_aligned(factor);
    const bool whole = at + W <= rows;
    const auto used = factors != V(0.0f);                   // what is not may be infinite: never multiply it by zero
    int64_t d = 0;
    for (; rows > 0 && d + 4 <= D; d += 4) {
      V v[4] = {quads(row, 0, d), quads(row, 1, d), quads(row, 2, d), quads(row, 3, d)};
      transpose_quads(v);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) store(y + (d + i) * lanes + at, whole ? v[i] * factors : xsimd::select(used, v[i] * factors, V(0.0f)));
    }
    for (; d < D; ++d)
      for (int i = 0; i < W; ++i) y[d * lanes + at + i] = at + i < rows ? scale * row[i][d] : 0;
  }
}

// --- scores ---

// Not inline: within the loop over tiles the compiler would keep what all their addresses have in common, which takes more registers than there are.
template <int R, int C, bool masked>
[[gnu::noinline]] void score_tile(float* s, float* top, const float* q, int64_t lanes, const float* k, int64_t ldk, int64_t D, const float* from, const float* to, int64_t j) {
  V acc[R][C];
  clear(acc);
  multiply_rows<R, C>(acc, k, ldk, q, lanes, D);
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
    V largest = load(top + c * W);
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
      V x = acc[r][c];
      if constexpr (masked) x = xsimd::select(V(float(j + r)) >= load(from + c * W) && V(float(j + r)) < load(to + c * W), x, V(-infinity));
      store(s + r * lanes + c * W, x);
      largest = xsimd::max(largest, x);
    }
    store(top + c * W, largest);
  }
}

// Keys in tiles of R, then what is left in smaller ones.
template <int R, int C, bool masked>
inline void score_keys_of(float* s, float* top, const float* q, int64_t lanes, const float* k, int64_t ldk, int64_t keys, int64_t D, const float* from, const float* to,
                          int64_t j) {
  for (; keys - j >= R; j += R) score_tile<R, C, masked>(s + j * lanes, top, q, lanes, k + j * ldk, ldk, D, from, to, j);
  if constexpr (R > 1)
    if (j < keys) score_keys_of<(R > 4 ? 4 : R / 2), C, masked>(s, top, q, lanes, k, ldk, keys, D, from, to, j);
}

template <int C, bool masked>
inline void score_columns(float* s, float* top, const float* q, int64_t lanes, const float* k, int64_t ldk, int64_t keys, int64_t D, const kernel::Seen* seen, int64_t at) {
  for (; at + C * W <= lanes; at += C * W)
    score_keys_of<score_keys, C, masked>(s + at, top + at, q + at, lanes, k, ldk, keys, D, masked ? seen->from + at : nullptr, masked ? seen->to + at : nullptr, 0);
  if constexpr (C > 1)
    if (at < lanes) score_columns<C - 1, masked>(s, top, q, lanes, k, ldk, keys, D, seen, at);
}

inline void attention_scores(float* s, float* top, const float* q, int64_t lanes, const float* k, int64_t ldk, int64_t keys, int64_t D, const kernel::Seen* seen) {
  if (seen) score_columns<score_vectors, true>(s, top, q, lanes, k, ldk, keys, D, seen, 0);
  else score_columns<score_vectors, false>(s, top, q, lanes, k, ldk, keys, D, seen, 0);
}

// Of R vectors: in each 128 bits a part of their sums. What stands behind the R-th is no news.
template <int R>
inline V sums_of(V (&x)[4]) {
#if defined(__AVX512F__)
  if constexpr (R < 4) {
    const auto swapped = [](V y) -> V { return _mm512_shuffle_ps(y, y, 0x4e); };      // numbers 2, 3, 0, 1
    if constexpr (R == 1) {
      const V y = x[0] + swapped(x[0]);
      return y + V(_mm512_shuffle_ps(y, y, 0xb1));
    } else {
      const V y = V(_mm512_unpacklo_ps(x[0], x[1])) + V(_mm512_unpackhi_ps(x[0], x[1]));
      if constexpr (R == 2) return y + swapped(y);
      const V z = x[2] + swapped(x[2]);
      return V(_mm512_mask_blend_ps(0xcccc, y, z)) + V(_mm512_shuffle_ps(y, z, 0x1e));
    }
  }
#endif
  for (int r = R; r < 4; ++r) x[r] = V(0.0f);
  transpose_quads(x);
  return (x[0] + x[1]) + (x[2] + x[3]);
}
// The four sums of W/4 keys, side by side, from those parts
inline V join_parts(const V (&key)[W / 4]) {
#if defined(__AVX512F__)
  const V low = V(_mm512_shuffle_f32x4(key[0], key[1], 0x44)) + V(_mm512_shuffle_f32x4(key[0], key[1], 0xee));
  const V high = V(_mm512_shuffle_f32x4(key[2], key[3], 0x44)) + V(_mm512_shuffle_f32x4(key[2], key[3], 0xee));
  return V(_mm512_shuffle_f32x4(low, high, 0x88)) + V(_mm512_shuffle_f32x4(low, high, 0xdd));
#elif defined(__AVX2__)
  return V(_mm256_permute2f128_ps(key[0], key[1], 0x20)) + V(_mm256_permute2f128_ps(key[0], key[1], 0x31));
#else
  return key[0];
#endif
}

// While few queries work on row j of so many bytes: half as much of each of what comes next
[[gnu::always_inline]] inline void ask(const kernel::Ahead* ahead, int64_t j, int64_t bytes) {
  if (!ahead) return;
  for (int64_t i = j * bytes / 2; i < (j + 1) * bytes / 2; i += 64) {
    __builtin_prefetch(static_cast<const char*>(ahead->keys) + i, 0, 2);
    __builtin_prefetch(static_cast<const char*>(ahead->values) + i, 0, 2);
  }
}

// The dot products of W/4 keys at a time with R queries, key by key: memory is what few queries wait for, and it likes order. N vectors make up D, or 0: any D.
template <class Format, int N, int R>
void dots_of(float* s, float* top, const float* q, const typename Format::Number* k, int64_t ldk, int64_t keys, int64_t D, const kernel::Ahead* ahead) {
  constexpr int at_once = W / 4;
  if constexpr (N > 0) D = N * W;
  const int64_t left = D % W;
  V largest(-infinity);
  for (int64_t j = 0; j < keys; j += at_once, s += W) {
    V part[at_once];
#pragma GCC unroll 4
    for (int i = 0; i < at_once; ++i) {
      const auto* const key = k + std::min(j + i, keys - 1) * ldk;
      ask(ahead, std::min(j + i, keys - 1), D * int64_t(sizeof(*k)));
      V sum[4];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r] = V(0.0f);
#pragma GCC unroll 8
      for (int64_t d = 0; d < D - left; d += W) {
        const V x = Format::widen(key + d);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sum[r] = fma(x, load(q + r * D + d), sum[r]);
      }
      if (N == 0 && left > 0) {
        const V x = widen_part<Format>(key + D - left, left);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sum[r] = fma(x, load(q + (r + 1) * D - left, left, 0), sum[r]);
      }
      part[i] = sums_of<R>(sum);
    }
    const V sums = join_parts(part);
    largest = xsimd::max(largest, sums);                    // the last key again, where there are no more, is no news
    if (keys - j >= at_once) store(s, sums);
    else store(s, 4 * (keys - j), sums);
  }
  alignas(64) float of[W];
  largest.store_aligned(of);
  for (int i = 0; i < W; ++i) top[i % 4] = std::max(top[i % 4], of[i]);
}

// f(R) with the number of rows, 1 to 4, as a constant
template <class F>
inline void with_rows(int64_t rows, F f) {
  if (rows == 1) f(std::integral_constant<int, 1>());
  else if (rows == 2) f(std::integral_constant<int, 2>());
  else if (rows == 3) f(std::integral_constant<int, 3>());
  else f(std::integral_constant<int, 4>());
}

template <class Format>
void attention_dots(float* s, float* top, const float* q, int64_t rows, const typename Format::Number* k, int64_t ldk, int64_t keys, int64_t D, const kernel::Ahead* ahead) {
  with_rows(rows, [&](auto R) {
    if (D == 64) dots_of<Format, 64 / W, R>(s, top, q, k, ldk, keys, D, ahead);
    else if (D == 128) dots_of<Format, 128 / W, R>(s, top, q, k, ldk, keys, D, ahead);
    else dots_of<Format, 0, R>(s, top, q, k, ldk, keys, D, ahead);
  });
}

// --- softmax ---

// One vector of queries, or four queries in a vector of several keys: `step` numbers from one to the next
inline V weights(float* s, int64_t step, int64_t n, V top) {
  V total[2] = {V(0.0f), V(0.0f)};
  int64_t j = 0;
  for (; j + 2 <= n; j += 2, s += 2 * step)
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const V p = exp2_negative(load(s + i * step) - top);
      store(s + i * step, p);
      total[i] += p;
    }
  if (j < n) {
    const V p = exp2_negative(load(s) - top);
    store(s, p);
    total[0] += p;
  }
  return total[0] + total[1];
}

// Where nothing was seen, top is −∞; any finite number in its place gives the weights 0.
inline V finite(V top) { return xsimd::select(top == V(-infinity), V(0.0f), top); }
inline V correction(V m, V top) { return xsimd::select(top == V(-infinity), V(1.0f), exp2_negative(m - finite(top))); }

inline void softmax_of_four(float* s, float* m, float* l, float* fix, const float* top, int64_t keys) {
  alignas(64) float tops[W], before[W], fixes[W], sums[W];
  for (int i = 0; i < W; ++i) tops[i] = top[i % 4], before[i] = m[i % 4];
  const V t = V::load_aligned(tops);
  const int64_t whole = 4 * keys / W, left = 4 * keys % W;
  V total = weights(s, W, whole, finite(t));
  if (left > 0) {
    const V p = exp2_negative(load(s + whole * W, left, -infinity) - finite(t));
    store(s + whole * W, left, p);
    total += p;
  }
  total.store_aligned(sums);
  correction(V::load_aligned(before), t).store_aligned(fixes);
  for (int i = 4; i < W; ++i) sums[i % 4] += sums[i];
  for (int i = 0; i < 4; ++i) fix[i] = fixes[i], l[i] = l[i] * fix[i] + sums[i], m[i] = top[i];
}

inline void attention_softmax(float* s, float* m, float* l, float* fix, const float* top, int64_t lanes, int64_t keys) {
  if (lanes < W) return softmax_of_four(s, m, l, fix, top, keys);
  for (int64_t at = 0; at < lanes; at += W) {
    const V t = load(top + at), c = correction(load(m + at), t);
    store(fix + at, c);
    store(l + at, fma(load(l + at), c, weights(s + at, lanes, keys, finite(t))));
    store(m + at, t);
  }
}

// --- values ---

template <int R, class B, class Read, class Write, int C>
[[gnu::always_inline]] inline void value_tile(float* o, int64_t ldo, const float* keep, const float* share, const float* p, int64_t lanes, B b, int64_t keys, Read read,
                                              Write write, std::integral_constant<int, C>) {
  V acc[R][C];
  clear(acc);
  multiply<R, C>(acc, p, 1, lanes, b, keys);
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      V x = acc[r][c];
      if (keep) x = fma(V(keep[r]), read(o + r * ldo + c * W), x);
      if (share) x *= V(share[r]);
      write(o + r * ldo + c * W, x);
    }
}

// C vectors of R queries at a time, then with a smaller C what is left of D.
template <class Format, int R, int C>
inline void value_columns(float* o, int64_t ldo, const float* keep, const float* share, const float* p, int64_t lanes, const typename Format::Number* v, int64_t ldv,
                          int64_t keys, int64_t D, int64_t d, const kernel::Ahead* ahead) {
  for (; d + C * W <= D; d += C * W)
    value_tile<R>(o + d, ldo, keep, share, p, lanes, [=](int64_t j, int c) {
      if (R <= 4 && c == 0 && d == 0) ask(ahead, j, D * int64_t(sizeof(*v)));
      return Format::widen(v + j * ldv + d + c * W);
    }, keys,
                  [](const float* x) { return load(x); }, [](float* x, V y) { store(x, y); }, std::integral_constant<int, C>());
  if constexpr (C > 1) {
    if (d < D) value_columns<Format, R, C / 2>(o, ldo, keep, share, p, lanes, v, ldv, keys, D, d, ahead);
  } else if (d < D) {
    const int64_t n = D - d;
    value_tile<R>(o + d, ldo, keep, share, p, lanes, [=](int64_t j, int) { return widen_part<Format>(v + j * ldv + d, n); }, keys,
                  [=](const float* x) { return load(x, n, 0); }, [=](float* x, V y) { store(x, n, y); }, std::integral_constant<int, 1>());
  }
}

template <class Format, int R>
inline void value_rows_of(float* o, int64_t ldo, const float* keep, const float* share, const float* p, int64_t lanes, const typename Format::Number* v, int64_t ldv,
                          int64_t rows, int64_t keys, int64_t D, int64_t r, const kernel::Ahead* ahead) {
  for (; rows - r >= R; r += R)
    value_columns<Format, R, value_vectors>(o + r * ldo, ldo, keep ? keep + r : nullptr, share ? share + r : nullptr, p + r, lanes, v, ldv, keys, D, 0, ahead);
  if constexpr (R > 1)
    if (r < rows) value_rows_of<Format, (R > 4 ? 4 : R - 1)>(o, ldo, keep, share, p, lanes, v, ldv, rows, keys, D, r, ahead);
}

template <class Format>
void attention_values(float* o, int64_t ldo, const float* keep, const float* share, const float* p, int64_t lanes, const typename Format::Number* v, int64_t ldv,
                      int64_t rows, int64_t keys, int64_t D, const kernel::Ahead* ahead) {
  value_rows_of<Format, value_rows>(o, ldo, keep, share, p, lanes, v, ldv, rows, keys, D, 0, ahead);
}

}  // namespace
}  // namespace kvt
