// The kernels of attention on x86; those of ARM are in arm/attention.cpp.
#include "ops/simd/attention.h"

namespace kvt {

void ISA::add_attention() {
  kernel::attention_pack.add(this_isa, attention_pack);
  kernel::attention_scores.add(this_isa, attention_scores, {W, panel_lanes, score_keys, 96});
  kernel::attention_dots_f32.add(this_isa, attention_dots<F32>);
  kernel::attention_softmax.add(this_isa, attention_softmax);
  kernel::attention_values_f32.add(this_isa, attention_values<F32>);
#if defined(KVT_HAS_F16)
  kernel::attention_dots_f16.add(this_isa, attention_dots<F16>);
  kernel::attention_values_f16.add(this_isa, attention_values<F16>);
#endif
}

}  // namespace kvt
