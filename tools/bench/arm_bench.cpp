// What tools/armcycles prices, on one thread: attention, fused and with OpenBLAS, and the tiles and rows it and the layers are made of.
// For 64-bit ARM; it runs anywhere, but shows its figures under the plugin only: make arm-bench.
//
//   arm_bench [PART]           the cases whose name contains PART
//
// A call of everything goes first, so that memory is there and caches are warm. A multiply-add counts as two.
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "ops/ops.h"
#include "ops/quant.h"
#include "tensor/parallel.h"

#if defined(WITH_OPENBLAS)
#include <cblas.h>
#endif

using namespace kvt;

namespace {

using Floats = std::vector<float>;

std::string wanted;
Rng rng(1);
int sections = 0;

Floats random(int64_t n, float spread = 1) {
  const Tensor x = scale(randn({n}, rng), spread);
  return Floats(x.data(), x.data() + n);
}

// close() of no file marks the sections: see tools/armcycles/blocks.c. The line says calls, flops of a call, and what it is.
template <class F>
void measure(const std::string& name, double flops, F run) {
  if (name.find(wanted) == std::string::npos) return;
  run();
  close(-1 - ++sections);
  run();
  close(-1);
  std::printf("section %d 1 %.17g %s\n", sections, flops, name.c_str());
}

// --- attention: queries of all heads against a cache ---

constexpr int64_t D = 64;

struct Sizes { int64_t T, S, H, Hkv; bool causal; };

std::string text(const std::string& what, const Sizes& z) {
  std::string name = what + " ";
  name += std::to_string(z.H);
  if (z.H != z.Hkv) name += "/", name += std::to_string(z.Hkv);
  name += "x64 T=", name += std::to_string(z.T), name += " S=", name += std::to_string(z.S);
  return z.causal && z.T > 1 ? name + " causal" : name;
}

double flops(const Sizes& z) {
  const int64_t unseen = z.causal ? z.T * (z.T - 1) / 2 : 0;
  return 4. * double(z.H * D) * double(z.T * z.S - unseen);
}

#if defined(WITH_OPENBLAS)
// As libraries without a fused kernel do it: product, softmax by the C library, product; one head after the other.
void unfused(float* y, float* s, const float* q, const float* k, const float* v, const Sizes& z, bool with_softmax) {
  const int row = int(z.H * D), S = int(z.S), T = int(z.T);
  for (int64_t h = 0; h < z.H; ++h) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, T, S, int(D), 1 / std::sqrt(float(D)), q + h * D, row, k + h * D, row, 0, s, S);
    for (int t = 0; with_softmax && t < T; ++t) {
      float* const x = s + t * S;
      float top = x[0], total = 0;
      for (int j = 1; j < S; ++j) top = std::max(top, x[j]);
      for (int j = 0; j < S; ++j) total += x[j] = std::exp(x[j] - top);
      for (int j = 0; j < S; ++j) x[j] /= total;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, T, int(D), S, 1, s, S, v + h * D, row, 0, y + h * D, row);
  }
}
#endif

void add_attention(const Sizes& z) {
  const Tensor q = randn({1, z.T, z.H, D}, rng), k = randn({1, z.S, z.Hkv, D}, rng), v = randn({1, z.S, z.Hkv, D}, rng);
  const Tensor k16 = pack(k, DType::F16), v16 = pack(v, DType::F16);
  const AttentionOptions options{.causal = z.causal};
  measure(text("attention F32", z), flops(z), [&] { attention(q, k, v, options); });
  measure(text("attention F16", z), flops(z), [&] { attention(q, k16, v16, options); });
#if defined(WITH_OPENBLAS)
  if (z.causal || z.H != z.Hkv) return;
  Floats s(size_t(z.T * z.S)), y(size_t(q.size()));
  measure(text("OpenBLAS, expf", z), flops(z), [&] { unfused(y.data(), s.data(), q.data(), k.data(), v.data(), z, true); });
  measure(text("OpenBLAS, no softmax", z), flops(z), [&] { unfused(y.data(), s.data(), q.data(), k.data(), v.data(), z, false); });
#endif
}

