// Block formats against gguf-py (tests/golden/make_quant.py), packing against the least errors known for each type, and the
// integer dot products against double-precision sums.
#include "tests/main.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "engine/gguf.h"
#include "ops/quant.h"
#include "tests/check.h"

using namespace kvt;

static const DType block_types[] = {DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::IQ4_NL,
                                    DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K};

static Gguf golden() { return Gguf::open(project_path("tests/golden/quant.gguf")); }

static bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.raw(), b.raw(), size_t(a.bytes())) == 0;
}

// Σ (x − x̂)² / Σ x²
static double relative_square_error(const Tensor& x, DType type) {
  const Tensor y = unpack(pack(x, type));
  double error = 0, power = 0;
  for (int64_t i = 0; i < x.size(); ++i) {
    error += std::pow(double(x.data()[i]) - y.data()[i], 2);
    power += std::pow(double(x.data()[i]), 2);
  }
  return error / power;
}

TEST_CASE("half precision: every number survives, and rounding is to the nearest even") {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float x = f16_to_f32(uint16_t(h));
    if (std::isnan(x)) CHECK(std::isnan(f16_to_f32(f32_to_f16(x))));
    else if (f32_to_f16(x) != h) FAIL_CHECK("half ", h, " became ", f32_to_f16(x));
    const float b = bf16_to_f32(uint16_t(h));
    if (std::isnan(b)) CHECK(std::isnan(bf16_to_f32(f32_to_bf16(b))));
    else if (f32_to_bf16(b) != h) FAIL_CHECK("bfloat ", h, " became ", f32_to_bf16(b));
  }
  CHECK(f16_to_f32(0x3c00) == 1.f);
  CHECK(f16_to_f32(0x0001) == 0x1p-24f);
  CHECK(f16_to_f32(0x7bff) == 65504.f);
  // between neighbours: halfway goes to the even one, a hair more goes up; across the subnormals too
  for (const uint32_t h : {0x0000u, 0x0001u, 0x03ffu, 0x0400u, 0x3bffu, 0x3c00u, 0x3c01u, 0x7bfeu}) {
    const float low = f16_to_f32(uint16_t(h)), high = f16_to_f32(uint16_t(h + 1)), middle = (low + high) / 2;
    CHECK(f32_to_f16(middle) == h + (h & 1));
    CHECK(f32_to_f16(std::nextafter(middle, 1e9f)) == h + 1);
    CHECK(f32_to_f16(std::nextafter(middle, -1e9f)) == h);
    CHECK(f32_to_f16(-middle) == (0x8000 | (h + (h & 1))));
  }
  CHECK(f32_to_f16(65519.996f) == 0x7bff);
  CHECK(f32_to_f16(65520.f) == 0x7c00);
  CHECK(f32_to_f16(-std::numeric_limits<float>::infinity()) == 0xfc00);
  CHECK(f32_to_bf16(std::bit_cast<float>(0x3f808000u)) == 0x3f80);
  CHECK(f32_to_bf16(std::bit_cast<float>(0x3f818000u)) == 0x3f82);
}

TEST_CASE("unpacking gives gguf-py's numbers, bit for bit in all edge blocks") {
  const Gguf g = golden();
  CHECK(g.array<std::string>("golden.types").size() == std::size(block_types));
  for (const DType type : block_types) {
    const std::string name = info(type).name;
    const Tensor want = g.tensor(name + ".values"), got = unpack(g.tensor(name));
    CHECK(g.tensor(name).dtype() == type);
    REQUIRE(got.shape() == want.shape());
    // d q is exact in F32; a minimum added to it may be rounded once or, fused, not before the sum
    double worst = 0;
    for (int64_t i = 0; i < got.size(); ++i) {
      const double scale = std::max(1e-3, std::fabs(double(want.data()[i])));
      worst = std::max(worst, std::fabs(double(got.data()[i]) - want.data()[i]) / scale);
    }
    INFO(name);
    CHECK(worst <= 1e-6);
  }
}

