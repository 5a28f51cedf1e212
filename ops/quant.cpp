// Weight types by table: 16-bit floats, unpacking and packing of tensors, and whether activations are rounded too.
#include "ops/quant.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>

#include "ops/quant_blocks.h"
#include "tensor/parallel.h"

namespace kvt {

// F16: sign, 5 bits of exponent (bias 15), 10 bits of fraction.
float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7fff;
  const float magnitude = rest < 0x0400 ? float(rest) * 0x1p-24f                                    // zero and subnormals
                        : std::bit_cast<float>(rest < 0x7c00 ? (rest << 13) + (112u << 23)          // bias 15 → 127
                                                             : (rest << 13) | 0x7f800000);          // ∞, NaN
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
}

uint16_t f32_to_f16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), rest = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
  if (rest > 0x7f800000) return uint16_t(sign | 0x7e00 | (rest >> 13 & 0x3ff));                      // NaN, quiet
  if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);                                           // from 65520: ∞
  if (rest < 0x38800000)                    // below 2^−14, multiples of 2^−24: the spacing of floats in [½, 1)
    return uint16_t(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(rest) + 0.5f) - std::bit_cast<uint32_t>(0.5f)));
  return uint16_t(sign | ((rest + 0xfff + (rest >> 13 & 1)) - (112u << 23)) >> 13);
}

uint16_t f32_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void unpack_f16_ref(float* y, const void* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = f16_to_f32(static_cast<const uint16_t*>(x)[i]);
}
static void unpack_bf16_ref(float* y, const void* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = bf16_to_f32(static_cast<const uint16_t*>(x)[i]);
}
static void pack_bf16_ref(uint16_t* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = f32_to_bf16(x[i]);
}
namespace kernel {
decltype(unpack_f16) unpack_f16{"unpack_f16", unpack_f16_ref};
decltype(unpack_bf16) unpack_bf16{"unpack_bf16", unpack_bf16_ref};
decltype(pack_bf16) pack_bf16{"pack_bf16", pack_bf16_ref};
}  // namespace kernel

static void pack_f32(void* y, const float* x, int64_t n) { std::memcpy(y, x, size_t(n) * sizeof(float)); }
static void pack_f16(void* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(y)[i] = f32_to_f16(x[i]);
}
static void pack_bf16(void* y, const float* x, int64_t n) { kernel::pack_bf16(static_cast<uint16_t*>(y), x, n); }

using Pack = void(void* y, const float* x, int64_t n);
Pack pack_q4_0, pack_q4_1, pack_q5_0, pack_q5_1, pack_q8_0, pack_iq4_nl;          // quant_legacy.cpp
Pack pack_q2_k, pack_q3_k, pack_q4_k, pack_q5_k, pack_q6_k;                       // quant_k.cpp

static const WeightFormat formats[] = {
    {DType::F32, nullptr, nullptr, nullptr, nullptr, pack_f32},
    {DType::F16, &kernel::unpack_f16, nullptr, nullptr, nullptr, pack_f16},
    {DType::BF16, &kernel::unpack_bf16, nullptr, nullptr, nullptr, pack_bf16},
    {DType::Q4_0, &kernel::unpack_q4_0, &kernel::dot_q4_0, &kernel::dot16_q4_0, &kernel::pairs16_q4_0, pack_q4_0},
    {DType::Q4_1, &kernel::unpack_q4_1, &kernel::dot_q4_1, &kernel::dot16_q4_1, &kernel::pairs16_q4_1, pack_q4_1},
    {DType::Q5_0, &kernel::unpack_q5_0, &kernel::dot_q5_0, &kernel::dot16_q5_0, &kernel::pairs16_q5_0, pack_q5_0},
    {DType::Q5_1, &kernel::unpack_q5_1, &kernel::dot_q5_1, &kernel::dot16_q5_1, &kernel::pairs16_q5_1, pack_q5_1},
    {DType::Q8_0, &kernel::unpack_q8_0, &kernel::dot_q8_0, &kernel::dot16_q8_0, &kernel::pairs16_q8_0, pack_q8_0},
    {DType::IQ4_NL, &kernel::unpack_iq4_nl, &kernel::dot_iq4_nl, &kernel::dot16_iq4_nl, &kernel::pairs16_iq4_nl, pack_iq4_nl},
    {DType::Q2_K, &kernel::unpack_q2_k, &kernel::dot_q2_k, nullptr, nullptr, pack_q2_k},
    {DType::Q3_K, &kernel::unpack_q3_k, &kernel::dot_q3_k, nullptr, nullptr, pack_q3_k},
    {DType::Q4_K, &kernel::unpack_q4_k, &kernel::dot_q4_k, nullptr, nullptr, pack_q4_k},
    {DType::Q5_K, &kernel::unpack_q5_k, &kernel::dot_q5_k, nullptr, nullptr, pack_q5_k},
    {DType::Q6_K, &kernel::unpack_q6_k, &kernel::dot_q6_k, nullptr, nullptr, pack_q6_k},
};

