// Quantized blocks to floats, and activations to 8 bits.
#include <cfloat>

#include "arm/blocks.h"

namespace kvt {
namespace {

template <class B>
void unpack(float* y, const void* x, int64_t n) {
  const B* b = static_cast<const B*>(x);
  for (; n > 0; n -= B::numbers, ++b) {
    const Scales<B> scales(*b);
    for (int j = 0; j < pieces<B>; ++j) {
      const Codes c = codes(*b, j);
      for (int h = 0; h < 2; ++h, y += 16) {
        const int g = halves<B> ? 2 * j + h : j;
        const float32x4_t scale = vdupq_n_f32(scales.scale[g]), offset = vdupq_n_f32(scales.offset[g]);
        const int16x8_t low = vmovl_s8(vget_low_s8(c.q[h])), high = vmovl_high_s8(c.q[h]);
        vst1q_f32(y, vfmaq_f32(offset, vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), scale));
        vst1q_f32(y + 4, vfmaq_f32(offset, vcvtq_f32_s32(vmovl_high_s16(low)), scale));
        vst1q_f32(y + 8, vfmaq_f32(offset, vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), scale));
        vst1q_f32(y + 12, vfmaq_f32(offset, vcvtq_f32_s32(vmovl_high_s16(high)), scale));
      }
    }
  }
}

void quantize_q8(Q8Block* y, const float* x, int64_t n) {
  for (; n > 0; n -= 32, x += 32, ++y) {
    float32x4_t most = vdupq_n_f32(0);
    for (int i = 0; i < 32; i += 4) most = vmaxq_f32(most, vabsq_f32(vld1q_f32(x + i)));
    y->d = vmaxvq_f32(most) / 127;
    const float inverse = y->d < FLT_MIN ? 0 : 1 / y->d;      // 1/d of a subnormal overflows
    for (int h = 0; h < 2; ++h) {
      int16x4_t q[4];
      for (int i = 0; i < 4; ++i) q[i] = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * h + 4 * i), inverse)));
      const int16x8_t low = vcombine_s16(q[0], q[1]), high = vcombine_s16(q[2], q[3]);
      vst1q_s8(y->q + 16 * h, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
      y->sum[h] = vaddvq_s16(vaddq_s16(low, high));
    }
    y->d_sum = y->d * float(y->sum[0] + y->sum[1]);
  }
}

}  // namespace

void ISA::add_blocks() {
  kernel::quantize_q8.add(this_isa, quantize_q8);
  kernel::unpack_q4_0.add(this_isa, unpack<BlockQ4_0>);
  kernel::unpack_q4_1.add(this_isa, unpack<BlockQ4_1>);
  kernel::unpack_q5_0.add(this_isa, unpack<BlockQ5_0>);
  kernel::unpack_q5_1.add(this_isa, unpack<BlockQ5_1>);
  kernel::unpack_q8_0.add(this_isa, unpack<BlockQ8_0>);
  kernel::unpack_q2_k.add(this_isa, unpack<BlockQ2_K>);
  kernel::unpack_q3_k.add(this_isa, unpack<BlockQ3_K>);
  kernel::unpack_q4_k.add(this_isa, unpack<BlockQ4_K>);
  kernel::unpack_q5_k.add(this_isa, unpack<BlockQ5_K>);
  kernel::unpack_q6_k.add(this_isa, unpack<BlockQ6_K>);
  kernel::unpack_iq4_nl.add(this_isa, unpack<BlockIQ4_NL>);
}

}  // namespace kvt