TEST_CASE("packing the simple types gives gguf-py's bytes") {
  const Gguf g = golden();
  int compared = 0;
  for (const DType type : block_types) {
    const std::string name = info(type).name;
    const Tensor want = g.find_tensor(name + ".packed");
    if (!want) continue;
    INFO(name);
    CHECK(same_bits(pack(g.tensor("input"), type), want));
    ++compared;
  }
  CHECK(compared == 5);
}

// Bounds for N(0, 1): what rounding to the nearest costs each simple type (Q4_0 .0074, measured with numpy), and for types whose
// scales are searched a little above what this packer reached; a layout or scale that is wrong costs at least twice as much.
// The second bound is on 0.1 + 2 cos i: √Σ(x − x̂)²/n below .002, for 3 bits .004, for 2 bits .0075.
TEST_CASE("the error of a round trip stays within each type's bound") {
  struct { DType type; double gaussian, cosine; } bounds[] = {
      {DType::Q4_0, .0078, .002},  {DType::Q4_1, .0065, .002},  {DType::Q5_0, .0020, .002},  {DType::Q5_1, .0015, .002},
      {DType::Q8_0, 3.2e-5, .002}, {DType::IQ4_NL, .0058, .002}, {DType::Q2_K, .080, .0075}, {DType::Q3_K, .0220, .004},
      {DType::Q4_K, .0055, .002},  {DType::Q5_K, .0014, .002},  {DType::Q6_K, 3.2e-4, .002}};
  Rng rng(7);
  const Tensor gaussian = randn({32, 1024}, rng), cosine({1, 4096});
  for (int i = 0; i < 4096; ++i) cosine.data()[i] = 0.1f + 2 * std::cos(float(i));
  double power = 0;
  for (const float v : cosine.values()) power += double(v) * v;
  for (const auto& b : bounds) {
    INFO(std::string(info(b.type).name));
    CHECK(relative_square_error(gaussian, b.type) < b.gaussian);
    CHECK(std::sqrt(relative_square_error(cosine, b.type) * power) / 4096 < b.cosine);
  }
}

TEST_CASE("packing is stable: what a type can hold exactly stays, whatever the magnitude") {
  for (const DType type : block_types) {
    INFO(std::string(info(type).name));
    const Tensor zero = Tensor::zeros({2, 256});
    const Tensor still_zero = unpack(pack(zero, type));
    for (const float v : still_zero.values()) CHECK(v == 0.f);        // of either sign
    // scaling by a power of two scales the result
    Rng rng(3);
    const Tensor x = randn({1, 512}, rng), y({1, 512});
    for (int64_t i = 0; i < x.size(); ++i) y.data()[i] = x.data()[i] * 64;
    CHECK(relative_square_error(y, type) == doctest::Approx(relative_square_error(x, type)).epsilon(0.05));
    // too small for any half: zeros, and no division by them
    for (int64_t i = 0; i < x.size(); ++i) y.data()[i] = x.data()[i] * 1e-40f;
    const Tensor tiny = unpack(pack(y, type));
    for (const float v : tiny.values()) CHECK(std::fabs(v) < 1e-6f);
  }
}

TEST_CASE("a row is packed alike alone and among many") {
  Rng rng(5);
  const Tensor x = randn({70, 512}, rng);
  for (const DType type : block_types) {
    const Tensor all = pack(x, type), row = pack(Tensor::from({512}, x.values().subspan(69 * 512)), type);
    CHECK(std::memcmp(all.raw() + byte_size(type, 69 * 512), row.raw(), size_t(row.bytes())) == 0);
  }
}

TEST_CASE("activations in 8 bits: nearest, with the sums of both halves") {
  Rng rng(11);
  Tensor x = randn({96}, rng);
  std::fill_n(x.data() + 32, 32, 0.f);
  std::fill_n(x.data() + 64, 32, 1e-42f);      // 1/d would be infinite
  Q8Block q[3];
  kernel::quantize_q8(q, x.data(), 96);
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x.data()[i]));
  CHECK(q[0].d == doctest::Approx(largest / 127));
  for (int i = 0; i < 32; ++i) CHECK(std::fabs(q[0].d * float(q[0].q[i]) - x.data()[i]) <= q[0].d * 0.5001f);
  for (int half = 0; half < 2; ++half) {
    int sum = 0;
    for (int i = 0; i < 16; ++i) sum += q[0].q[16 * half + i];
    CHECK(q[0].sum[half] == sum);
  }
  CHECK(q[0].d_sum == doctest::Approx(q[0].d * float(q[0].sum[0] + q[0].sum[1])));
  for (int b = 1; b < 3; ++b)
    for (int i = 0; i < 32; ++i) CHECK(float(q[b].q[i]) * q[b].d == doctest::Approx(x.data()[32 * b + i]).epsilon(1e-30));
}

