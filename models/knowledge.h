// Dynamic knowledge extractor (DKE): what a model makes of a text, as m knowledge vectors of size k.
//
// On the hidden states H = H_l [T, C] of a block l, with sinusoidal positions PE [T, C]:
//
//   Z_s = LayerNorm([H ; PE] W_s + b_s)             local, syntactic channel            W_s [2C, C]
//   Z_c = GELU([avgpool(H) ; PE] W_c + b_c)         global, semantic channel            W_c [2C, C]
//   G   = σ([H ; Z_s ; Z_c] W_g) ⊙ Bernoulli(p)/p   gate, p = min(0.5, √(k/C))          W_g [3C, C]
//   F   = G ⊙ (Z_s + Z_c)
//   K   = softmax(Q_k Fᵀ/√C) F W_k                  m learned queries pool F            Q_k [m, C], W_k [C, k]
//
// The mask is sampled in training alone; otherwise there is none, and gates below τ are zero. Training adds μ‖G‖₁ to the loss.
// K looks at the whole text: for a language model that must be a prompt or a calibration text, never tokens still to be predicted.
#pragma once
#include "models/layers.h"

namespace kvt {

struct KnowledgeConfig {
  int64_t channels = 0, vectors = 0, size = 0;      // C, m, k
  float threshold = 0.3f;                           // τ

  // m = k = √C/4, at least 4
  static KnowledgeConfig for_channels(int64_t channels);
  float keep() const;                               // p
};

class KnowledgeExtractor {
 public:
  Linear w_s;
  LayerNorm norm;
  Linear w_c, w_g;
  Parameter q_k;
  Linear w_k;

  explicit KnowledgeExtractor(const KnowledgeConfig& config);      // no numbers yet
  // Matrices U[−1/√in, 1/√in), queries N(0, 1), biases 0, norms 1; all want gradients.
  void init(Rng& rng);
  template <class F> void fields(F&& f) {
    f("w_s", w_s); f("norm", norm); f("w_c", w_c); f("w_g", w_g); f("q_k", q_k); f("w_k", w_k);
  }

  struct Features { Tensor f, g; };                 // F and G, [T, C] each
  // Of one text's H [T, C]; `mask` [T, C] is one of sample_mask() in training, none otherwise.
  Features features(const Tensor& h, const Tensor& mask = {}) const;
  Tensor sample_mask(int64_t tokens, Rng& rng) const;               // zeros, and 1/p where the gate is kept
  // K [m, k] of features F [.., C], which may be those of several texts one behind the other.
  Tensor knowledge(const Tensor& f) const;

  const KnowledgeConfig& config() const { return config_; }

 private:
  KnowledgeConfig config_;
};

// PE[t, 2i] = sin(t / 10000^(2i/C)),  PE[t, 2i + 1] = cos of the same (Vaswani et al. 2017).
Tensor sinusoids(int64_t tokens, int64_t channels);

}  // namespace kvt
