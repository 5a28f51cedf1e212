// The kernels of ARMv8.0. What one source serves on every machine is compiled from ops/simd; the large product and the quantized
// blocks are written here. Those that need a later ARM are added by their own file (arm/dot_q8.cpp).
#include "ops/backends.h"
#include "ops/simd/vec.h"

namespace kvt {

void add_neon_kernels() {
  neon::add_attention();
  neon::add_blocks();
  neon::add_dots();
  neon::add_maps();
  neon::add_norms();
  neon::add_products();
  neon::add_quants();
  neon::add_softmax();
  neon::add_unpacks();
}

}  // namespace kvt
