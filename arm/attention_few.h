// Attention for up to four queries, one to a lane or to a row of sums, with keys and values as they are stored: F32, or F16 by FCVTL.
//
//   dots     16 sums: 4 keys × 4 queries along D, four numbers at a time; added across at the end        4 of q, 1 of k
//   values   16 sums: 4 queries × 16 numbers of D                                                        4 of v, 1 of weights, by lane
#pragma once
#include <arm_neon.h>

#include "ops/simd/attention.h"

namespace kvt {
namespace {

// Four keys and R queries, so that no sum waits for the one before. Their products lie along D, and are summed across in the end.
template <class Format, int R>
void dots_of_rows(float* s, float* top, const float* q, const typename Format::Number* k, int64_t ldk, int64_t keys, int64_t D, const kernel::Ahead* ahead) {
  const float32x4_t zero = vdupq_n_f32(0);
  float32x4_t largest = vld1q_f32(top);
  for (int64_t j = 0; j < keys; j += 4, s += 16) {
    const typename Format::Number* row[4];
    for (int64_t i = 0; i < 4; ++i) {
      row[i] = k + std::min(j + i, keys - 1) * ldk;
      ask(ahead, std::min(j + i, keys - 1), D * int64_t(sizeof(*k)));
    }
    float32x4_t sums[4][4];
#pragma GCC unroll 4
    for (auto& of_key : sums)
#pragma GCC unroll 4
      for (float32x4_t& x : of_key) x = zero;
    const auto add = [&](auto key, auto query) __attribute__((always_inline)) {
      float32x4_t x[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) x[r] = query(q + r * D);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const float32x4_t y = key(row[i]);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sums[i][r] = vfmaq_f32(sums[i][r], y, x[r]);
      }
    };
    int64_t d = 0;
    for (; d + 4 <= D; d += 4)
      add([=](const auto* p) -> float32x4_t { return Format::widen(p + d); }, [=](const float* p) -> float32x4_t { return vld1q_f32(p + d); });
    if (d < D)
      add([=](const auto* p) -> float32x4_t { return widen_part<Format>(p + d, D - d); }, [=](const float* p) -> float32x4_t { return load(p + d, D - d, 0); });
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float32x4_t sum = vpaddq_f32(vpaddq_f32(sums[i][0], sums[i][1]), vpaddq_f32(sums[i][2], sums[i][3]));
      largest = vmaxnmq_f32(largest, sum);                  // a NaN is passed over, as by std::max: the softmax meets it in s. The last key again is no news
      if (j + i < keys) vst1q_f32(s + 4 * i, sum);
    }
  }
  vst1q_f32(top, largest);
}

template <class Format>
void few_dots(float* s, float* top, const float* q, int64_t rows, const typename Format::Number* k, int64_t ldk, int64_t keys, int64_t D, const kernel::Ahead* ahead) {
  with_rows(rows, [&](auto R) { dots_of_rows<Format, R>(s, top, q, k, ldk, keys, D, ahead); });
}

// R queries and C vectors of D: weights of a key in one vector, by lane
template <class Format, int R, int C>
inline void values_of_rows(float* o, int64_t ldo, const float* keep, const float* share, const float* p, int64_t lanes, const typename Format::Number* v, int64_t ldv,
                           int64_t keys, int64_t D, const kernel::Ahead* ahead) {
  float32x4_t sums[R][C];
#pragma GCC unroll 4
  for (auto& of_query : sums)
#pragma GCC unroll 4
    for (float32x4_t& x : of_query) x = vdupq_n_f32(0);
  for (int64_t j = 0; j < keys; ++j, p += lanes, v += ldv) {
    const float32x4_t w = vld1q_f32(p);
    ask(ahead, j, D * int64_t(sizeof(*v)));
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const float32x4_t x = Format::widen(v + c * 4);
      sums[0][c] = vfmaq_laneq_f32(sums[0][c], x, w, 0);
      if constexpr (R > 1) sums[1][c] = vfmaq_laneq_f32(sums[1][c], x, w, 1);
      if constexpr (R > 2) sums[2][c] = vfmaq_laneq_f32(sums[2][c], x, w, 2);
      if constexpr (R > 3) sums[3][c] = vfmaq_laneq_f32(sums[3][c], x, w, 3);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      float* const to = o + r * ldo + c * 4;
      float32x4_t x = sums[r][c];
      if (keep) x = vfmaq_n_f32(x, vld1q_f32(to), keep[r]);
      vst1q_f32(to, share ? vmulq_n_f32(x, share[r]) : x);
    }
}

template <class Format>
void few_values(float* o, int64_t ldo, const float* keep, const float* share, const float* p, int64_t lanes, const typename Format::Number* v, int64_t ldv,
                int64_t rows, int64_t keys, int64_t D, const kernel::Ahead* ahead) {
  if (rows > 4) return attention_values<Format>(o, ldo, keep, share, p, lanes, v, ldv, rows, keys, D, ahead);
  int64_t d = 0;
  with_rows(rows, [&](auto R) {
    for (; d + 16 <= D; d += 16) values_of_rows<Format, R, 4>(o + d, ldo, keep, share, p, lanes, v + d, ldv, keys, D, d ? nullptr : ahead);
    for (; d + 4 <= D; d += 4) values_of_rows<Format, R, 1>(o + d, ldo, keep, share, p, lanes, v + d, ldv, keys, D, d ? nullptr : ahead);
  });
  if (d < D) attention_values<Format>(o + d, ldo, keep, share, p, lanes, v + d, ldv, rows, keys, D - d, d ? nullptr : ahead);
}

}  // namespace
}  // namespace kvt