const WeightFormat& weight_format(DType type) {
  for (const WeightFormat& f : formats)
    if (f.type == type) return f;
  fail("quant: ", type, " is no type of weights");
}

void unpack(float* y, DType type, const void* x, int64_t n) {
  const WeightFormat& format = weight_format(type);
  if (format.unpack) (*format.unpack)(y, x, n);
  else std::memcpy(y, x, size_t(n) * sizeof(float));
}

// body(first, count) over pieces of n numbers in whole blocks, on all threads
template <class Body>
static void for_blocks(int64_t n, Body body) {
  constexpr int64_t block = 256;            // whole blocks of every type
  parallel_for((n + block - 1) / block, 16,
               [&](int64_t begin, int64_t end) { body(begin * block, std::min(end * block, n) - begin * block); });
}

Tensor unpack(const Tensor& x) {
  const DType type = x.dtype();
  const Tensor y(x.shape());
  for_blocks(x.size(), [&](int64_t i, int64_t n) { unpack(y.data() + i, type, x.raw() + byte_size(type, i), n); });
  return y;
}

Tensor pack(const Tensor& x, DType type) {
  const WeightFormat& format = weight_format(type);
  const int block = info(type).block;
  require(x.rank() > 0 && x.dim(-1) % block == 0, "pack: rows of ", x.shape(), " do not fill blocks of ", block, " ", type);
  const Tensor y(x.shape(), type);
  for_blocks(x.size(), [&](int64_t i, int64_t n) { format.pack(y.raw() + byte_size(type, i), x.data() + i, n); });
  return y;
}

template <class T, class ToDouble>
static std::optional<NotFinite> first_bad(const void* x, int64_t n, ToDouble to_double) {
  for (int64_t i = 0; i < n; ++i)
    if (const double v = to_double(static_cast<const T*>(x)[i]); !std::isfinite(v)) return NotFinite{i, v};
  return {};
}

template <class Block>
static std::optional<NotFinite> first_bad_block(const void* x, int64_t n) {
  auto bad = first_bad<Block>(x, n / Block::numbers, [](const Block& b) {
    double v = f16_to_f32(b.d);
    if constexpr (has_min<Block>)
      if (std::isfinite(v)) v = f16_to_f32(b.m);
    return v;
  });
  if (bad) bad->element *= Block::numbers;
  return bad;
}

std::optional<NotFinite> find_not_finite(DType type, const void* x, int64_t n) {
  switch (type) {
    case DType::F32: return first_bad<float>(x, n, [](float v) { return double(v); });
    case DType::F64: return first_bad<double>(x, n, [](double v) { return v; });
    case DType::F16: return first_bad<uint16_t>(x, n, [](uint16_t h) { return double(f16_to_f32(h)); });
    case DType::BF16: return first_bad<uint16_t>(x, n, [](uint16_t h) { return double(bf16_to_f32(h)); });
    case DType::Q4_0: return first_bad_block<BlockQ4_0>(x, n);
    case DType::Q4_1: return first_bad_block<BlockQ4_1>(x, n);
    case DType::Q5_0: return first_bad_block<BlockQ5_0>(x, n);
    case DType::Q5_1: return first_bad_block<BlockQ5_1>(x, n);
    case DType::Q8_0: return first_bad_block<BlockQ8_0>(x, n);
    case DType::IQ4_NL: return first_bad_block<BlockIQ4_NL>(x, n);
    case DType::Q2_K: return first_bad_block<BlockQ2_K>(x, n);
    case DType::Q3_K: return first_bad_block<BlockQ3_K>(x, n);
    case DType::Q4_K: return first_bad_block<BlockQ4_K>(x, n);
    case DType::Q5_K: return first_bad_block<BlockQ5_K>(x, n);
    case DType::Q6_K: return first_bad_block<BlockQ6_K>(x, n);
    case DType::I8: case DType::I16: case DType::I32: case DType::I64: return {};
  }
  return {};
}

static std::optional<Activations> activations_from_environment() {
  const char* wish = std::getenv("KVT_ACTIVATIONS");
  if (!wish || !*wish) return {};
  require(std::string_view(wish) == "q8" || std::string_view(wish) == "f32", "KVT_ACTIVATIONS=", wish, ": expected f32 or q8");
  return std::string_view(wish) == "q8" ? Activations::q8 : Activations::f32;
}
// The enumerator as a number, −1 for none: what every CPU reads and writes at once.
static int as_number(std::optional<Activations> a) { return a ? int(*a) : -1; }
static std::atomic<int>& activations_setting() {
  static std::atomic<int> setting{as_number(activations_from_environment())};
  return setting;
}
Activations activations() {
  if (const int set = activations_setting().load(std::memory_order_relaxed); set >= 0) return Activations(set);
  load_backends();
  return kernel::quantize_q8.chosen() > 0 ? Activations::q8 : Activations::f32;
}
void set_activations(std::optional<Activations> a) { activations_setting().store(as_number(a), std::memory_order_relaxed); }

}  // namespace kvt
