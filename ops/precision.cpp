#include "ops/precision.h"

#include "ops/quant.h"

namespace kvt {

static bool narrow(const Tensor& x) { return Tape::precision() == Precision::bf16 && x.dtype() == DType::F32; }

Kept saved(const Tensor& x) {
  if (x.recipe()) return x.recipe();
  if (!narrow(x)) return [x] { return x; };
  Tensor kept = x.packed();
  if (!kept) {
    kept = pack(x, DType::BF16);
    x.remember_packed(kept);
  }
  return [kept] { return unpack(kept); };
}

Tensor rounded(const Tensor& x) { return narrow(x) ? unpack(pack(x, DType::BF16)) : x; }

}  // namespace kvt
