#include "models/vit.h"

#include <cmath>

namespace kvt {

void VitConfig::check(const std::string& source) const {
  const auto within = [&](const char* what, int64_t n, int64_t most) { require(n >= 1 && n <= most, source, ": ", what, " is ", n, ", expected 1 to ", most); };
  within("image_size", image_size, 4096);
  within("patch_size", patch_size, image_size);
  require(image_size % patch_size == 0, source, ": images of ", image_size, " pixels do not divide into patches of ", patch_size);
  within("image_channels", image_channels, 16);
  within("channels", channels, 1 << 16);
  within("layers", layers, 1024);
  within("heads", heads, 1024);
  within("head_size", head_size, 256);
  within("hidden", hidden, 1 << 20);
  within("classes", classes, 1 << 24);
  require(norm_eps > 0 && std::isfinite(norm_eps), source, ": norm_eps is ", norm_eps);
}

void VitConfig::set_size(const std::string& name) {
  struct Size { const char* name; int64_t channels, layers, heads; };
  static constexpr Size sizes[] = {{"tiny", 192, 12, 3}, {"small", 384, 12, 6}, {"base", 768, 12, 12}, {"large", 1024, 24, 16}, {"huge", 1280, 32, 16}};
  for (const Size& s : sizes)
    if (name == s.name) {
      channels = s.channels, layers = s.layers, heads = s.heads;
      head_size = channels / heads, hidden = 4 * channels;
      return;
    }
  fail("vit: no size is called '", name, "'; known: tiny, small, base, large, huge");
}

VitBlock::VitBlock(const VitConfig& c)
    : attn_norm(c.channels, c.norm_eps), attention(c.channels, c.heads, c.head_size, c.qkv_bias), ffn_norm(c.channels, c.norm_eps),
      ffn_up(c.channels, c.hidden, true), ffn_down(c.hidden, c.channels, true), activation(c.activation) {}

Vit::Vit(const VitConfig& c)
    : patch_embd(c.image_channels * c.patch_size * c.patch_size, c.channels, true), cls_embd(1, c.channels),
      position_embd(c.patches() + c.cls_token, c.channels), output_norm(c.channels, c.norm_eps), output(c.channels, c.classes, true), config_(c) {
  for (int64_t i = 0; i < c.layers; ++i) blk.emplace_back(c);
}

void Vit::load(const std::map<std::string, Tensor>& tensors, const std::string& source) { load_parameters(*this, tensors, source); }

void Vit::init(Rng& rng) {
  each_parameter([&](const std::string& name, Parameter& p) {
    const bool matrix = p.shape.rank() == 2, place = name.starts_with("position_embd") || name.starts_with("cls_embd");
    p.tensor = Tensor::filled(p.shape, name.ends_with("_norm.weight") ? 1.f : 0.f);
    if (!matrix) return;
    const float deviation = place ? 0.02f : std::sqrt(2.f / float(p.shape[0] + p.shape[1]));
    for (float& w : p.tensor.values()) w = deviation * rng.normal();
  });
}

Tensor Vit::hidden(const Tensor& images, const Forward& options, int64_t blocks) const {
  const VitConfig& c = config_;
  require(images.rank() == 4 && images.dim(1) == c.image_channels && images.dim(2) == c.image_size && images.dim(3) == c.image_size,
          "vit: images ", images.shape(), ", expected [B, ", c.image_channels, ", ", c.image_size, ", ", c.image_size, "]");
  const int64_t B = images.dim(0);
  const auto drop = [&](const Tensor& x) { return options.random && options.dropout > 0 ? dropout(x, options.dropout, *options.random) : x; };

  Tensor x = patch_embedding(images, patch_embd.weight, patch_embd.bias, c.patch_size);            // [B, N, C]
  if (c.cls_token) {
    const std::vector<int32_t> first(size_t(B), 0);
    const Tensor parts[] = {cls_embd(first, {B, 1}), x};
    x = concat(parts, 1);
  }
  const AdapterPass::Scope made(pass_with(x));
  x = drop(x + position_embd.weight.tensor);
  for (int64_t i = 0; i < (blocks < 0 ? c.layers : blocks); ++i) x = blk[size_t(i)](x, drop);
  return x;
}

Tensor Vit::features(const Tensor& images, const Forward& options) const {
  const Tensor x = hidden(images, options);
  return output_norm(config_.cls_token ? slice(x, 1, 0, 1).view({x.dim(0), config_.channels}) : mean(x, 1));
}

}  // namespace kvt
