// Every variant of every kernel at the sizes of SmolLM2-135M (576 channels, 1536 hidden, 49152 words) and of a BERT layer (768,
// 3072), on one thread. GFLOP/s counts a multiply-add as two; GB/s counts what is read and written once, weights as stored.
//
//   kernels_bench --benchmark_filter='dot_q4_1'        names are kernel/variant/case
#include <benchmark/benchmark.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "ops/kernels.h"
#include "ops/quant.h"

using namespace kvt;

namespace {

using Floats = std::vector<float>;

Floats random(int64_t n, float spread = 1) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  Floats x(static_cast<size_t>(n));
  for (float& v : x) v = spread * normal(generator);
  return x;
}

struct Work { double flops, bytes; };       // of one call; a zero is not shown

// make() prepares inputs once and returns what to time: run(fn).
template <class K, class Make>
void add(const K& kernel, const std::string& name, Work work, Make make) {
  for (int v = 0; v < kernel.variants(); ++v)
    benchmark::RegisterBenchmark((std::string(kernel.name) + "/" + isa_name(kernel.isa(v)) + "/" + name).c_str(), [=, &kernel](benchmark::State& state) {
      auto run = make();
      for (auto _ : state) {
        run(kernel.variant(v).fn);
        benchmark::ClobberMemory();
      }
      const auto rate = [&](double amount) { return benchmark::Counter(1e-9 * amount * double(state.iterations()), benchmark::Counter::kIsRate); };
      if (work.flops > 0) state.counters["GFLOP/s"] = rate(work.flops);
      if (work.bytes > 0) state.counters["GB/s"] = rate(work.bytes);
    });
}

std::string sizes(std::initializer_list<int64_t> list) {
  std::string text;
  for (const int64_t n : list) {
    if (!text.empty()) text += 'x';
    text += std::to_string(n);
  }
  return text;
}

// --- products ---

void add_matmul() {
  const struct { int64_t m, n, k; } shapes[] = {{14, 1536, 576}, {128, 576, 1536}, {128, 768, 768}, {128, 3072, 768}};
  for (const auto& [m, n, k] : shapes)
    add(kernel::matmul, sizes({m, n, k}), {2. * double(m * n * k), 0}, [m = m, n = n, k = k] {
      return [=, a = random(m * k), b = random(n * k), c = Floats(size_t(m * n))](auto fn) mutable {
        fn(c.data(), n, {a.data(), k, 1}, {b.data(), 1, k}, m, n, k);
      };
    });
}

void add_matmul_tile() {
  constexpr int64_t k = 256;
  for (int v = 0; v < kernel::matmul_tile.variants(); ++v) {
    const auto& [fn, tile] = kernel::matmul_tile.variant(v);
    const std::string name = std::string("matmul_tile/") + isa_name(kernel::matmul_tile.isa(v)) + "/" + sizes({tile.rows, tile.cols, k});
    benchmark::RegisterBenchmark(name.c_str(), [fn = fn, tile = tile](benchmark::State& state) {
      const Floats a = random(k * tile.rows), b = random(k * tile.cols);
      Floats c(size_t(tile.rows * tile.cols));
      for (auto _ : state) {
        fn(c.data(), tile.cols, a.data(), b.data(), k);
        benchmark::ClobberMemory();
      }
      state.counters["GFLOP/s"] =
          benchmark::Counter(2e-9 * double(tile.rows * tile.cols * k) * double(state.iterations()), benchmark::Counter::kIsRate);
    });
  }
}

template <class K, class Number>
void add_dot(const K& kernel, Number) {
  const struct { int64_t rows, n; } shapes[] = {{64, 64}, {1536, 576}, {49152, 576}};
  for (const auto& [rows, n] : shapes)
    add(kernel, sizes({rows, n}), {2. * double(rows * n), double(rows * n) * sizeof(Number)}, [rows = rows, n = n] {
      return [=, w = std::vector<Number>(size_t(rows * n)), x = random(n), y = Floats(size_t(rows))](auto fn) mutable {
        fn(y.data(), w.data(), n, x.data(), rows, n);
      };
    });
}

