// The hardware on one page: every primitive the engine computes with, its contract, and the registry of its variants.
//
// A kernel is plain: pointers and integers, contiguous rows unless a stride is named, one thread, no allocation, no checks.
// Kernels whose name ends in _grad accumulate (+=); all others overwrite. Inputs and outputs may lie at any address that
// is a multiple of their element size. Threads and shapes are the business of the operation (ops/*.cpp).
//
// The first variant is always the reference, in plain C++: it is the documentation and the oracle of the tests.
// ops/backends.cpp adds the others, best last, for the CPU at hand. The environment variable KVT_KERNELS chooses:
//   KVT_KERNELS=reference            only reference kernels        KVT_KERNELS=avx2    nothing newer than AVX2
//   KVT_KERNELS=softmax=sse2,matmul=blocked                        variants by slot; both forms may be mixed
#pragma once
#include <array>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"
#include "tensor/error.h"

namespace kvt {

// Instruction sets in order of preference, per architecture. Two are none: `blocked` is plain C++ that respects caches, `blas`
// a library.
enum class Isa { reference, blocked, sse2, avx2, avx512, vnni, bf16, amx, neon, fp16, dotprod, i8mm, blas };
const char* isa_name(Isa isa);

class KernelInfo {               // the type-erased part: enough to list kernels and to choose among them
 public:
  const char* name;
  KernelInfo* next;
  inline static KernelInfo* first = nullptr;

  int variants() const { return count_; }
  Isa isa(int variant) const { return isas_.at(size_t(variant)); }
  int chosen() const { return chosen_; }
  void choose(int variant) { require(variant >= 0 && variant < count_, "kernel ", name, ": no variant ", variant); chosen_ = variant; }

 protected:
  explicit KernelInfo(const char* n) : name(n), next(first) { first = this; }
  static constexpr int max_variants = 8;
  std::array<Isa, max_variants> isas_{};
  int count_ = 0, chosen_ = 0;
};

void load_backends();            // once per process: adds what this build has and this CPU can run, obeys KVT_KERNELS
// Chooses anew, by the grammar of KVT_KERNELS ("" = the best of each); throws an Error that lists what there is.
void choose_kernels(const char* wish);

struct NoTraits {};
template <class Fn, class Traits = NoTraits> class Kernel;

// One primitive with all its variants; callable like the plain function it stands for. Traits say what a caller must know
// of a variant, such as the size of its tile.
template <class... Args, class Traits>
class Kernel<void(Args...), Traits> : public KernelInfo {
 public:
  using Fn = void(Args...);
  struct Variant { Fn* fn; Traits traits; };

  Kernel(const char* name, Fn* reference, Traits traits = {}) : KernelInfo(name) { add(Isa::reference, reference, traits); }
  void add(Isa isa, Fn* fn, Traits traits = {}) {            // the last one added is chosen
    chosen_ = count_;
    isas_.at(size_t(count_)) = isa;
    variants_[size_t(count_++)] = {fn, traits};
  }
  const Variant& variant(int i) const { return variants_.at(size_t(i)); }
  const Variant& best() const { load_backends(); return variants_[size_t(chosen_)]; }
  void operator()(Args... args) const { best().fn(args...); }

