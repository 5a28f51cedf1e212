// Weights in the order of the kernels that decode: 16 rows side by side, a panel. One vector holds the same four numbers of 16 rows, another their
// scales, and no sum crosses a vector. Rows of n numbers are n/32 blocks; a panel is some planes, each block after block:
//
//   codes    Q4_x, Q5_x, IQ4_NL   byte (j, r, i) = code of number 4j + i, and above it that of 16 + 4j + i     j < 4, r < 16, i < 4     256 bytes
//            Q8_0                 byte (j, r, i) = q + 128 of number 4j + i                                    j < 8                    512
//   fifths   Q5_x                 bit 4r + i of word j = the fifth bit of number 4j + i                        j < 8                     64
//   d        F16, of 16 rows                                                                                                            32
//   m        F16, Q4_1 and Q5_1                                                                                                         32
//
// That takes as many bytes as the rows do in a file. Each block is read with one row of activations at about 12 instructions for 256 weights,
// a third of what rows apart take.
#pragma once
#include "ops/quant_blocks.h"

namespace kvt {

constexpr int64_t panel_rows = 16;

// Whether `w` [N, K] may be interleaved, and the chosen kernels gain by it.
bool gains_by_interleaving(const Tensor& w);
// Makes w.interleaved() of the bytes `to`, on all threads; the pages of a mapped file leave memory, for nothing but training and saving reads them now.
void interleave(const Tensor& w, const Storage& to);
inline void interleave(const Tensor& w) { interleave(w, Storage::allocate_owned(size_t(w.bytes()))); }
// Has w lie at `to` in the order it has; of a mapped file likewise.
void move(const Tensor& w, const Storage& to);

// A panel of blocks B: where its planes begin.
template <class B>
struct Panel {
  static constexpr bool bytes_apart = std::is_same_v<B, BlockQ8_0>, levels = std::is_same_v<B, BlockIQ4_NL>, has_fifths = requires(B b) { b.high; };
  static constexpr int code_bytes = bytes_apart ? 512 : 256, fifth_words = has_fifths ? 8 : 0;
  static constexpr int64_t size(int64_t blocks) { return blocks * panel_rows * int64_t(sizeof(B)); }
  // x = d (code − zero) or d code + m; of Q8_0 and the levels of IQ4_NL 128 more is stored than they are
  static constexpr int zero = bytes_apart || levels ? 128 : has_min<B> ? 0 : has_fifths ? 16 : 8;

  const uint8_t* codes;
  const uint64_t* fifths;
  const uint16_t *d, *m;

  Panel(const void* panel, int64_t blocks)
      : codes(static_cast<const uint8_t*>(panel)), fifths(reinterpret_cast<const uint64_t*>(codes + blocks * code_bytes)),
        d(reinterpret_cast<const uint16_t*>(fifths + blocks * fifth_words)), m(d + blocks * panel_rows) {}
};

}  // namespace kvt