// Matrices that a cache holds, and one that it does not; K types need rows of 256, which 768 and 3072 are.
void add_weights(DType type) {
  const WeightFormat& format = weight_format(type);
  const int64_t n = info(type).block == 256 ? 768 : 576, bytes = byte_size(type, n);
  const auto rows_of = [=](int64_t rows) {
    std::vector<std::byte> w(size_t(rows * bytes));
    const Floats x = random(n * 64, 0.05f);
    for (int64_t r = 0; r < rows; ++r)
      if (format.pack) format.pack(w.data() + r * bytes, x.data() + r % 64 * n, n);
    return w;
  };
  add(*format.unpack, sizes({64, n}), {0, double(64 * (bytes + n * 4))}, [=] {
    return [=, w = rows_of(64), y = Floats(size_t(64 * n))](auto fn) mutable { fn(y.data(), w.data(), 64 * n); };
  });
  if (!format.dot_q8) return;
  const struct { int64_t rows, T; } shapes[] = {{1536, 1}, {1536, 14}, {49152, 1}};
  for (const auto& [rows, T] : shapes)
    add(*format.dot_q8, sizes({rows, n}) + "/T" + std::to_string(T), {2. * double(rows * n * T), double(rows * bytes)}, [=, rows = rows, T = T] {
      std::vector<Q8Block> x(size_t(T * n / 32));
      kernel::quantize_q8(x.data(), random(T * n).data(), T * n);
      return [=, w = rows_of(rows), y = Floats(size_t(T * rows))](auto fn) mutable { fn(y.data(), rows, w.data(), x.data(), rows, T, n); };
    });
}

// --- rows and numbers: memory is what they cost ---

constexpr int64_t rows = 128, cols = 768;
constexpr double row_bytes = double(rows * cols) * 4;

// f(fn, y, x, x2) on arrays of [rows, cols]; `passes` of them are read or written
template <class K, class F>
void add_rows(const K& kernel, double passes, F f) {
  add(kernel, sizes({rows, cols}), {0, passes * row_bytes}, [=] {
    return [=, y = random(rows * cols), y2 = random(rows * cols), x = random(rows * cols), x2 = random(rows * cols)](auto fn) mutable {
      f(fn, y.data(), y2.data(), x.data(), x2.data());
    };
  });
}

void add_all_rows() {
  using P = float*;
  add_rows(kernel::softmax, 2, [](auto fn, P y, P, P x, P) { fn(y, x, rows, cols); });
  add_rows(kernel::softmax_grad, 4, [](auto fn, P y, P, P x, P x2) { fn(y, x, x2, rows, cols); });
  add_rows(kernel::rms_norm, 2, [](auto fn, P y, P, P x, P w) { fn(y, x, w, rows, cols, 1e-5f); });
  add_rows(kernel::rms_norm_grad, 4, [](auto fn, P y, P dw, P x, P w) { fn(y, dw, x, w, x, rows, cols, 1e-5f); });
  add_rows(kernel::layer_norm, 2, [](auto fn, P y, P b, P x, P w) { fn(y, x, w, b, rows, cols, 1e-5f); });
  add_rows(kernel::layer_norm_grad, 4, [](auto fn, P y, P dw, P x, P w) { fn(y, dw, dw + cols, x, w, x, rows, cols, 1e-5f); });
  for (const auto* k : {&kernel::silu, &kernel::gelu_erf, &kernel::gelu_tanh, &kernel::sigmoid, &kernel::tanh, &kernel::exp})
    add_rows(*k, 2, [](auto fn, P y, P, P x, P) { fn(y, x, rows * cols); });
  for (const auto* k : {&kernel::silu_grad, &kernel::gelu_erf_grad, &kernel::gelu_tanh_grad, &kernel::sigmoid_grad, &kernel::tanh_grad})
    add_rows(*k, 4, [](auto fn, P y, P, P x, P x2) { fn(y, x, x2, rows * cols); });
  add_rows(kernel::swiglu, 3, [](auto fn, P y, P, P x, P x2) { fn(y, x, x2, rows * cols); });
  add_rows(kernel::swiglu_grad, 7, [](auto fn, P y, P y2, P x, P x2) { fn(y, y2, x, x2, x2, rows * cols); });
  add_rows(kernel::axpy, 3, [](auto fn, P y, P, P x, P) { fn(y, 1e-6f, x, rows * cols); });
  add(kernel::quantize_q8, sizes({rows, cols}), {0, row_bytes * (1 + 40. / 128)}, [] {
    return [x = random(rows * cols), y = std::vector<Q8Block>(size_t(rows * cols / 32))](auto fn) mutable { fn(y.data(), x.data(), rows * cols); };
  });
}

