// Attention against its definition in double: sizes around every block, masks, caches in half precision, causality.
#include "tests/main.h"

#include "ops/quant.h"
#include "ops/tuning.h"
#include "tests/check.h"

using namespace kvt;

namespace {

struct Sizes { int64_t B, T, S, H, Hkv, D; bool causal = true; std::vector<int32_t> lengths = {}; float scale = 0; int64_t window = 0; };

// softmax(scale q kᵀ + mask) v, row by row
std::vector<float> definition(const Tensor& q, const Tensor& k, const Tensor& v, const Sizes& z) {
  std::vector<float> y(size_t(q.size()), 0.f);
  const double scale = z.scale != 0 ? double(z.scale) : 1 / std::sqrt(double(z.D));
  for (int64_t b = 0; b < z.B; ++b)
    for (int64_t t = 0; t < z.T; ++t)
      for (int64_t h = 0; h < z.H; ++h) {
        const int64_t keys = z.lengths.empty() ? z.S : z.lengths[size_t(b)], query = ((b * z.T + t) * z.H + h) * z.D;
        std::vector<double> p, sums(size_t(z.D), 0.0);
        double top = -INFINITY, total = 0;
        const auto at = [&](int64_t j) { return ((b * z.S + j) * z.Hkv + h * z.Hkv / z.H) * z.D; };
        const int64_t first = z.window > 0 ? std::max<int64_t>(0, z.S - z.T + t + 1 - z.window) : 0;
        for (int64_t j = first; j < keys && (!z.causal || j <= z.S - z.T + t); ++j) {
          double s = 0;
          for (int64_t d = 0; d < z.D; ++d) s += double(q.data()[query + d]) * double(k.data()[at(j) + d]);
          p.push_back(s * scale);
          top = std::max(top, p.back());
        }
        for (double& s : p) total += s = std::exp(s - top);
        for (size_t j = 0; j < p.size(); ++j)
          for (int64_t d = 0; d < z.D; ++d) sums[size_t(d)] += p[j] / total * double(v.data()[at(first + int64_t(j)) + d]);
        for (int64_t d = 0; d < z.D; ++d) y[size_t(query + d)] = float(sums[size_t(d)]);
      }
  return y;
}

AttentionOptions options(const Sizes& z) {
  AttentionOptions o;
  o.causal = z.causal, o.lengths = z.lengths, o.scale = z.scale, o.window = z.window;
  return o;
}

}  // namespace

TEST_CASE("attention is its definition") {
  Rng rng(21);
  const std::vector<Sizes> table = {
      {1, 300, 300, 9, 3, 64},                    // SmolLM2-135M
      {1, 1, 300, 9, 3, 64},                      // decoding, keys in two parts
      {1, 1, 1, 9, 3, 64},  {1, 1, 256, 3, 1, 16}, {1, 1, 257, 3, 1, 16}, {2, 5, 700, 3, 1, 24, true, {700, 300}},
      {2, 64, 64, 2, 2, 32}, {1, 65, 65, 2, 1, 33}, {1, 63, 127, 4, 2, 1}, {1, 129, 129, 1, 1, 256},
      {2, 17, 40, 8, 1, 5, false}, {3, 20, 20, 2, 2, 8, false, {20, 7, 0}}, {2, 3, 100, 2, 1, 8, false, {0, 65}},
      {1, 10, 4, 2, 1, 8},                        // more queries than keys: the first six see none
      {1, 33, 33, 4, 4, 12, true, {}, 0.7f}, {1, 3, 9, 200, 1, 4},
      {2, 50, 50, 3, 3, 64, false}, {1, 197, 197, 2, 2, 64, false}, {1, 128, 128, 1, 1, 128, false}, {1, 70, 70, 2, 2, 80}, {1, 39, 500, 2, 1, 96},
      {1, 100, 100, 7, 7, 7}, {1, 160, 160, 2, 1, 72, false, {159}}, {1, 21, 200, 3, 1, 17}, {1, 8, 600, 3, 1, 64}, {1, 2, 5, 3, 3, 64},
      {1, 49, 130, 2, 2, 64, false}, {1, 52, 90, 3, 3, 64}, {1, 53, 80, 2, 2, 64, false}, {1, 97, 97, 2, 1, 128},       // panels of 48, and 1, 4, 5 more
      {1, 200, 200, 2, 1, 16, true, {}, 0, 30}, {1, 200, 200, 2, 2, 16, true, {}, 0, 1}, {1, 1, 900, 3, 1, 16, true, {}, 0, 100},
      {1, 4, 900, 3, 1, 16, true, {}, 0, 300}, {2, 150, 300, 2, 1, 8, true, {300, 170}, 0, 64},
  };
  for (const Sizes& z : table) {
    INFO("B ", z.B, " T ", z.T, " S ", z.S, " H ", z.H, " Hkv ", z.Hkv, " D ", z.D);
    const Tensor q = randn({z.B, z.T, z.H, z.D}, rng), k = randn({z.B, z.S, z.Hkv, z.D}, rng), v = randn({z.B, z.S, z.Hkv, z.D}, rng);
    const Tensor y = attention(q, k, v, options(z));
    CHECK(max_relative_error(y.values(), definition(q, k, v, z)) < 2e-6);

    const Tensor k16 = pack(k, DType::F16), v16 = pack(v, DType::F16);
    const Tensor half = attention(q, k16, v16, options(z));
    CHECK(max_relative_error(half.values(), definition(q, unpack(k16), unpack(v16), z)) < 2e-6);
    CHECK(max_relative_error(half.values(), definition(q, k, v, z)) < 2e-3);                    // rounding of K and V included
    if (z.D % 32) continue;

    const Tensor k8 = pack(k, DType::Q8_0), v8 = pack(v, DType::Q8_0);
    const Tensor blocks = attention(q, k8, v8, options(z));
    CHECK(max_relative_error(blocks.values(), definition(q, unpack(k8), unpack(v8), z)) < 2e-6);
    CHECK(max_relative_error(blocks.values(), definition(q, k, v, z)) < 3e-2);
  }
}

