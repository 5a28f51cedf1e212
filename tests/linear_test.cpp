// linear and embedding with weights of every type against products in double, along each of linear's ways.
#include "tests/main.h"

#include "ops/interleave.h"
#include "ops/linear_tiles.h"
#include "ops/linears.h"
#include "ops/quant.h"
#include "ops/tuning.h"
#include "tensor/parallel.h"
#include "tests/check.h"

using namespace kvt;

namespace {

constexpr DType types[] = {DType::F32, DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0,
                           DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::IQ4_NL};

std::vector<float> definition(const Tensor& x, const Tensor& w, const Tensor& b) {
  const int64_t T = x.dim(0), K = x.dim(1), N = w.dim(0);
  std::vector<float> y;
  for (int64_t t = 0; t < T; ++t)
    for (int64_t n = 0; n < N; ++n) {
      double total = b ? double(b.data()[n]) : 0;
      for (int64_t k = 0; k < K; ++k) total += double(x.data()[t * K + k]) * double(w.data()[n * K + k]);
      y.push_back(float(total));
    }
  return y;
}

struct UseActivations {
  explicit UseActivations(Activations a) : before(activations()) { set_activations(a); }
  ~UseActivations() { set_activations(before); }
  Activations before;
};

}  // namespace

TEST_CASE("products hold for whatever sizes of blocks a machine was tuned to") {
  Rng rng(30);
  const int64_t m = 70, n = 90, k = 1100;
  const Tensor x = randn({m, k}, rng), w = randn({n, k}, rng);
  const std::vector<float> want = definition(x, w, {});
  for (Tunable* t : {&tuning::matmul_rows, &tuning::matmul_cols, &tuning::blas_products})
    for (const int64_t value : {t->least, t->least + 13, (t->least + t->most) / 2, t->most}) {
      INFO(t->name, " ", value);
      t->set(value);
      Tensor y = Tensor::filled({m, n}, 0.f);
      kernel::matmul(y.data(), n, {x.data(), k, 1}, {w.data(), 1, k}, m, n, k);
      CHECK(max_relative_error(y.values(), want) < 2e-6);
      t->reset();
    }
}

TEST_CASE("linear is x Wᵀ + b for every type of weight, however many rows") {
  const UseActivations exact(Activations::f32);
  Rng rng(31);
  for (const DType type : types)
    for (const int64_t T : {1, 4, 5, 33, 140}) {
      INFO(std::string(info(type).name), ", rows ", T);
      const int64_t K = 512, N = 147;
      const Tensor x = randn({T, K}, rng), w = pack(randn({N, K}, rng), type), b = randn({N}, rng);
      CHECK(max_relative_error(linear(x, w, b).values(), definition(x, unpack(w), b)) < 3e-6);
    }
}

TEST_CASE("activations rounded to 8 bits: a small error with few rows, and with many where tiles of BF16 serve; none when recording") {
  Rng rng(32);
  const UseActivations rounded(Activations::q8);
  for (const DType type : types) {
    if (is_float(type)) continue;
    const Tensor w = pack(randn({100, 768}, rng), type), plain = unpack(w);      // two blocks of K in tiles
    for (const int64_t T : {1, 32, 33}) {
      INFO(std::string(info(type).name), ", rows ", T);
      const Tensor x = randn({T, 768}, rng), y = linear(x, w);
      const double error = max_relative_error(y.values(), definition(x, plain, {}));
      if (T <= 32 || has_weight_tiles()) CHECK((error > 1e-5 && error < 1e-2));
      else CHECK(error < 3e-6);
      Tape tape;                                                       // even where nothing wants a gradient: the whole model is exact
      CHECK(max_relative_error(linear(x, w).values(), definition(x, plain, {})) < 3e-6);
    }
  }
}

TEST_CASE("many rows with weights of 16 bits: by tiles as good as 16 bits of precision, F32 weights exact") {
  Rng rng(35);
  const UseActivations rounded(Activations::q8);
  for (const DType type : {DType::F32, DType::F16, DType::BF16})
    for (const auto& size : {std::pair<int64_t, int64_t>{12, 1344}, {32, 96}, {45, 2592}, {100, 1344}}) {
      const int64_t T = size.first, K = size.second;
      INFO(std::string(info(type).name), ", rows ", T);
      const int64_t N = 77;                                            // up to four blocks of K, the last panels in part
      const Tensor x = randn({T, K}, rng), w = pack(randn({N, K}, rng), type), b = randn({N}, rng);
      CHECK(max_relative_error(linear(x, w, b).values(), definition(x, unpack(w), b)) < (type == DType::F32 || !has_weight_tiles() ? 3e-6 : 3e-5));
    }
}

constexpr DType interleaved_types[] = {DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::IQ4_NL};

TEST_CASE("interleaved weights give what those in the file's order give") {
  Rng rng(36);
  const UseActivations rounded(Activations::q8);
  for (const DType type : interleaved_types)
    for (const int64_t N : {16, 80, 224})
      for (const int64_t T : {1, 3, 11, 12, 32, 33, 70}) {
        if (T > 32 && !has_weight_tiles()) continue;        // in the file's order not rounded
        INFO(std::string(info(type).name), ", N ", N, ", rows ", T);
        const Tensor x = randn({T, 672}, rng), w = pack(randn({N, 672}, rng), type), apart = linear(x, w);
        interleave(w);
        CHECK(max_relative_error(linear(x, w).values(), apart.values()) < 3e-6);
      }
}

