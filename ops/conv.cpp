// patch_embedding    y[b, patch, :] = W vec(patch) + b
// A convolution whose stride is its size (Dosovitskiy et al. 2021) is a linear layer over patches, so its gradient is theirs.
#include "ops/ops.h"

namespace kvt {

Tensor patch_embedding(const Tensor& images, const Tensor& w, const Tensor& b, int64_t patch) {
  require(images.rank() == 4, "patch_embedding: expected images [B, C, H, W], got ", images.shape());
  const int64_t B = images.dim(0), Cin = images.dim(1), P = patch;
  require(P > 0 && images.dim(2) % P == 0 && images.dim(3) % P == 0, "patch_embedding: patches of ", P, " do not tile images ", images.shape());
  require(w.rank() >= 2 && w.size() == w.dim(0) * Cin * P * P, "patch_embedding: weights ", w.shape(), " for patches of ", Cin, " × ", P, " × ", P);
  const int64_t down = images.dim(2) / P, across = images.dim(3) / P;
  const Tensor patches = permute(reshape(images, {B, Cin, down, P, across, P}), {0, 2, 4, 1, 3, 5});    // [B, down, across, Cin, P, P]
  return linear(reshape(patches, {B, down * across, Cin * P * P}), reshape(w, {w.dim(0), Cin * P * P}), b);
}

}  // namespace kvt