TEST_CASE("results hold for whatever sizes of blocks a machine was tuned to") {
  Rng rng(28);
  const Sizes z{2, 150, 170, 4, 2, 24, true, {170, 90}};
  const Tensor q = randn({2, 150, 4, 24}, rng), k = randn({2, 170, 2, 24}, rng), v = randn({2, 170, 2, 24}, rng);
  const Tensor q1 = randn({2, 2, 4, 24}, rng);
  const Sizes z1{2, 2, 170, 4, 2, 24, true, {170, 90}};
  Tunable* const all[] = {&tuning::query_block, &tuning::key_block, &tuning::panel_queries, &tuning::gather_panels, &tuning::few_keys};
  for (Tunable* t : all)
    for (const int64_t value : {t->least, t->least + 13, (t->least + t->most) / 2, t->most}) {
      INFO(t->name, " ", value);
      t->set(value);
      CHECK(max_relative_error(attention(q, k, v, options(z)).values(), definition(q, k, v, z)) < 2e-6);
      CHECK(max_relative_error(attention(q1, k, v, options(z1)).values(), definition(q1, k, v, z1)) < 2e-6);
      t->reset();
    }
}

TEST_CASE("what a query does not see does not matter, be it infinite") {
  Rng rng(22);
  const Tensor q = randn({1, 80, 4, 8}, rng), k = randn({1, 80, 2, 8}, rng), v = randn({1, 80, 2, 8}, rng);
  const Tensor before = attention(q, k, v, options({1, 80, 80, 4, 2, 8}));
  for (int64_t i = 70 * 16; i < 80 * 16; ++i) k.data()[i] = v.data()[i] = 1e30f;
  const Tensor after = attention(q, k, v, options({1, 80, 80, 4, 2, 8}));
  CHECK(std::equal(before.data(), before.data() + 70 * 32, after.data()));
  CHECK_FALSE(std::equal(before.data() + 70 * 32, before.data() + 80 * 32, after.data() + 70 * 32));
}

TEST_CASE("the last queries over a cache give what all queries give") {
  Rng rng(23);
  const Tensor q = randn({1, 333, 6, 16}, rng), k = randn({1, 333, 2, 16}, rng), v = randn({1, 333, 2, 16}, rng);
  const Tensor all = attention(q, k, v, options({1, 333, 333, 6, 2, 16}));
  for (const int64_t T : {1, 2, 5, 6, 30, 100}) {
    const Tensor last = attention(slice(q, 1, 333 - T, 333), k, v, options({1, T, 333, 6, 2, 16}));
    CHECK(max_relative_error(last.values(), slice(all, 1, 333 - T, 333).values()) < 1e-6);
  }
}