TEST_CASE("layers that share their input give the bits of each alone, on 1, 2 and 4 threads the same") {
  Rng rng(37);
  const UseActivations rounded(Activations::q8);
  enum { quantized, interleaved, floats };
  for (const auto form : {quantized, interleaved, floats})
    for (const int64_t T : {1, 6, 40}) {
      const auto type = [&](DType q) { return form == floats ? (q == DType::Q4_0 ? DType::F16 : DType::F32) : q; };
      const Tensor x = randn({T, 576}, rng), q = pack(randn({576, 576}, rng), type(DType::Q4_0)), k = pack(randn({192, 576}, rng), type(DType::Q8_0)), none, b = randn({192}, rng);
      if (form == interleaved) interleave(q), interleave(k);
      const WeightsAndBias layers[] = {{q, none}, {k, b}};
      ArenaVector<Tensor> first;
      for (const int threads : {1, 2, 4}) {
        INFO("threads ", threads, ", rows ", T);
        ThreadPool pool({.threads = threads});
        const ThreadPool::Use use(pool);
        const ArenaVector<Tensor> y = linears(x, layers);
        REQUIRE(y.size() == 2);
        const Tensor alone[] = {linear(x, q), linear(x, k, b)};
        if (first.empty()) first = y;
        for (size_t i = 0; i < 2; ++i) {
          CHECK(y[i].shape() == alone[i].shape());
          CHECK(std::equal(y[i].values().begin(), y[i].values().end(), alone[i].values().begin()));
          CHECK(std::equal(y[i].values().begin(), y[i].values().end(), first[i].values().begin()));
        }
      }
    }
}

TEST_CASE("what low-rank adapters add comes with the products, in each way: to one layer of several, several to one, from a row on, with cores") {
  Rng rng(38);
  const UseActivations rounded(Activations::q8);
  struct Factors { Tensor a, b; LowRankFactors fast; };
  const auto factors = [&](int64_t r, int64_t q, int64_t K, int64_t N) {
    Factors f{randn({r, K}, rng), randn({N, q}, rng), {}};
    f.fast = low_rank_factors(f.a, f.b);
    return f;
  };
  for (const int64_t K : {96, 1344})
    for (const int64_t T : {1, 4, 7, 12, 33, 70})
      for (const int threads : {1, 2}) {
        INFO("K ", K, ", rows ", T, ", threads ", threads);
        ThreadPool pool({.threads = threads});
        const ThreadPool::Use use(pool);
        const Tensor x = randn({T, K}, rng), w[] = {pack(randn({80, K}, rng), DType::Q4_1), pack(randn({33, K}, rng), DType::Q8_0), pack(randn({48, K}, rng), DType::F16)}, none;
        interleave(w[0]);
        const Factors one = factors(3, 3, K, 80), wide = factors(16, 16, K, 80);
        Factors cored = factors(5, 7, K, 33);
        const int64_t from = T / 3, each = T == 12 ? 2 : 1, units = 3;
        const Tensor w_cores = randn({units, 5, 8}, rng), phi = randn({T, units, 4}, rng);
        add_core_weights(cored.fast, w_cores);
        const LowRank of_first[] = {{one.fast.a, one.fast.f, {}, 0.5f * one.fast.scale}, {wide.fast.a, wide.fast.f, {}, 2 * wide.fast.scale, from}};
        const LowRank of_second[] = {{cored.fast.a, cored.fast.f, {&cored.fast.w, phi.data(), each}, cored.fast.scale, from}};
        const WeightsAndBias with[] = {{w[0], none, of_first}, {w[1], none, of_second}, {w[2], none}}, without[] = {{w[0], none}, {w[1], none}, {w[2], none}};
        const ArenaVector<Tensor> y = linears(x, with), plain = linears(x, without);
        const auto later = [&](Tensor z) { return std::fill_n(z.data(), from * z.dim(1), 0.f), z; };
        Tensor h = linear(x, cored.a), g = Tensor::zeros({T, 7});
        for (int64_t t = from; t < T; ++t)
          for (int64_t i = 0; i < 7; ++i)
            for (int64_t j = 0, n = (t - from) / each; j < 5; ++j)
              for (int64_t u = 0; u < units; ++u)
                g.data()[t * 7 + i] += phi.data()[(n / 4 * units + u) * 4 + n % 4] * w_cores.data()[(u * 5 + j) * 8 + i] * h.data()[t * 5 + j];
        const Tensor added[] = {scale(linear(linear(x, one.a), one.b), 0.5f) + later(scale(linear(linear(x, wide.a), wide.b), 2)), linear(g, cored.b)};
        for (size_t i = 0; i < 2; ++i) CHECK(max_relative_error((y[i] - plain[i]).values(), added[i].values()) < (T < 12 || !has_weight_tiles() ? 2e-3 : 1e-2));
        CHECK(std::equal(y[2].values().begin(), y[2].values().end(), plain[2].values().begin()));
      }
}

TEST_CASE("a row of a batch gives the same alone") {
  Rng rng(33);
  const Tensor w = randn({300, 96}, rng), x = randn({2, 200, 96}, rng), all = linear(x, w), some = linear(slice(x, 1, 17, 40), w);
  CHECK(max_relative_error(some.values(), slice(all, 1, 17, 40).values()) < 1e-6);
}

TEST_CASE("embedding gives the rows of W, of every type") {
  Rng rng(34);
  const Ids ids{2, 0, 6, 2, 5, 1};
  for (const DType type : types) {
    const Tensor w = pack(randn({7, 512}, rng), type), plain = unpack(w), y = embedding(ids, {2, 3}, w);
    CHECK(y.shape() == Shape{2, 3, 512});
    for (size_t i = 0; i < ids.size(); ++i) CHECK(std::equal(plain.data() + ids[i] * 512, plain.data() + (ids[i] + 1) * 512, y.data() + int64_t(i) * 512));
  }
}
