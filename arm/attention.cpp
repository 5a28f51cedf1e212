// Attention's tiles for ARMv8.0 (contracts: ops/kernels.h), in assembly because GCC 12 spills or copies.
//
//   scores   8 keys × 8 queries      keys by lane, four numbers of each a load; the next four are loaded where the last lane is used
//   values   8 queries × 8 numbers   weights by lane, values by vector
//
// Registers of a score tile: v0 … v15 sums (key r in v(2r), v(2r+1)), v16 … v23 four numbers of each key, v24 … v27 queries in turns, v28 v29
// the largest scores. Of a value tile: v0 … v15 sums, v16 … v19 and v20 … v23 weights and values in turns, v24 v25 what scales the sums.
// The first products are FMUL, so no sum is cleared; what is done with the sums, and the step to the next tile, stand behind the last
// products without a branch: loads, stores and additions of addresses hide behind multiply-adds.
#include "arm/attention_few.h"
#include "ops/simd/attention.h"

namespace kvt {
namespace {

// --- scores ---

// One key: its sums, the register of its numbers, the lane; the queries in vectors a and b.
#define KVT_KEY(op, c0, c1, k, lane, a, b) #op " v" #c0 ".4s, v" #a ".4s, v" #k ".s[" #lane "]\n" #op " v" #c1 ".4s, v" #b ".4s, v" #k ".s[" #lane "]\n"
#define KVT_FOUR_KEYS(op, lane, a, b) \
  KVT_KEY(op, 0, 1, 16, lane, a, b) KVT_KEY(op, 2, 3, 17, lane, a, b) KVT_KEY(op, 4, 5, 18, lane, a, b) KVT_KEY(op, 6, 7, 19, lane, a, b)
#define KVT_EIGHT_KEYS(op, lane, a, b)                                                                \
  KVT_FOUR_KEYS(op, lane, a, b) KVT_KEY(op, 8, 9, 20, lane, a, b) KVT_KEY(op, 10, 11, 21, lane, a, b) \
      KVT_KEY(op, 12, 13, 22, lane, a, b) KVT_KEY(op, 14, 15, 23, lane, a, b)
// The same with the last of the numbers, and the next four numbers of the key.
#define KVT_LAST(c0, c1, k, r, a, b) KVT_KEY(fmla, c0, c1, k, 3, a, b) "ldr q" #k ", [%[k" #r "]], #16\n"
#define KVT_FOUR_LAST(a, b) KVT_LAST(0, 1, 16, 0, a, b) KVT_LAST(2, 3, 17, 1, a, b) KVT_LAST(4, 5, 18, 2, a, b) KVT_LAST(6, 7, 19, 3, a, b)
#define KVT_EIGHT_LAST(a, b) \
  KVT_FOUR_LAST(a, b) KVT_LAST(8, 9, 20, 4, a, b) KVT_LAST(10, 11, 21, 5, a, b) KVT_LAST(12, 13, 22, 6, a, b) KVT_LAST(14, 15, 23, 7, a, b)
#define KVT_QUERIES(a, b) "ldp q" #a ", q" #b ", [%[q]], #32\n"
#define KVT_LOAD(k, r) "ldr q" #k ", [%[k" #r "]], #16\n"

// Four numbers of every key; the last time nothing is loaded beyond them.
#define KVT_NUMBERS(keys, op)                                                                                                       \
  KVT_QUERIES(26, 27) KVT_##keys##_KEYS(op, 0, 24, 25) KVT_QUERIES(24, 25) KVT_##keys##_KEYS(fmla, 1, 26, 27) KVT_QUERIES(26, 27)   \
      KVT_##keys##_KEYS(fmla, 2, 24, 25) KVT_QUERIES(24, 25) KVT_##keys##_LAST(26, 27)
#define KVT_LAST_NUMBERS(keys)                                                                                                      \
  KVT_QUERIES(26, 27) KVT_##keys##_KEYS(fmla, 0, 24, 25) KVT_QUERIES(24, 25) KVT_##keys##_KEYS(fmla, 1, 26, 27) KVT_QUERIES(26, 27) \
      KVT_##keys##_KEYS(fmla, 2, 24, 25) KVT_##keys##_KEYS(fmla, 3, 26, 27)
#define KVT_STORE(c0, c1, at) "stp q" #c0 ", q" #c1 ", [%[s], #" #at "]\n"
#define KVT_TOP(a, b) "fmax v28.4s, v28.4s, v" #a ".4s\n fmax v29.4s, v29.4s, v" #b ".4s\n"

#define KVT_LOAD_ROWS KVT_LOAD(16, 0) KVT_LOAD(17, 1) KVT_LOAD(18, 2) KVT_LOAD(19, 3) KVT_LOAD(20, 4) KVT_LOAD(21, 5) KVT_LOAD(22, 6) KVT_LOAD(23, 7)
#define KVT_NEXT_ROW(r) "add %[k" #r "], %[k" #r "], %[step]\n"

// `tiles` times eight keys, which begin at k[0] … k[7] and go on eight rows further.  D: a multiple of 4, from 12 on.
void eight_by_eight(float* s, float* top, const float* q, const float* const* k, int64_t ldk, int64_t D, int64_t tiles) {
  const float *k0 = k[0], *k1 = k[1], *k2 = k[2], *k3 = k[3], *k4 = k[4], *k5 = k[5], *k6 = k[6], *k7 = k[7];
  int64_t n;
  asm volatile(
      "ldp q28, q29, [%[top]]\n"
      "1:\n"
      "mov %[n], %[turns]\n"
      KVT_LOAD_ROWS KVT_QUERIES(24, 25)
      KVT_NUMBERS(EIGHT, fmul)
      "2:\n"
      "subs %[n], %[n], #1\n"
      KVT_NUMBERS(EIGHT, fmla)
      "b.ne 2b\n"
      "subs %[tiles], %[tiles], #1\n"
      KVT_LAST_NUMBERS(EIGHT)
      "sub %[q], %[q], %[panel]\n"
      KVT_NEXT_ROW(0) KVT_NEXT_ROW(1) KVT_NEXT_ROW(2) KVT_NEXT_ROW(3) KVT_NEXT_ROW(4) KVT_NEXT_ROW(5) KVT_NEXT_ROW(6) KVT_NEXT_ROW(7)
      KVT_STORE(0, 1, 0) KVT_STORE(2, 3, 32) KVT_STORE(4, 5, 64) KVT_STORE(6, 7, 96) KVT_STORE(8, 9, 128) KVT_STORE(10, 11, 160) KVT_STORE(12, 13, 192) KVT_STORE(14, 15, 224)
      KVT_TOP(0, 1) KVT_TOP(2, 3) KVT_TOP(4, 5) KVT_TOP(6, 7) KVT_TOP(8, 9) KVT_TOP(10, 11) KVT_TOP(12, 13) KVT_TOP(14, 15)
      "add %[s], %[s], #256\n"
      "b.ne 1b\n"
      "stp q28, q29, [%[top]]\n"
      : [s] "+r"(s), [q] "+r"(q), [n] "=&r"(n), [tiles] "+r"(tiles), [k0] "+r"(k0), [k1] "+r"(k1), [k2] "+r"(k2), [k3] "+r"(k3), [k4] "+r"(k4), [k5] "+r"(k5),
        [k6] "+r"(k6), [k7] "+r"(k7)
      : [top] "r"(top), [turns] "r"(D / 4 - 2), [panel] "r"(D * 32), [step] "r"((8 * ldk - D) * 4)
      : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19",
        "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29");
}

void four_by_eight(float* s, float* top, const float* q, const float* const* k, int64_t D) {
  const float *k0 = k[0], *k1 = k[1], *k2 = k[2], *k3 = k[3];
  int64_t n = D / 4 - 2;
  asm volatile(
      KVT_LOAD(16, 0) KVT_LOAD(17, 1) KVT_LOAD(18, 2) KVT_LOAD(19, 3) KVT_QUERIES(24, 25)
      KVT_NUMBERS(FOUR, fmul)
      "1:\n"
      "subs %[n], %[n], #1\n"
      KVT_NUMBERS(FOUR, fmla)
      "b.ne 1b\n"
      "ldp q28, q29, [%[top]]\n"
      KVT_LAST_NUMBERS(FOUR)
      KVT_STORE(0, 1, 0) KVT_STORE(2, 3, 32) KVT_STORE(4, 5, 64) KVT_STORE(6, 7, 96)
      KVT_TOP(0, 1) KVT_TOP(2, 3) KVT_TOP(4, 5) KVT_TOP(6, 7)
      "stp q28, q29, [%[top]]\n"
      : [q] "+r"(q), [n] "+r"(n), [k0] "+r"(k0), [k1] "+r"(k1), [k2] "+r"(k2), [k3] "+r"(k3)
      : [s] "r"(s), [top] "r"(top)
      : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v24", "v25", "v26", "v27", "v28", "v29");
}

void scores_of_eight(float* s, float* top, const float* q, const float* k, int64_t ldk, int64_t keys, int64_t D) {
  const float* row[8];
  const auto rows_from = [&](int64_t j) {                   // the last key again where there are no more: its scores are no news
    for (int64_t i = 0; i < 8; ++i) row[i] = k + std::min(j + i, keys - 1) * ldk;
  };
  const int64_t whole = keys / 8 * 8, left = keys - whole;
  rows_from(0);
  if (whole > 0) eight_by_eight(s, top, q, row, ldk, D, whole / 8);
  if (left == 0) return;
  alignas(16) float last[64];
  rows_from(whole);
  if (left > 4) eight_by_eight(last, top, q, row, ldk, D, 1);
  else four_by_eight(last, top, q, row, D);
  std::copy_n(last, left * 8, s + whole * 8);
}

// Scores where a query looks, −∞ elsewhere; and the largest.
void hide(float* s, float* top, int64_t keys, const kernel::Seen& seen) {
  for (int c = 0; c < 8; c += 4) {
    const float32x4_t from = vld1q_f32(seen.from + c), to = vld1q_f32(seen.to + c);
    float32x4_t largest = vld1q_f32(top + c);
    for (int64_t j = 0; j < keys; ++j) {
      const float32x4_t key = vdupq_n_f32(float(j));
      const float32x4_t x = vbslq_f32(vandq_u32(vcgeq_f32(key, from), vcltq_f32(key, to)), vld1q_f32(s + j * 8 + c), vdupq_n_f32(-infinity));
      vst1q_f32(s + j * 8 + c, x);
      largest = vmaxq_f32(largest, x);
    }
    vst1q_f32(top + c, largest);
  }
}

void neon_scores(float* s, float* top, const float* q, int64_t lanes, const float* k, int64_t ldk, int64_t keys, int64_t D, const kernel::Seen* seen) {
  if (D % 4 != 0 || D < 12) return attention_scores(s, top, q, lanes, k, ldk, keys, D, seen);
  alignas(16) float unmasked[8] = {};
  scores_of_eight(s, seen ? unmasked : top, q, k, ldk, keys, D);
  if (seen) hide(s, top, keys, *seen);
}

// --- softmax ---

// Two keys of eight queries, four vectors in step, for each waits long for its last result: x in v16 … v19, z in v20 … v23, and two registers
// for the polynomial's turns. 2^y by ops/simd/vec.h's exp2_negative. FMLA overwrites the coefficient that it adds to, so each comes from
// memory anew: the load pipe is idle, while a copy between registers would take a pipe of the arithmetic.
constexpr float exp2_terms[] = {0.00967554133f, 0.0555071327f, 0.240221197f, 0.693146967f, 1.00000007f};

// f(x, z, p, t, top, sum)
#define KVT_KEY_OF_EIGHT(f) f(16, 20, 24, 28, 0, 2) f(17, 21, 25, 29, 1, 3)
#define KVT_TWO_KEYS(f) KVT_KEY_OF_EIGHT(f) f(18, 22, 26, 30, 0, 7) f(19, 23, 27, 31, 1, 8)
#define KVT_BELOW_TOP(x, z, p, t, top, sum) "fsub v" #x ".4s, v" #x ".4s, v" #top ".4s\n"
#define KVT_CLAMP(x, z, p, t, top, sum) "fmax v" #x ".4s, v" #x ".4s, v6.4s\n"
#define KVT_SHIFT(x, z, p, t, top, sum) "fadd v" #z ".4s, v" #x ".4s, v5.4s\n"
#define KVT_ROUND(x, z, p, t, top, sum) "fsub v" #p ".4s, v" #z ".4s, v5.4s\n ldr q" #t ", [%[terms]]\n"
#define KVT_FRACTION(x, z, p, t, top, sum) "fsub v" #x ".4s, v" #x ".4s, v" #p ".4s\n shl v" #z ".4s, v" #z ".4s, #23\n"
#define KVT_FIRST(x, z, p, t, top, sum) "fmla v" #t ".4s, v4.4s, v" #x ".4s\n ldr q" #p ", [%[terms], #16]\n"
#define KVT_SECOND(x, z, p, t, top, sum) "fmla v" #p ".4s, v" #t ".4s, v" #x ".4s\n ldr q" #t ", [%[terms], #32]\n"
#define KVT_THIRD(x, z, p, t, top, sum) "fmla v" #t ".4s, v" #p ".4s, v" #x ".4s\n ldr q" #p ", [%[terms], #48]\n"
#define KVT_FOURTH(x, z, p, t, top, sum) "fmla v" #p ".4s, v" #t ".4s, v" #x ".4s\n ldr q" #t ", [%[terms], #64]\n"
#define KVT_FIFTH(x, z, p, t, top, sum) "fmla v" #t ".4s, v" #p ".4s, v" #x ".4s\n"
#define KVT_POWER(x, z, p, t, top, sum) "fmul v" #t ".4s, v" #t ".4s, v" #z ".4s\n"
#define KVT_TOTAL(x, z, p, t, top, sum) "fadd v" #sum ".4s, v" #sum ".4s, v" #t ".4s\n"
#define KVT_WEIGHTS(keys)                                                                                                        \
  keys(KVT_BELOW_TOP) keys(KVT_CLAMP) keys(KVT_SHIFT) keys(KVT_ROUND) keys(KVT_FRACTION) keys(KVT_FIRST) keys(KVT_SECOND)        \
      keys(KVT_THIRD) keys(KVT_FOURTH) keys(KVT_FIFTH) keys(KVT_POWER) keys(KVT_TOTAL)

// n keys of eight queries: p = 2^(s − top) in place, and Σ p
void neon_weights(float* s, const float* top, float* total, int64_t n) {
  alignas(16) float terms[5][4];
  for (int i = 0; i < 5; ++i) std::fill_n(terms[i], 4, exp2_terms[i]);
  const float first = 0.00132764717f, magic = 12582912.0f + 127, lowest = -127;
  int64_t pairs = n / 2, odd = n % 2;
  asm volatile(
      "ldp q0, q1, [%[top]]\n movi v2.4s, #0\n movi v3.4s, #0\n movi v7.4s, #0\n movi v8.4s, #0\n"
      "dup v4.4s, %[first].s[0]\n dup v5.4s, %[magic].s[0]\n dup v6.4s, %[lowest].s[0]\n"
      "cbz %[pairs], 2f\n"
      "1:\n"
      "ldp q16, q17, [%[s]]\n ldp q18, q19, [%[s], #32]\n"
      "subs %[pairs], %[pairs], #1\n"
      KVT_WEIGHTS(KVT_TWO_KEYS)
      "stp q28, q29, [%[s]]\n stp q30, q31, [%[s], #32]\n"
      "add %[s], %[s], #64\n"                              // a store that moves its address would hold up the next load until p is there
      "b.ne 1b\n"
      "2:\n"
      "cbz %[odd], 3f\n"
      "ldp q16, q17, [%[s]]\n"
      KVT_WEIGHTS(KVT_KEY_OF_EIGHT)
      "stp q28, q29, [%[s]]\n"
      "3:\n"
      "fadd v2.4s, v2.4s, v7.4s\n fadd v3.4s, v3.4s, v8.4s\n stp q2, q3, [%[total]]\n"
      : [s] "+r"(s), [pairs] "+r"(pairs)
      : [top] "r"(top), [total] "r"(total), [terms] "r"(terms), [odd] "r"(odd), [first] "w"(first), [magic] "w"(magic), [lowest] "w"(lowest)
      : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26",
        "v27", "v28", "v29", "v30", "v31");
}

void neon_softmax(float* s, float* m, float* l, float* fix, const float* top, int64_t lanes, int64_t keys) {
  alignas(16) float tops[8], total[8];
  for (int i = 0; i < 8; i += 4) {
    const V t = load(top + i % lanes);
    if (i < lanes) store(fix + i, correction(load(m + i), t)), store(m + i, t);
    store(tops + i, finite(t));
  }
  neon_weights(s, tops, total, keys * lanes / 8);           // four lanes: two keys take the place of one
  if (lanes == 4) {
    V sum = load(total) + load(total + 4);
    if (keys % 2) {
      const V last = exp2_negative(load(s + (keys - 1) * 4) - load(tops));
      store(s + (keys - 1) * 4, last);
      sum += last;
    }
    store(total, sum);
  }
  for (int64_t i = 0; i < lanes; i += 4) store(l + i, fma(load(l + i), load(fix + i), load(total + i)));
}

// --- values ---

// One query: its sums, the register and lane of its weight; the values in vectors a and b.
#define KVT_QUERY(op, c0, c1, p, lane, a, b) KVT_KEY(op, c0, c1, p, lane, a, b)
#define KVT_EIGHT_QUERIES(op, p0, p1, a, b)                                                                                                     \
  KVT_QUERY(op, 0, 1, p0, 0, a, b) KVT_QUERY(op, 2, 3, p0, 1, a, b) KVT_QUERY(op, 4, 5, p0, 2, a, b) KVT_QUERY(op, 6, 7, p0, 3, a, b)           \
      KVT_QUERY(op, 8, 9, p1, 0, a, b) KVT_QUERY(op, 10, 11, p1, 1, a, b) KVT_QUERY(op, 12, 13, p1, 2, a, b) KVT_QUERY(op, 14, 15, p1, 3, a, b)
#define KVT_NEXT(p0, p1, a, b) "ldp q" #p0 ", q" #p1 ", [%[p]], #32\n ldp q" #a ", q" #b ", [%[v]]\n add %[v], %[v], %[ldv]\n"
#define KVT_THREE_KEYS                                                                                                                \
  KVT_NEXT(20, 21, 22, 23) KVT_EIGHT_QUERIES(fmla, 16, 17, 18, 19) KVT_NEXT(16, 17, 18, 19) KVT_EIGHT_QUERIES(fmla, 20, 21, 22, 23) \
  KVT_NEXT(20, 21, 22, 23) KVT_EIGHT_QUERIES(fmla, 16, 17, 18, 19)
#define KVT_SHARE(c0, c1, k, lane) "fmul v" #c0 ".4s, v" #c0 ".4s, v" #k ".s[" #lane "]\n fmul v" #c1 ".4s, v" #c1 ".4s, v" #k ".s[" #lane "]\n"
#define KVT_OLD(c0, c1, k, lane) "ldp q" #c0 ", q" #c1 ", [%[old]]\n add %[old], %[old], %[ldo]\n" KVT_SHARE(c0, c1, k, lane)
#define KVT_PUT(c0, c1) "stp q" #c0 ", q" #c1 ", [%[o]]\n add %[o], %[o], %[ldo]\n"

#define KVT_EVERY_PUT KVT_PUT(0, 1) KVT_PUT(2, 3) KVT_PUT(4, 5) KVT_PUT(6, 7) KVT_PUT(8, 9) KVT_PUT(10, 11) KVT_PUT(12, 13) KVT_PUT(14, 15)

// `columns` times eight numbers of D for eight queries, at least 5 keys: the first, `few` more, n times four, and the last four.
void eight_queries(float* o, int64_t ldo, const float* keep, const float* share, const float* p, const float* v, int64_t ldv, int64_t keys, int64_t columns) {
  const float *old = o, *at = v;
  int64_t few, n;
  asm volatile(
      "0:\n"
      KVT_NEXT(16, 17, 18, 19)
      "mov %[n], %[fours]\n mov %[few], %[single]\n"
      "cbz %[keep], 1f\n"
      "ldp q24, q25, [%[keep]]\n"
      KVT_OLD(0, 1, 24, 0) KVT_OLD(2, 3, 24, 1) KVT_OLD(4, 5, 24, 2) KVT_OLD(6, 7, 24, 3)
      KVT_OLD(8, 9, 25, 0) KVT_OLD(10, 11, 25, 1) KVT_OLD(12, 13, 25, 2) KVT_OLD(14, 15, 25, 3)
      KVT_EIGHT_QUERIES(fmla, 16, 17, 18, 19)
      "sub %[old], %[old], %[rows]\n"
      "b 2f\n"
      "1:\n"
      KVT_EIGHT_QUERIES(fmul, 16, 17, 18, 19)
      "2:\n"
      "cbz %[few], 4f\n"
      "3:\n"
      KVT_NEXT(16, 17, 18, 19)
      "subs %[few], %[few], #1\n"
      KVT_EIGHT_QUERIES(fmla, 16, 17, 18, 19)
      "b.ne 3b\n"
      "4:\n"
      KVT_NEXT(16, 17, 18, 19)
      "cbz %[n], 6f\n"
      "5:\n"
      "subs %[n], %[n], #1\n"
      KVT_THREE_KEYS
      KVT_NEXT(16, 17, 18, 19)
      KVT_EIGHT_QUERIES(fmla, 20, 21, 22, 23)
      "b.ne 5b\n"
      "6:\n"
      "cbz %[share], 7f\n"
      "ldp q24, q25, [%[share]]\n"
      KVT_THREE_KEYS KVT_EIGHT_QUERIES(fmla, 20, 21, 22, 23)
      KVT_SHARE(0, 1, 24, 0) KVT_SHARE(2, 3, 24, 1) KVT_SHARE(4, 5, 24, 2) KVT_SHARE(6, 7, 24, 3)
      KVT_SHARE(8, 9, 25, 0) KVT_SHARE(10, 11, 25, 1) KVT_SHARE(12, 13, 25, 2) KVT_SHARE(14, 15, 25, 3)
      KVT_EVERY_PUT
      "b 8f\n"
      "7:\n"
      KVT_THREE_KEYS KVT_EIGHT_QUERIES(fmla, 20, 21, 22, 23)
      KVT_EVERY_PUT
      "8:\n"
      "sub %[o], %[o], %[rows]\n add %[at], %[at], #32\n sub %[p], %[p], %[weights]\n mov %[v], %[at]\n"
      "subs %[columns], %[columns], #1\n"
      "b.ne 0b\n"
      : [o] "+r"(o), [old] "+r"(old), [p] "+r"(p), [v] "+r"(v), [at] "+r"(at), [few] "=&r"(few), [n] "=&r"(n), [columns] "+r"(columns)
      : [keep] "r"(keep), [share] "r"(share), [ldo] "r"(ldo * 4), [ldv] "r"(ldv * 4), [rows] "r"(8 * ldo * 4 - 32), [weights] "r"(keys * 32),
        [single] "r"((keys - 1) % 4), [fours] "r"((keys - 1) / 4 - 1)
      : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19",
        "v20", "v21", "v22", "v23", "v24", "v25");
}

void neon_values(float* o, int64_t ldo, const float* keep, const float* share, const float* p, int64_t lanes, const float* v, int64_t ldv, int64_t rows, int64_t keys,
                 int64_t D, const kernel::Ahead* ahead) {
  if (rows < 5) return few_values<F32>(o, ldo, keep, share, p, lanes, v, ldv, rows, keys, D, ahead);
  if (keys < 5) return attention_values<F32>(o, ldo, keep, share, p, lanes, v, ldv, rows, keys, D, ahead);
  const int64_t whole = D / 8 * 8;
  if (rows == 8 && whole > 0) eight_queries(o, ldo, keep, share, p, v, ldv, keys, whole / 8);
  if (rows < 8) {                                           // what lies behind the last row is not ours
    alignas(16) float some[64], keeps[8] = {}, shares[8] = {};
    if (keep) std::copy_n(keep, rows, keeps);
    if (share) std::copy_n(share, rows, shares);
    for (int64_t d = 0; d < whole; d += 8) {
      std::fill_n(some, 64, 0.0f);
      for (int64_t r = 0; keep && r < rows; ++r) std::copy_n(o + r * ldo + d, 8, some + r * 8);
      eight_queries(some, 8, keep ? keeps : nullptr, share ? shares : nullptr, p, v + d, ldv, keys, 1);
      for (int64_t r = 0; r < rows; ++r) std::copy_n(some + r * 8, 8, o + r * ldo + d);
    }
  }
  if (whole < D) attention_values<F32>(o + whole, ldo, keep, share, p, lanes, v + whole, ldv, rows, keys, D - whole, nullptr);
}

}  // namespace

void ISA::add_attention() {
  kernel::attention_pack.add(this_isa, attention_pack);
  kernel::attention_scores.add(this_isa, neon_scores, {8, 8, 8, 128});
  kernel::attention_dots_f32.add(this_isa, few_dots<F32>);
  kernel::attention_dots_f16.add(this_isa, few_dots<F16>);
  kernel::attention_softmax.add(this_isa, neon_softmax);
  kernel::attention_values_f32.add(this_isa, neon_values);
  kernel::attention_values_f16.add(this_isa, few_values<F16>);
}

}  // namespace kvt