// --- attention: a panel of the variant's own size against a block of 96 keys, heads of 64 numbers ---

// Slots with variants of the scores' sizes; make(lanes) returns what to time.
template <class K, class Make>
void add_panels(const K& kernel, double flops_a_pair, Make make) {
  constexpr int64_t S = 96;
  for (int v = 0; v < kernel.variants(); ++v)
    for (int i = 0; i < kernel::attention_scores.variants(); ++i) {
      if (kernel::attention_scores.isa(i) != kernel.isa(v)) continue;
      const int64_t lanes = kernel::attention_scores.variant(i).traits.most;
      const std::string name = std::string(kernel.name) + "/" + isa_name(kernel.isa(v)) + "/" + sizes({lanes, S, 64});
      benchmark::RegisterBenchmark(name.c_str(), [=, fn = kernel.variant(v).fn](benchmark::State& state) {
        auto run = make(lanes, S);
        for (auto _ : state) {
          run(fn);
          benchmark::ClobberMemory();
        }
        const auto count = double(lanes * S) * double(state.iterations()) * 1e-9;
        state.counters[flops_a_pair > 0 ? "GFLOP/s" : "Gscores/s"] = benchmark::Counter((flops_a_pair > 0 ? flops_a_pair : 1) * count, benchmark::Counter::kIsRate);
      });
    }
}

void add_attention() {
  constexpr int64_t D = 64;
  add_panels(kernel::attention_scores, 2. * D, [](int64_t L, int64_t S) {
    return [=, q = random(L * D), k = random(S * D), s = Floats(size_t(L * S)), top = Floats(size_t(L))](auto fn) mutable {
      fn(s.data(), top.data(), q.data(), L, k.data(), D, S, D, nullptr);
    };
  });
  add_panels(kernel::attention_values_f32, 2. * D, [](int64_t L, int64_t S) {
    return [=, p = random(L * S, 0.01f), v = random(S * D), o = Floats(size_t(L * D)), keep = Floats(size_t(L), 0.5f)](auto fn) mutable {
      fn(o.data(), D, keep.data(), nullptr, p.data(), L, v.data(), D, L, S, D, nullptr);
    };
  });
  add_panels(kernel::attention_softmax, 0, [](int64_t L, int64_t S) {
    return [=, s = random(L * S), m = Floats(size_t(L)), l = Floats(size_t(L)), fix = Floats(size_t(L)), top = Floats(size_t(L), 5.f)](auto fn) mutable {
      fn(s.data(), m.data(), l.data(), fix.data(), top.data(), L, S);
    };
  });
  const auto dots = [](const auto& kernel, auto number) {
    add(kernel, sizes({4, 64, D}), {2. * 4 * 64 * D, double(64 * D) * sizeof(number)}, [=] {
      return [=, q = random(4 * D), k = std::vector<decltype(number)>(size_t(64 * D)), s = Floats(4 * 64), top = Floats(4)](auto fn) mutable {
        fn(s.data(), top.data(), q.data(), 4, k.data(), D, 64, D, nullptr);
      };
    });
  };
  dots(kernel::attention_dots_f32, float());
  dots(kernel::attention_dots_f16, uint16_t());
}

}  // namespace

int main(int argc, char** argv) {
  load_backends();
  add_matmul();
  add_matmul_tile();
  add_dot(kernel::dot_f32, float());
  add_dot(kernel::dot_f16, uint16_t());
  add_dot(kernel::dot_bf16, uint16_t());
  for (DType type : {DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::IQ4_NL, DType::Q2_K,
                     DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K})
    add_weights(type);
  add_all_rows();
  add_attention();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