// The tiles of attention: a whole panel against a block of keys.
void add_panels() {
  const auto [step, lanes, tile_keys, keys] = kernel::attention_scores.best().traits;
  const std::string size = " " + std::to_string(lanes) + "x" + std::to_string(keys) + "x64";
  const Floats x = random(lanes * D), k = random(keys * D), v = random(keys * D), zero(static_cast<size_t>(lanes)), five(size_t(lanes), 5.f);
  const Tensor v16 = pack(Tensor::from({keys, D}, v), DType::F16), k16 = pack(Tensor::from({keys, D}, k), DType::F16);
  Floats q(static_cast<size_t>(lanes * D)), s(static_cast<size_t>(lanes * keys)), top(five), m(zero), l(zero), fix(zero), o(static_cast<size_t>(lanes * D));
  const double product = 2. * double(lanes * keys * D);
  measure("attention_pack" + size, 0, [&, n = lanes] { kernel::attention_pack(q.data(), n, x.data(), D, n, D, 0.125f); });
  measure("attention_scores" + size, product, [&, n = lanes, S = keys] { kernel::attention_scores(s.data(), top.data(), q.data(), n, k.data(), D, S, D, nullptr); });
  measure("attention_softmax" + size, 0, [&, n = lanes, S = keys] { kernel::attention_softmax(s.data(), m.data(), l.data(), fix.data(), five.data(), n, S); });
  measure("attention_values_f32" + size, product, [&, n = lanes, S = keys] {
    kernel::attention_values_f32(o.data(), D, fix.data(), nullptr, s.data(), n, v.data(), D, n, S, D, nullptr);
  });
  const auto half = [](const Tensor& x) { return reinterpret_cast<const uint16_t*>(x.raw()); };
  measure("attention_dots_f16 4x64x64", 2. * 4 * 64 * 64, [&] { kernel::attention_dots_f16(s.data(), top.data(), x.data(), 4, half(k16), D, 64, D, nullptr); });
  measure("attention_values_f16 4x64x64", 2. * 4 * 64 * 64, [&] {
    kernel::attention_values_f16(o.data(), D, fix.data(), nullptr, s.data(), 4, half(v16), D, 4, 64, D, nullptr);
  });
}

// --- layers ---

void add_weights(DType type) {
  constexpr int64_t rows = 64, n = 576;
  const WeightFormat& format = weight_format(type);
  const Tensor w = pack(randn({rows, n}, rng), type);
  for (const int64_t T : {1, 4}) {
    const Floats x = random(T * n);
    std::vector<Q8Block> codes(static_cast<size_t>(T * n / 32));
    Floats y(static_cast<size_t>(T * rows));
    kernel::quantize_q8(codes.data(), x.data(), T * n);
    measure(std::string(format.dot_q8->name) + " " + std::to_string(rows) + "x576 T=" + std::to_string(T), 2. * double(rows * n * T),
            [&] { (*format.dot_q8)(y.data(), rows, w.raw(), codes.data(), rows, T, n); });
  }
}

void add_layers() {
  const int64_t rows = kernel::matmul_tile.best().traits.rows, cols = kernel::matmul_tile.best().traits.cols;
  const Floats a = random(256 * rows), b = random(256 * cols), x = random(16 * 768), w = random(768);
  Floats c(static_cast<size_t>(rows * cols)), y(x);
  measure("matmul_tile " + std::to_string(rows) + "x" + std::to_string(cols) + "x256", 2. * 256 * rows * cols,
          [&] { kernel::matmul_tile(c.data(), cols, a.data(), b.data(), 256); });
  const Floats matrix = random(64 * 576);
  measure("dot_f32 64x576", 2. * 64 * 576, [&] { kernel::dot_f32(y.data(), matrix.data(), 576, x.data(), 64, 576); });
  for (const DType type : {DType::Q8_0, DType::Q4_0, DType::Q4_1}) add_weights(type);
  measure("rms_norm 16x768", 0, [&] { kernel::rms_norm(y.data(), x.data(), w.data(), 16, 768, 1e-5f); });
  measure("softmax 16x768", 0, [&] { kernel::softmax(y.data(), x.data(), 16, 768); });
  measure("silu 12288", 0, [&] { kernel::silu(y.data(), x.data(), 16 * 768); });
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc > 1) wanted = argv[1];
  set_default_threads({.threads = 1});
  for (const int64_t S : {512, 197, 128, 50}) add_attention({S, S, 12, 12, false});
  add_attention({512, 512, 12, 12, true});
  for (const int64_t T : {1, 8}) add_attention({T, 4096, 9, 3, true});
  add_panels();
  add_layers();
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
