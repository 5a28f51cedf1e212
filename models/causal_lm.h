// What the engine asks of a language model that predicts the next token, whatever its architecture.
#pragma once
#include "models/attention.h"
#include "models/model.h"

namespace kvt {

struct LmConfig {
  std::string architecture;                 // GGUF's general.architecture
  int64_t vocabulary = 0, channels = 0, layers = 0, heads = 0, kv_heads = 0, head_size = 0, hidden = 0;
  int64_t context = 0;                      // the longest sequence the model was trained on
  bool tied_output = false;                 // the output matrix is the embedding
};

class CausalLm : public Model {
 public:
  virtual const LmConfig& config() const = 0;
  const std::string& architecture() const override { return config().architecture; }
  int64_t layers() const override { return config().layers; }
  int64_t channels() const override { return config().channels; }

  struct Forward {
    KvCache* cache = nullptr;               // B = 1: the tokens follow those in the cache, and join them
    bool recompute = false;                 // training: keep each block's input alone, recompute the rest in backward
    int64_t blocks = -1;                    // run the first so many alone; −1 = all
    int64_t twins_from = -1;                // from this block on base and adapted model run side by side; −1 = the adapted model alone
  };
  // The final normalised hidden states [B, T, C] of ids [B, T] (row-major); of twins [2B, T, C], the base's first.
  virtual Tensor hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const = 0;
  // Next-token scores [.., V] of hidden states [.., C].
  virtual Tensor logits(const Tensor& hidden) const = 0;
  // Mean cross-entropy of the next tokens `targets`, one for each hidden state, or ignored_label. A model whose scores are one
  // plain linear layer need not hold them all at once.
  virtual Tensor loss(const Tensor& hidden, std::span<const int32_t> targets) const { return cross_entropy(logits(hidden), targets); }

  virtual KvCache make_cache(int64_t capacity, DType dtype, int64_t twins_from = -1) const {
    return KvCache(config().layers, capacity, config().kv_heads, config().head_size, dtype, twins_from);
  }

 protected:
  // logits() and loss() by an output layer whose matrix is the embedding's where it is tied.
  Tensor scores(const Linear& output, const Embedding& embedding, const Tensor& hidden) const;
  Tensor scored_loss(const Linear& output, const Embedding& embedding, const Tensor& hidden, std::span<const int32_t> targets) const;
  // x [B, T, C] through all blocks, as `options` say; block(i, x) is the i-th.
  template <class Block> Tensor through_blocks(Tensor x, const Forward& options, const Block& block) const;
};

template <class Block>
Tensor CausalLm::through_blocks(Tensor x, const Forward& options, const Block& block) const {
  const int64_t T = x.dim(1), first = options.twins_from, blocks = options.blocks < 0 ? layers() : options.blocks;
  AdapterPass pass = AdapterPass::current();
  for (int64_t i = 0; i < blocks; ++i) {
    if (i == first) x = twins(x, x), pass.rows = AdapterPass::Rows::twins;
    const auto run = [i](const Block& b, const AdapterPass& p, const Tensor& h) {
      const AdapterPass::Scope scope(p);
      return b(i, h);
    };
    // In backward the block runs again, when the scopes of this pass are long gone.
    x = options.recompute ? kvt::recompute([=](const Tensor& h) { return run(block, pass, h); }, x) : run(block, pass, x);
  }
  if (options.cache) options.cache->advance(T);
  return first == layers() ? twins(x, x) : x;
}

// Has the matrices lie as decoding reads them fastest, for inference alone: side by side in large pages, and where the kernels gain by it interleaved
// (ops/interleave.h). Of a mapped file they leave the pages; a file in memory stays beside those that are interleaved, and the others where they are.
// Returns how many bytes are interleaved. Nobody else may use the model meanwhile.
int64_t arrange_weights(CausalLm& model);
// The bytes it would take: of weights that are mapped, or are not.
int64_t arranged_bytes(CausalLm& model, bool mapped);

}  // namespace kvt
