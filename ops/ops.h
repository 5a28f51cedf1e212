// Every differentiable operation, one line and one formula each. All take and return F32 activations (row-major) unless
// said otherwise; gradients flow to every float input that wants one. A wrong shape throws an Error naming op and shapes.
//
//   B batch   T tokens (queries)   S keys   C channels   H heads   D head size   V vocabulary
#pragma once
#include <span>
#include <vector>

#include "tensor/random.h"
#include "tensor/tape.h"
#include "tensor/tensor.h"

namespace kvt {

using Ids = std::vector<int32_t>;

// --- elementwise; b has a's shape, or that of its trailing axes, or one element: it is then repeated ---
Tensor add(const Tensor& a, const Tensor& b);               // a + b
Tensor sub(const Tensor& a, const Tensor& b);               // a − b
Tensor mul(const Tensor& a, const Tensor& b);               // a ⊙ b
Tensor scale(const Tensor& x, float s);                     // s x
inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
Tensor bias(const Tensor& x, const Tensor& b);              // x + b, b [C]
Tensor relu(const Tensor& x);                               // max(x, 0)
Tensor silu(const Tensor& x);                               // x σ(x)
Tensor swiglu(const Tensor& gate, const Tensor& up);        // silu(gate) ⊙ up
Tensor gelu(const Tensor& x);                               // x Φ(x), by erf
Tensor gelu_tanh(const Tensor& x);                          // x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))
Tensor sigmoid(const Tensor& x);                            // σ(x) = 1 / (1 + e^−x)
Tensor tanh(const Tensor& x);
Tensor dropout(const Tensor& x, float p, Rng& rng);         // zero with probability p, the rest scaled by 1/(1 − p)

// --- over the last axis ---
Tensor softmax(const Tensor& x);                            // e^(x − max) / Σ e^(x − max)
Tensor log_softmax(const Tensor& x);                        // x − log Σ e^x
Tensor rms_norm(const Tensor& x, const Tensor& w, float eps);                       // x / √(mean x² + eps) ⊙ w
Tensor layer_norm(const Tensor& x, const Tensor& w, const Tensor& b, float eps);    // (x − mean) / √(var + eps) ⊙ w + b

// Mean of −log softmax(logits)[target] over the rows whose target is not `ignore`; 0 if there is none.
// logits [..., V]; one target a row, each `ignore` or in [0, V).
constexpr int32_t ignored_label = -100;
Tensor cross_entropy(const Tensor& logits, std::span<const int32_t> targets, int32_t ignore = ignored_label);
// cross_entropy(linear(x, W, b), targets) without all scores in memory: a chunk of rows at a time, its gradients at once.
// x [.., C], W [V, C] of any dtype; gradient to x, and to W and b when they are float and want one.
// Label smoothing ε (Szegedy et al. 2016): the target gets 1 − ε + ε/V of the probability to be matched, every other token ε/V.
struct LinearLossOptions {
  int32_t ignore = ignored_label;
  float smoothing = 0.f;                // ε in [0, 1)
  Tensor bias = {};                     // b [V] or none
};
Tensor linear_cross_entropy(const Tensor& x, const Tensor& w, std::span<const int32_t> targets, const LinearLossOptions& options = {});

// --- sums ---
Tensor sum(const Tensor& x);                                // [1]
Tensor mean(const Tensor& x);                               // [1]
Tensor sum(const Tensor& x, int axis);                      // that axis removed
Tensor mean(const Tensor& x, int axis);

// --- products ---
// A B, [.., m, k] [.., k, n]; either may be given transposed. The leading axes agree, or b has none and serves all.
Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a = false, bool transpose_b = false);
// y + h Wᵀ, in the memory of y, whose own numbers are gone;  y [.., N], h [.., r], W [N, r] F32. Of a y that no other step of backward reads.
Tensor add_linear(const Tensor& y, const Tensor& h, const Tensor& w);
// x Wᵀ + b;  x [.., K], W [N, K] of any dtype (quantized W included), b [N] or none.
// Gradient to x always, to W and b when they are float and want one.
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& b = {});
// The rows of W [V, C] that ids name, as shape [ids.., C]. W of any dtype; gradient to W when it is F32.
Tensor embedding(std::span<const int32_t> ids, const Shape& ids_shape, const Tensor& w);
// Patches of images [B, Cin, Himg, Wimg], P × P without overlap, each through W [C, Cin P P] + b: [B, (Himg/P)(Wimg/P), C]
Tensor patch_embedding(const Tensor& images, const Tensor& w, const Tensor& b, int64_t patch);

// --- positions ---
// Rotary embedding (Su et al. 2021) of x [B, T, H, D] at positions[t] (or [b T + t] if there are B T of them): pairs (a, b) of the first
// `dims` numbers of each head turn by position · freq_i, freq_i = base^(−2i/dims) / (factors ? factors[i] : 1) · freq_scale.
struct RopeOptions {
  enum Pairing { interleaved /* (2i, 2i+1): llama */, halves /* (i, i + dims/2): NeoX, qwen2 */ };
  Pairing pairing = interleaved;
  int64_t dims = 0;                // how many of the D numbers turn; 0 = all
  float base = 10000.f;
  float freq_scale = 1.f;          // 1/s for linear context scaling by s
  Tensor factors;                  // [dims/2] or none: Llama 3's rope_freqs.weight
};
Tensor rope(const Tensor& x, std::span<const int32_t> positions, const RopeOptions& options);

// --- attention: softmax(scale Q Kᵀ + mask) V, without the T×S matrix in memory (Dao et al. 2022) ---
// q [B, T, H, D], k and v [B, S, Hkv, D] with H a multiple of Hkv (GQA: query head h reads k/v head h / (H/Hkv)); D ≤ 256.
// k and v may be F32 or F16 (a cache; F16 takes no gradient). Row t of a causal q sees keys 0 … S − T + t.
struct AttentionOptions {
  bool causal = false;
  float scale = 0.f;                       // 0 = 1/√D
  std::vector<int32_t> lengths = {};       // padding: only the first lengths[b] keys of batch row b count; empty = all
  int64_t window = 0;                      // with causal: of the keys it sees, row t counts the last `window` alone; 0 = all
};
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options);
// The same where each row of the batch has keys and values of its own, [1, S, Hkv, D]; in inference, without lengths.
struct KeysAndValues { Tensor k, v; };
Tensor attention(const Tensor& q, std::span<const KeysAndValues> rows, const AttentionOptions& options);

// --- shape ---
Tensor reshape(const Tensor& x, const Shape& shape);        // shares numbers and gradient
Tensor permute(const Tensor& x, std::initializer_list<int> axes);       // axis i of the result is axis axes[i] of x
Tensor concat(std::span<const Tensor> parts, int axis);
Tensor slice(const Tensor& x, int axis, int64_t begin, int64_t end);    // [begin, end) of one axis; shares numbers where it can

}  // namespace kvt
