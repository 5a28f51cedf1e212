// The layers every Transformer is made of.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "models/module.h"
#include "ops/low_rank.h"
#include "ops/ops.h"

namespace kvt {

// What an adaptation method changes in one linear layer: y' = adapter(x, y) with y = W input(x) + b (methods: models/adapt.h). y' may take y's memory.
struct Adapter {
  bool of_base = false;        // with fusion, the base has it as well as the adapted model
  virtual ~Adapter() = default;
  virtual Tensor input(const Tensor& x) const { return x; }      // for W alone: all adapters see the layer's own x
  virtual Tensor operator()(const Tensor& x, const Tensor& y) const = 0;
  // The same, where it is so, as factors that a linear layer adds while it computes y; for inference, of `rows` rows.
  virtual std::optional<LowRank> low_rank(int64_t rows) const { return (void)rows, std::nullopt; }
};

// What adapters know, beside x and y, of the forward pass they take part in. It belongs to the thread while a Scope is alive.
struct AdapterPass {
  // Adapters, but for those of_base, leave the base's rows alone. Of twins that is the first half of the batch.
  enum class Rows { adapted, base, twins };
  Rows rows = Rows::adapted;
  Tensor made;                 // of the inputs of this pass by `maker`: what cores are generated from (models/kvt.h), or choices (models/bank.h)
  Tensor lanes;                // the same as LowRankCores want it, for inference
  Tensor sentence;             // of a pass over source sentences, what their translations are to know of each (models/kvt.h)
  const void* maker = nullptr;

  static const AdapterPass& current();
  class Scope;
};

class AdapterPass::Scope {
 public:
  explicit Scope(AdapterPass pass);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  AdapterPass outer_;
};

// x [2B, ..] of a pass of twins: the base's rows, and the adapted model's.
inline Tensor base_rows(const Tensor& x) { return slice(x, 0, 0, x.dim(0) / 2); }
inline Tensor adapted_rows(const Tensor& x) { return slice(x, 0, x.dim(0) / 2, x.dim(0)); }
Tensor twins(const Tensor& base, const Tensor& adapted);       // both, along the first axis

// y = W x + b, with each adapter in turn.   W [out, in], b [out] or none
struct Linear {
  Parameter weight, bias;
  std::vector<std::shared_ptr<const Adapter>> adapters;

  Linear() = default;
  Linear(int64_t in, int64_t out, bool has_bias = false);
  Tensor operator()(const Tensor& x) const { return with(weight, x); }
  Tensor with(const Tensor& w, const Tensor& x) const;           // another matrix in W's place: an output layer's may be the embedding's
  // All that adapters do to `rows` rows, as such factors; false if they do more than that, or training needs to see it.
  bool factors(int64_t rows, ArenaVector<LowRank>& all) const;
  Tensor input(const Tensor& x) const;                           // what W gets of x,
  Tensor adapted(const Tensor& x, const Tensor& y) const;        // and what adapters make of its result, in whose memory it may lie
  template <class F> void fields(F&& f) { f("weight", weight); if (bias.shape.rank() > 0) f("bias", bias); }
};

// y = x / √(mean x² + eps) ⊙ w
struct RmsNorm {
  Parameter weight;
  float eps = 1e-5f;

  RmsNorm() = default;
  RmsNorm(int64_t channels, float epsilon) : weight(Shape{channels}), eps(epsilon) {}
  Tensor operator()(const Tensor& x) const { return rms_norm(x, weight, eps); }
  template <class F> void fields(F&& f) { f("weight", weight); }
};

// y = (x − mean x) / √(var x + eps) ⊙ w + b
struct LayerNorm {
  Parameter weight, bias;
  float eps = 1e-5f;

  LayerNorm() = default;
  LayerNorm(int64_t channels, float epsilon) : weight(Shape{channels}), bias(Shape{channels}), eps(epsilon) {}
  Tensor operator()(const Tensor& x) const { return layer_norm(x, weight, bias, eps); }
  template <class F> void fields(F&& f) { f("weight", weight); f("bias", bias); }
};

// One vector for each text, [B, C], from its states [B, T, C], of which the first lengths[b] count: their mean, the first, or the last.
enum class Pooling { mean, first, last };
Tensor pooled(const Tensor& states, const std::vector<int32_t>& lengths, Pooling pooling);

// The rows of W [V, C] that ids name.
struct Embedding {
  Parameter weight;

  Embedding() = default;
  Embedding(int64_t vocabulary, int64_t channels) : weight(Shape{vocabulary, channels}) {}
  Tensor operator()(std::span<const int32_t> ids, const Shape& ids_shape) const { return embedding(ids, ids_shape, weight); }
  template <class F> void fields(F&& f) { f("weight", weight); }
};

}  // namespace kvt