 private:
  std::array<Variant, max_variants> variants_{};
};

// A row of activations in the form that integer dot products want: 32 numbers x_i ≈ d q_i.
struct Q8Block {
  float d;              // max |x| / 127
  float d_sum;          // d Σ q_i: beside d, so that both reach a register at once
  int16_t sum[2];       // Σ q_i of each half: the part of a weight block's minimum or offset
  int8_t q[32];
};

namespace kernel {

// --- products ---

struct Mat { const float* p; int64_t row, col; };      // element (i, j) is p[i row + j col]

// C[m, n] += A[m, k] B[k, n];  C has rows ldc apart. Whole products: reference loops, our blocked GEMM, or a BLAS. Where an operand is infinite, C may be NaN.
using Matmul = void(float* c, int64_t ldc, Mat a, Mat b, int64_t m, int64_t n, int64_t k);
extern Kernel<Matmul> matmul;
// The same of operands rounded to BF16 (nearest even), added up in F32. Instructions for it may take and give 0 for numbers below 2^−126.
extern Kernel<Matmul> matmul_bf16;

// The register tile under our GEMM:  C[rows, cols] += A B, of panels of k numbers that the variant's own functions packed.
struct Tile {
  // The panel y of `width` vectors: number p < k of vector i < n is x[i across + p along]; the others, up to width and a multiple of `step`, are 0.
  using Pack = void(void* y, int64_t width, const float* x, int64_t across, int64_t along, int64_t n, int64_t k);
  int rows, cols;
  Pack *pack_a, *pack_b;         // of rows of A, of columns of B
  int step = 1, bytes = 4;       // a panel takes bytes · width · round_up(k, step)
  int64_t block = 320;           // numbers of a panel's vector at most: one panel of A stays in the L1 cache, or nearly
  int pair_step = 0, half_step = 0;   // of BF16 by pairs, where 32 columns of a block of 32 numbers take 512: from a pair to the next, from column 15 to 16
  void (*begin)() = nullptr, (*end)() = nullptr;      // if there: called before and after calls that follow one another on a thread
};
using MatmulTile = void(float* c, int64_t ldc, const void* a, const void* b, int64_t k);
extern Kernel<MatmulTile, Tile> matmul_tile;
// The same of numbers rounded to BF16 as they are packed.
extern Kernel<MatmulTile, Tile> matmul_tile_bf16;

// y[r] = ⟨w_r, x⟩ for `rows` rows of n numbers that lie `stride` elements apart.
extern Kernel<void(float* y, const float* w, int64_t stride, const float* x, int64_t rows, int64_t n)> dot_f32;
extern Kernel<void(float* y, const uint16_t* w, int64_t stride, const float* x, int64_t rows, int64_t n)> dot_f16;
extern Kernel<void(float* y, const uint16_t* w, int64_t stride, const float* x, int64_t rows, int64_t n)> dot_bf16;

// --- quantized weights (block layouts: ops/quant.h) ---

// x_i ≈ d q_i, block by block; n is a multiple of 32. Rounds to nearest.
extern Kernel<void(Q8Block* y, const float* x, int64_t n)> quantize_q8;

// y[t ldy + r] = Σ_k w[r, k] d_t,k q_t,k  for `rows` consecutive rows of weights and T rows of activations, n numbers each.
// Integer products within a block, float sums over blocks.
using DotQ8 = void(float* y, int64_t ldy, const void* w, const Q8Block* x, int64_t rows, int64_t T, int64_t n);
extern Kernel<DotQ8> dot_q4_0, dot_q4_1, dot_q5_0, dot_q5_1, dot_q8_0, dot_q2_k, dot_q3_k, dot_q4_k, dot_q5_k, dot_q6_k, dot_iq4_nl;

// The same of weights whose rows lie interleaved by 16 (ops/interleave.h): 16 `panels` rows.
using Dot16 = void(float* y, int64_t ldy, const void* w, const Q8Block* x, int64_t panels, int64_t T, int64_t n);
extern Kernel<Dot16> dot16_q4_0, dot16_q4_1, dot16_q5_0, dot16_q5_1, dot16_q8_0, dot16_iq4_nl;

// 16 interleaved rows of n numbers, from block `first` on `blocks` of 32, as pairs of BF16 (element 2p in the low half) for matmul_tile_bf16:
//   pair p of block b of row r is y[b · 512 + p pair_step + r]
using Pairs16 = void(uint32_t* y, int64_t pair_step, const void* panel, int64_t first, int64_t blocks, int64_t n);
extern Kernel<Pairs16> pairs16_q4_0, pairs16_q4_1, pairs16_q5_0, pairs16_q5_1, pairs16_q8_0, pairs16_iq4_nl;

// y[i] = x[i] to the nearest BF16, the even one of two; NaN stays NaN.
extern Kernel<void(uint16_t* y, const float* x, int64_t n)> pack_bf16;

// y[i] = the i-th of n numbers stored in the type's blocks.
using Unpack = void(float* y, const void* x, int64_t n);
extern Kernel<Unpack> unpack_f16, unpack_bf16, unpack_q4_0, unpack_q4_1, unpack_q5_0, unpack_q5_1, unpack_q8_0,
    unpack_q2_k, unpack_q3_k, unpack_q4_k, unpack_q5_k, unpack_q6_k, unpack_iq4_nl;

// --- rows ---

// y[r, :] = softmax(x[r, :]);  a row of −∞ alone gives zeros.  y may be x.
extern Kernel<void(float* y, const float* x, int64_t rows, int64_t cols)> softmax;
// dx += y ⊙ (dy − ⟨y, dy⟩)
extern Kernel<void(float* dx, const float* y, const float* dy, int64_t rows, int64_t cols)> softmax_grad;

// y = x / √(mean x² + eps) ⊙ w
extern Kernel<void(float* y, const float* x, const float* w, int64_t rows, int64_t cols, float eps)> rms_norm;
// With r = 1/√(mean x² + eps), g = dy ⊙ w:   dx += r (g − x r² ⟨g, x⟩/cols),   dw += Σ_rows dy ⊙ x r.   dx or dw may be null.
extern Kernel<void(float* dx, float* dw, const float* x, const float* w, const float* dy, int64_t rows, int64_t cols, float eps)> rms_norm_grad;

// y = (x − mean) / √(var + eps) ⊙ w + b;  w and b may be null.
extern Kernel<void(float* y, const float* x, const float* w, const float* b, int64_t rows, int64_t cols, float eps)> layer_norm;
// dx, dw, db accumulate; each may be null, w too.
extern Kernel<void(float* dx, float* dw, float* db, const float* x, const float* w, const float* dy, int64_t rows, int64_t cols, float eps)> layer_norm_grad;

// --- numbers ---

using Map = void(float* y, const float* x, int64_t n);                             // y = f(x);  y may be x
using MapGrad = void(float* dx, const float* x, const float* dy, int64_t n);       // dx += f'(x) dy
extern Kernel<Map> silu, gelu_erf, gelu_tanh, sigmoid, tanh, exp;
extern Kernel<MapGrad> silu_grad, gelu_erf_grad, gelu_tanh_grad, sigmoid_grad, tanh_grad;

// y = silu(gate) ⊙ up: the gated feed-forward layer of Llama
extern Kernel<void(float* y, const float* gate, const float* up, int64_t n)> swiglu;
// dgate += dy ⊙ up ⊙ silu'(gate),   dup += dy ⊙ silu(gate)
extern Kernel<void(float* dgate, float* dup, const float* gate, const float* up, const float* dy, int64_t n)> swiglu_grad;

// --- attention: a panel of queries against a block of keys (driver: ops/attention.cpp) ---
//
// The queries of a panel lie side by side, in the lanes of vectors: whatever the softmax keeps of a row (its largest score, its sum)
// is a vector too, and nothing is ever summed or compared across a vector. Keys and values are read where they are.
//
//      q [D, lanes]            s, p [keys, lanes]           o [queries, D]
//      one query a column      one query a column           one query a row

// What a variant takes for a panel: a multiple of `step` lanes, `most` at the most. Its tiles are of `keys` keys, and a block of them
// is about `block`: many enough that outputs are rescaled seldom, few enough that the scores between the two products stay in the cache.
struct Panel { int step, most, keys, block; };

// y[d lanes + i] = scale x_i[d] for `rows` rows of D numbers, ldx apart; 0 for rows ≤ i < lanes.
extern Kernel<void(float* y, int64_t lanes, const float* x, int64_t ldx, int64_t rows, int64_t D, float scale)> attention_pack;

// s[j, r] = ⟨k_j, q_r⟩,   top[r] ← max(top[r], max_j s[j, r]).   With `seen`, query r sees the keys from[r] ≤ j < to[r] alone, and
// its other scores are −∞.
struct Seen { const float *from, *to; };
extern Kernel<void(float* s, float* top, const float* q, int64_t lanes, const float* k, int64_t ldk, int64_t keys, int64_t D, const Seen* seen), Panel> attention_scores;

// The same for up to four queries, q [rows, D], none of them masked: dot products, each key read once.  s [keys, 4], top [4]; what has no query gets
// some numbers that the softmax takes.
// Few queries wait for memory. `ahead` may be null: keys and values to be read next. Of each the kernel asks for half as many bytes as it reads itself:
// processors bring two streams sooner than one.
struct Ahead { const void *keys, *values; };
template <class Number>
using AttentionDots = void(float* s, float* top, const float* q, int64_t rows, const Number* k, int64_t ldk, int64_t keys, int64_t D, const Ahead* ahead);
extern Kernel<AttentionDots<float>> attention_dots_f32;
extern Kernel<AttentionDots<uint16_t>> attention_dots_f16;

// One more block of the online softmax (Milakov and Gimelshein 2018), to base 2:
//   p = 2^(s − top) in the place of s,   fix = 2^(m − top),   l ← l fix + Σ_j p_j,   m ← top
// top ≥ m and top ≥ s. Where it is −∞, so are they: p = 0 and fix = 1. Powers below 2^−126.5 are 0, those below 2^−126 may be.  lanes: 4, or as in Panel
extern Kernel<void(float* s, float* m, float* l, float* fix, const float* top, int64_t lanes, int64_t keys)> attention_softmax;

// o_r ← share_r (keep_r o_r + Σ_j p[j, r] v_j) for the first `rows` queries. keep may be null: o is not read. share may be null: all 1. `ahead` as above, for
// up to four queries.
template <class Number>
using AttentionValues = void(float* o, int64_t ldo, const float* keep, const float* share, const float* p, int64_t lanes, const Number* v, int64_t ldv, int64_t rows,
                             int64_t keys, int64_t D, const Ahead* ahead);
extern Kernel<AttentionValues<float>> attention_values_f32;
extern Kernel<AttentionValues<uint16_t>> attention_values_f16;

}  // namespace kernel
}  // namespace kvt