// Every variant this machine has, on random and on edge blocks; the sum in double precision is the judge.
TEST_CASE("integer dot products agree with sums in double precision") {
  const Gguf g = golden();
  Rng rng(13);
  for (const DType type : block_types) {
    const WeightFormat& format = weight_format(type);
    kernel::quantize_q8(nullptr, nullptr, 0);      // loads the variants
    for (const Tensor& w : {pack(randn({7, 768}, rng), type), g.tensor(info(type).name)}) {
      const int64_t rows = w.dim(0), n = w.dim(1), T = 3, ldy = rows + 2;
      const Tensor weights = unpack(w), x = randn({T, n}, rng);
      std::vector<Q8Block> q(size_t(T * n / 32));
      kernel::quantize_q8(q.data(), x.data(), T * n);
      for (int variant = 0; variant < format.dot_q8->variants(); ++variant) {
        std::vector<float> y(size_t(T * ldy), 1234.f);
        format.dot_q8->variant(variant).fn(y.data(), ldy, w.raw(), q.data(), rows, T, n);
        for (int64_t t = 0; t < T; ++t)
          for (int64_t r = 0; r < ldy; ++r) {
            if (r >= rows) {
              CHECK(y[size_t(t * ldy + r)] == 1234.f);      // the gap between rows of y
              continue;
            }
            double want = 0, size = 0;
            for (int64_t k = 0; k < n; ++k) {
              const Q8Block& a = q[size_t((t * n + k) / 32)];
              const double term = double(weights.data()[r * n + k]) * a.d * a.q[k % 32];
              want += term;
              size += std::fabs(term);
            }
            INFO(std::string(info(type).name), " ", std::string(isa_name(format.dot_q8->isa(variant))), " row ", r, " token ", t);
            CHECK(std::fabs(y[size_t(t * ldy + r)] - want) <= 1e-6 * size + 1e-9);
          }
      }
    }
  }
}

TEST_CASE("every variant of unpacking agrees with the reference") {
  const Gguf g = golden();
  for (const DType type : block_types) {
    const WeightFormat& format = weight_format(type);
    const Tensor w = g.tensor(info(type).name), want = unpack(w);
    for (int variant = 0; variant < format.unpack->variants(); ++variant) {
      std::vector<float> y(size_t(w.size()));
      format.unpack->variant(variant).fn(y.data(), w.raw(), w.size());
      CHECK(max_relative_error(y, want.values()) <= 1e-6);
    }
  }
}

TEST_CASE("what is no weight, or fills no block, is refused; so is a block without finite scale") {
  CHECK_THROWS_WITH_AS(weight_format(DType::I32), "quant: I32 is no type of weights", Error);
  CHECK_THROWS_WITH_AS(pack(Tensor::zeros({4, 48}), DType::Q4_0), "pack: rows of [4, 48] do not fill blocks of 32 Q4_0", Error);
  CHECK_THROWS_AS(pack(Tensor::zeros({4, 320}), DType::Q4_K), Error);
  for (const DType type : block_types) {
    const Tensor x = Tensor::filled({1, 512}, 1.f);
    CHECK_FALSE(find_not_finite(type, pack(x, type).raw(), 512));
    x.data()[300] = 1e9f;                      // beyond any half's reach
    const auto bad = find_not_finite(type, pack(x, type).raw(), 512);
    REQUIRE(bad);
    CHECK(bad->element == 300 / info(type).block * info(type).block);
    CHECK(std::isinf(bad->value));
  }
}

TEST_CASE("the form of activations is a setting") {
  const Activations before = activations();
  set_activations(Activations::f32);
  CHECK(activations() == Activations::f32);
  set_activations(before);
}
