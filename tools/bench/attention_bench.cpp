// Seconds of attention, for tools/bench/attention.py, which has PyTorch do the same work in turns.
//
//   attention_bench THREADS [wall]   reads lines "WHAT PASSES B H Hkv D T S CAUSAL", prints for each "SECONDS SUM": the time of one pass, the median of
//                                PASSES in a row, and the sum of the outputs' magnitudes, by which the variants are compared.
//                                One thread is timed by its processor time, so that other work on the machine counts little; else, and with `wall`,
//                                by the clock.
//
//   WHAT   fused, fused-f16     attention() on F32 keys and values, or on F16 ones; KVT_KERNELS says by which kernels
//          backward             all three gradients of fused
//          unfused-libm         for each head: sgemm, softmax by the C library's expf, sgemm
//          unfused-vector       the same with the softmax of our kernels
//          read                 F16 keys and values read once, and nothing else: the limit of decoding
//
// Decoding (T ≤ 8) and reading go through the caches of 30 layers in turn, as a model does: they come from memory.
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <limits>
#include <string>

#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/quant.h"
#include "tensor/error.h"
#include "tensor/parallel.h"
#include "tools/bench/reading.h"

using namespace kvt;

namespace {

struct Work {
  int64_t B, H, Hkv, D, T, S;
  bool causal;
};

void softmax_libm(float* s, int64_t cols) {
  float top = s[0], sum = 0;
  for (int64_t j = 1; j < cols; ++j) top = std::max(top, s[j]);
  for (int64_t j = 0; j < cols; ++j) sum += s[j] = std::exp(s[j] - top);
  for (int64_t j = 0; j < cols; ++j) s[j] /= sum;
}

// The whole T × S matrix of a head, masked behind the product: what attention costs as two products and a softmax.
void unfused(float* y, const Work& w, const Tensor& q, const Tensor& k, const Tensor& v, bool libm) {
  const float scale = 1 / std::sqrt(float(w.D));
  parallel_for(w.B * w.H, 1, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    float* const s = scratch.floats(w.T * w.S);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / w.H, h = i % w.H, hk = h / (w.H / w.Hkv), row = w.H * w.D, row_k = w.Hkv * w.D;
      const float *const qh = q.data() + b * w.T * row + h * w.D, *const kh = k.data() + b * w.S * row_k + hk * w.D, *const vh = v.data() + b * w.S * row_k + hk * w.D;
      float* const yh = y + b * w.T * row + h * w.D;
      std::fill_n(s, w.T * w.S, 0.f);
      kernel::matmul(s, w.S, {qh, row, 1}, {kh, 1, row_k}, w.T, w.S, w.D);
      for (int64_t t = 0; t < w.T; ++t) {
        float* const st = s + t * w.S;
        const int64_t seen = w.causal ? w.S - w.T + t + 1 : w.S;
        for (int64_t j = 0; j < seen; ++j) st[j] *= scale;
        std::fill(st + seen, st + w.S, 0.f);
        libm ? softmax_libm(st, seen) : kernel::softmax(st, st, 1, seen);
        std::fill_n(yh + t * row, w.D, 0.f);
      }
      kernel::matmul(yh, row, {s, w.S, 1}, {vh, row_k, 1}, w.T, w.D, w.S);
    }
  });
}

clockid_t kind = CLOCK_MONOTONIC;

double now() {
  timespec t;
  clock_gettime(kind, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

template <class F>
double seconds(F&& pass) {
  const double start = now();
  pass();
  return now() - start;
}

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times.empty() ? 0 : times[times.size() / 2];
}
template <class F>
double seconds(int64_t passes, F&& pass) {
  std::vector<double> times(static_cast<size_t>(passes));
  for (double& t : times) t = seconds(pass);
  return median(times);
}

}  // namespace

int main(int argc, char** argv) try {
  require(argc == 2 || (argc == 3 && std::string(argv[2]) == "wall"), "usage: attention_bench THREADS [wall]");
  set_default_threads({.threads = std::atoi(argv[1])});
  if (std::atoi(argv[1]) == 1 && argc == 2) kind = CLOCK_PROCESS_CPUTIME_ID;
  std::string what;
  Work w;
  for (int64_t passes = 0; std::cin >> what >> passes >> w.B >> w.H >> w.Hkv >> w.D >> w.T >> w.S >> w.causal;) {
    Rng rng(7);
    const Tensor q = randn({w.B, w.T, w.H, w.D}, rng), k = randn({w.B, w.S, w.Hkv, w.D}, rng), v = randn({w.B, w.S, w.Hkv, w.D}, rng);
    const AttentionOptions options{.causal = w.causal};
    Tensor y;
    double time = 0;
    const int64_t layers = w.T <= 8 ? 30 : 1;
    const auto through_layers = [&](int64_t times, const Tensor& first_k, const Tensor& first_v) {
      std::vector<Tensor> ks{first_k}, vs{first_v};
      while (int64_t(ks.size()) < layers) ks.push_back(first_k.clone()), vs.push_back(first_v.clone());
      size_t i = 0;
      return seconds(times, [&] { y = attention(q, ks[i], vs[i], options), i = (i + 1) % ks.size(); });
    };
    if (what == "fused") {
      time = through_layers(passes, k, v);
    } else if (what == "fused-f16") {
      time = through_layers(passes, pack(k, DType::F16), pack(v, DType::F16));
    } else if (what == "backward") {
      const Tensor dy = randn(q.shape(), rng);
      for (const Tensor& x : {q, k, v}) x.want_grad(), x.grad();
      std::vector<double> times;
      for (int64_t i = 0; i < passes; ++i) {
        Tape tape;
        y = attention(q, k, v, options);
        std::copy_n(dy.data(), dy.size(), y.grad());
        times.push_back(seconds([&] { tape.backward_from_grads(); }));
      }
      time = median(times);
    } else if (what == "unfused-libm" || what == "unfused-vector") {
      y = Tensor(q.shape());
      time = seconds(passes, [&] { unfused(y.data(), w, q, k, v, what == "unfused-libm"); });
    } else if (what == "read") {
      const Tensor k16 = pack(k, DType::F16), v16 = pack(v, DType::F16);
      std::vector<Tensor> caches;
      while (int64_t(caches.size()) < layers) caches.push_back(k16.clone()), caches.push_back(v16.clone());
      y = Tensor({1});
      std::atomic<uint64_t> sink = 0;
      time = std::numeric_limits<double>::infinity();
      for (const ReadForm& form : read_forms) {             // as any of them is the limit, the fastest is
        size_t i = 0;
        time = std::min(time, seconds(std::max<int64_t>(passes / int64_t(std::size(read_forms)), 1), [&] {
          for (int part = 0; part < 2; ++part, i = (i + 1) % caches.size())
            parallel_for(k16.bytes() / 4096, 64, [&](int64_t begin, int64_t end) {
              sink |= read_all(reinterpret_cast<const char*>(caches[i].raw()) + begin * 4096, size_t(end - begin) * 4096, form);
            });
        }));
      }
      y.data()[0] = sink != 0;
    } else {
      fail("attention_bench: what is '", what, "'?");
    }
    double sum = 0;
    for (const float x : y.values()) sum += std::fabs(double(x));
    std::printf("%.9g %.9g\n", time, sum);
    std::fflush(stdout);
  }
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
