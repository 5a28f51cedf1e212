// ViT (Dosovitskiy et al. 2021): an image as a sequence of patches. Our own GGUF architecture `vit`; its keys are listed in
// engine/load_encoder.h.
//
//   x = [cls; W_patch patch_1 + b; …; W_patch patch_N + b] + P,   blocks,   scores = W_head LN(pooled) + b
//
// Pooled is the state of the cls token, or the mean of the patches' (then there is no cls token).
#pragma once
#include "models/encoder.h"
#include "models/model.h"

namespace kvt {

struct VitConfig {
  std::string architecture = "vit";
  int64_t image_size = 0, patch_size = 0, image_channels = 0;       // square images
  int64_t channels = 0, layers = 0, heads = 0, head_size = 0, hidden = 0, classes = 0;
  bool cls_token = true, qkv_bias = true;
  Activation activation = Activation::gelu;
  float norm_eps = 1e-6f;

  int64_t patches() const { return (image_size / patch_size) * (image_size / patch_size); }
  // Throws an Error for impossible values; `source` (a path) stands in it.
  void check(const std::string& source) const;
  // "tiny", "small", "base", "large" (Dosovitskiy et al. 2021, Touvron et al. 2021), "huge": channels, layers, heads, hidden. Throws for another name.
  void set_size(const std::string& name);
};

// h = x + Attention(LN(x)),   y = h + W_down act(W_up LN(h))
struct VitBlock {
  LayerNorm attn_norm;
  SelfAttention attention;
  LayerNorm ffn_norm;
  Linear ffn_up, ffn_down;
  Activation activation = Activation::gelu;

  VitBlock() = default;
  explicit VitBlock(const VitConfig& c);
  template <class Drop> Tensor operator()(const Tensor& x, Drop&& drop) const {
    const Tensor h = x + drop(attention(attn_norm(x)));
    return h + drop(ffn_down(activate(ffn_up(ffn_norm(h)), activation)));
  }
  template <class F> void fields(F&& f) {
    f("attn_norm", attn_norm); f("", attention); f("ffn_norm", ffn_norm); f("ffn_up", ffn_up); f("ffn_down", ffn_down);
  }
};

class Vit : public Model {
 public:
  Linear patch_embd;                   // weight [C, image channels · P · P], as a convolution's, row-major
  Embedding cls_embd, position_embd;   // [1, C] and [N + cls, C]
  std::vector<VitBlock> blk;
  LayerNorm output_norm;
  Linear output;                       // the class head

  explicit Vit(const VitConfig& config);                              // no numbers yet: init() or load()
  // Matrices N(0, 2/(in + out)) (Glorot and Bengio 2010; the paper's own code), positions and class token N(0, 0.02²), biases 0, norms 1.
  void init(Rng& rng);
  void load(const std::map<std::string, Tensor>& tensors, const std::string& source);
  template <class F> void fields(F&& f) {
    f("patch_embd", patch_embd);
    if (config_.cls_token) f("cls_embd", cls_embd);
    f("position_embd", position_embd); f("blk", blk); f("output_norm", output_norm); f("output", output);
  }

  const VitConfig& config() const { return config_; }
  const std::string& architecture() const override { return config_.architecture; }
  int64_t layers() const override { return config_.layers; }
  int64_t channels() const override { return config_.channels; }
  void each_parameter(const std::function<void(const std::string&, Parameter&)>& f) override { each<Parameter>(*this, f); }
  void each_linear(const std::function<void(const std::string&, Linear&)>& f) override { each<Linear>(*this, f); }

  struct Forward { Rng* random = nullptr; float dropout = 0; };        // training: dropout of each sub-layer's result and of the input
  // The states [B, N + cls, C] behind all blocks, or the first so many, of images [B, channels, size, size]; not yet normalised.
  Tensor hidden(const Tensor& images, const Forward& options, int64_t blocks = -1) const;
  Tensor features(const Tensor& images, const Forward& options) const;                          // [B, C]: pooled and normalised
  Tensor logits(const Tensor& images, const Forward& options = {nullptr, 0}) const { return output(features(images, options)); }   // [B, classes]

 private:
  VitConfig config_;
};

}  // namespace kvt