TEST_CASE("rows of a batch with keys and values of their own: as each alone") {
  Rng rng(12);
  for (const auto& [T, S] : {std::pair<int64_t, int64_t>{1, 5}, {1, 300}, {3, 70}, {40, 90}})
    for (DType type : {DType::F32, DType::F16, DType::Q8_0}) {
      INFO("T ", T, ", S ", S, ", ", info(type).name);
      const Tensor q = randn({2, T, 6, 32}, rng);
      std::vector<KeysAndValues> rows;
      for (int b = 0; b < 2; ++b) {
        const auto stored = [&](const Tensor& x) { return type == DType::F32 ? x : pack(x, type); };
        rows.push_back({stored(randn({1, S, 2, 32}, rng)), stored(randn({1, S, 2, 32}, rng))});
      }
      const AttentionOptions options = {.causal = true, .scale = 0, .lengths = {}, .window = 0};
      const Tensor both = attention(q, rows, options);
      for (int64_t b = 0; b < 2; ++b) {
        const Tensor alone = attention(slice(q, 0, b, b + 1), rows[size_t(b)].k, rows[size_t(b)].v, options);
        CHECK(std::equal(alone.data(), alone.data() + alone.size(), both.data() + b * alone.size()));
      }
    }
  const std::vector<KeysAndValues> uneven = {{Tensor::zeros({1, 5, 2, 32}), Tensor::zeros({1, 5, 2, 32})}, {Tensor::zeros({1, 6, 2, 32}), Tensor::zeros({1, 6, 2, 32})}};
  CHECK_THROWS_WITH_AS(attention(randn({2, 1, 6, 32}, rng), uneven, {}), "attention: sequences of 6 and 5 keys", Error);
  CHECK_THROWS_AS(attention(randn({3, 1, 6, 32}, rng), uneven, {}), Error);
}

TEST_CASE("scores beyond the range of e^x") {
  Rng rng(24);
  const Sizes z{1, 70, 70, 2, 1, 16, true, {}, 50.f};
  const Tensor q = randn({1, 70, 2, 16}, rng), k = randn({1, 70, 1, 16}, rng), v = randn({1, 70, 1, 16}, rng);
  CHECK(max_relative_error(attention(q, k, v, options(z)).values(), definition(q, k, v, z)) < 2e-4);     // scores round at 10³ · 2⁻²⁴
}

TEST_CASE("scores far below zero, and keys of −∞") {
  Rng rng(26);
  for (const int64_t T : {1, 4, 40}) {
    const Tensor q = randn({1, T, 2, 16}, rng), k = randn({1, 60, 2, 16}, rng), v = randn({1, 60, 2, 16}, rng);
    for (int64_t i = 0; i < q.size(); ++i) q.data()[i] = std::fabs(q.data()[i]) + 0.5f;
    const Sizes z{1, T, 60, 2, 2, 16, false};
    for (const float down : {-100.f, -1e4f, -1e30f}) {
      const Tensor low = k.clone();
      for (int64_t i = 0; i < k.size(); ++i) low.data()[i] += down;
      const Tensor y = attention(q, low, v, options(z));
      CHECK(max_relative_error(y.values(), definition(q, low, v, z)) < (down == -100 ? 2e-4 : 2e-2));      // scores round at 10³ · 2⁻²⁴, 10⁵ · 2⁻²⁴
    }
    const Tensor none = k.clone();
    std::fill(none.data() + 20 * 32, none.data() + 60 * 32, -INFINITY);
    const Sizes few{1, T, 60, 2, 2, 16, false, {20}};
    CHECK(max_relative_error(attention(q, none, v, options(z)).values(), definition(q, k, v, few)) < 2e-6);
    const Tensor none16 = pack(none, DType::F16), k16 = pack(k, DType::F16), v16 = pack(v, DType::F16);
    CHECK(max_relative_error(attention(q, none16, v16, options(z)).values(), definition(q, unpack(k16), unpack(v16), few)) < 2e-6);
    std::fill(none.data(), none.data() + none.size(), -INFINITY);
    const Tensor zeros = attention(q, none, v, options(z));
    for (const float y : zeros.values()) CHECK(y == 0);
    const Tensor zeros16 = attention(q, pack(none, DType::F16), v16, options(z));
    for (const float y : zeros16.values()) CHECK(y == 0);
  }
}

TEST_CASE("what is no number stays none") {
  Rng rng(27);
  for (const int64_t T : {1, 40}) {
    const Tensor q = randn({1, T, 1, 16}, rng), k = randn({1, 60, 1, 16}, rng), v = randn({1, 60, 1, 16}, rng);
    k.data()[17 * 16 + 3] = NAN;
    const Tensor nothing = attention(q, k, v, {});
    for (const float y : nothing.values()) CHECK(std::isnan(y));
    const Tensor nothing16 = attention(q, pack(k, DType::F16), pack(v, DType::F16), {});
    for (const float y : nothing16.values()) CHECK(std::isnan(y));
  }
}

TEST_CASE("half precision takes no gradient; recording with it is refused") {
  Rng rng(25);
  const Tensor q = randn({1, 2, 2, 4}, rng).want_grad(), k = pack(randn({1, 2, 2, 4}, rng), DType::F16);
  Tape tape;
  CHECK_THROWS_WITH_AS(attention(q, k, k, {}), "attention: F16 keys and values in training", Error);
  CHECK_THROWS_WITH_AS(attention(q, q, k, {}), "attention: keys F32 and values F16; expected both F32, both F16 or both Q8_0", Error);
}
