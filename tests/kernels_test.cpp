// Every variant of every kernel against its reference, at all small sizes and some odd larger ones, at misaligned addresses,
// between canaries. A new variant is covered by being registered; a new slot without a case here makes the test fail.
#include <algorithm>
#include <cmath>
#include <limits>
#include <cstring>
#include <functional>
#include <map>
#include <random>

#include "main.h"
#include "ops/interleave.h"
#include "ops/kernels.h"
#include "ops/quant.h"

using namespace kvt;

namespace {

// --- the harness ---

constexpr int64_t guard = 16;              // canaries on each side, in elements

// An array at an address that is only a multiple of its element, between canaries that must survive.
template <class T>
class Guarded {
 public:
  Guarded(int64_t n, int offset = 0) : n_(n), bytes_(size_t((n + 2 * guard + offset) * int64_t(sizeof(T)) + 64), canary) {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    p_ = reinterpret_cast<T*>(bytes_.data() + (64 - address % 64) % 64) + guard + offset;
    std::memset(static_cast<void*>(p_), 0, size_t(n) * sizeof(T));
  }
  Guarded(const std::vector<T>& x, int offset = 0) : Guarded(int64_t(x.size()), offset) {
    if (!x.empty()) std::memcpy(static_cast<void*>(p_), x.data(), x.size() * sizeof(T));
  }
  Guarded(const Guarded&) = delete;
  T* data() { return p_; }
  operator T*() { return p_; }
  int64_t size() const { return n_; }
  bool intact() const {
    const auto* first = reinterpret_cast<const unsigned char*>(p_);
    const auto untouched = [](const unsigned char* from, const unsigned char* to) { return std::all_of(from, to, [](unsigned char c) { return c == canary; }); };
    return untouched(bytes_.data(), first) && untouched(first + size_t(n_) * sizeof(T), bytes_.data() + bytes_.size());
  }

 private:
  static constexpr unsigned char canary = 0xa5;
  int64_t n_;
  std::vector<unsigned char> bytes_;
  T* p_;
};

using Floats = std::vector<float>;

// What a variant wrote, what lies between its rows included.
struct Result {
  Floats y;
  double scale = 0;                        // errors are relative to a number, or to this where it is larger
};

Floats random(int64_t n, uint32_t seed, float spread = 1) {
  std::mt19937 generator(seed * 7919 + 17);
  std::normal_distribution<float> normal(0, 1);
  Floats x(static_cast<size_t>(n));
  for (float& v : x) v = spread * normal(generator);
  return x;
}

Result collect(Guarded<float>& y, double scale = 0) {
  CHECK(y.intact());
  return {Floats(y.data(), y.data() + y.size()), scale};
}

const std::function<bool(int)> takes_all = [](int) { return true; };

// run(fn) calls a variant on inputs that depend on nothing but the case, and returns what it wrote. `takes(v)` says whether variant v
// does this case.
template <class K, class Run>
void parity(const K& kernel, double tolerance, Run run, const std::function<bool(int)>& takes = takes_all) {
  const Result want = run(kernel.variant(0).fn);
  for (int v = 1; v < kernel.variants(); ++v) {
    if (!takes(v)) continue;
    const Result got = run(kernel.variant(v).fn);
    REQUIRE(got.y.size() == want.y.size());
    double worst = 0;
    size_t where = 0;
    for (size_t i = 0; i < want.y.size(); ++i) {
      if (got.y[i] == want.y[i]) continue;                                // infinities too
      const double unit = std::max(want.scale, std::fabs(double(want.y[i])));
      const double error = std::fabs(double(got.y[i]) - want.y[i]) / unit;
      if (!(error <= worst)) worst = error, where = i;
    }
    if (!(worst <= tolerance)) {
      INFO(std::string(kernel.name), " ", std::string(isa_name(kernel.isa(v))), " at ", where, ": ", got.y[where], " for ", want.y[where], ", error ", worst);
      CHECK(worst <= tolerance);
    }
  }
}

const std::vector<int64_t>& sizes() {
  static const std::vector<int64_t> all = [] {
    std::vector<int64_t> s;
    for (int64_t n = 0; n <= 33; ++n) s.push_back(n);
    s.insert(s.end(), {47, 63, 64, 65, 100, 129, 257});
    return s;
  }();
  return all;
}

// --- products ---

template <class Tile>
void matmul_case(const Kernel<kernel::Matmul>& matmul, Tile& tiles) {
  const struct { int64_t m, n, k; } shapes[] = {{0, 3, 2}, {1, 1, 1}, {1, 5, 3}, {3, 0, 2}, {2, 3, 0},   {5, 7, 9},    {14, 32, 16}, {15, 33, 17},
                                                {6, 16, 8}, {29, 65, 40}, {64, 48, 256}, {33, 70, 300}, {200, 40, 20}, {9, 1560, 12}, {70, 66, 64}};
  for (int tile = 0; tile < tiles.variants(); ++tile) {
    const int before = tiles.chosen();
    tiles.choose(tile);
    for (const auto& shape : shapes)
      for (int form = 0; form < 6; ++form) {
        const int64_t m = shape.m, n = shape.n, k = shape.k;
        INFO("m ", m, " n ", n, " k ", k, " form ", form, " tile ", tile);
        parity(matmul, 2e-6, [&](auto fn) {
          const int64_t pad = form == 4 ? 3 : 0, ldc = n + pad;
          const bool a_across = form & 1, b_across = form & 2;
          Guarded<float> a(random(2 * (m + pad) * (k + pad), 1), form % 4), b(random(2 * (n + pad) * (k + pad), 2), (form + 1) % 4);
          Guarded<float> c(random(m * ldc, 3), (form + 2) % 4);
          const int64_t step = form == 5 ? 2 : 1;                        // neither stride 1
          const kernel::Mat am = a_across ? kernel::Mat{a, step, step * (m + pad)} : kernel::Mat{a, step * (k + pad), step};
          const kernel::Mat bm = b_across ? kernel::Mat{b, step, step * (k + pad)} : kernel::Mat{b, step * (n + pad), step};
          fn(c, ldc, am, bm, m, n, k);
          return collect(c, 1 + double(k));
        });
      }
    tiles.choose(before);
  }
}

// Tiles differ in size and in the form of their panels, so each is compared with the definition, `operand` being what it makes of a number.
void matmul_tile_case(const Kernel<kernel::MatmulTile, kernel::Tile>& tiles, float operand(float)) {
  for (int v = 0; v < tiles.variants(); ++v)
    for (int64_t k : {0, 1, 2, 3, 7, 31, 32, 33, 64, 257})
      for (int form = 0; form < 4; ++form) {
        const kernel::Tile tile = tiles.variant(v).traits;
        const int64_t ldc = tile.cols + k % 3, filled = (k + tile.step - 1) / tile.step * tile.step;
        const int64_t m = form == 1 ? 1 : tile.rows - form % 2, n = form == 1 ? tile.cols / 2 : tile.cols - form % 2;      // vectors that are there
        const struct Of { int64_t across, along; } of[] = {{k, 1}, {k + 3, 1}, {1, 70}, {2, 140}};                         // the last with no stride of 1
        const auto of_a = of[form], of_b = of[(form + k) % 4];
        const auto numbers = [&](Of s, int64_t vectors) { return k > 0 ? (vectors - 1) * s.across + (k - 1) * s.along + 1 : 0; };
        Guarded<float> a(random(numbers(of_a, m), 4), 1), b(random(numbers(of_b, n), 5), 2), c(random(tile.rows * ldc, 6), int(k % 4));
        const auto panel = [&](int64_t width) { return Guarded<uint8_t>(std::vector<uint8_t>(size_t(tile.bytes * width * filled), 0xff)); };
        auto panel_a = panel(tile.rows), panel_b = panel(tile.cols);
        tile.pack_a(panel_a.data(), tile.rows, a, of_a.across, of_a.along, m, k);
        tile.pack_b(panel_b.data(), tile.cols, b, of_b.across, of_b.along, n, k);
        const Floats before(c.data(), c.data() + c.size());
        if (tile.begin) tile.begin();
        tiles.variant(v).fn(c, ldc, panel_a.data(), panel_b.data(), k);
        if (tile.end) tile.end();
        CHECK(c.intact());
        CHECK(panel_a.intact());
        CHECK(panel_b.intact());
        double worst = 0;
        for (int64_t i = 0; i < tile.rows; ++i)
          for (int64_t j = 0; j < ldc; ++j) {
            double want = before[size_t(i * ldc + j)];
            for (int64_t p = 0; i < m && j < n && p < k; ++p)
              want += double(operand(a.data()[i * of_a.across + p * of_a.along])) * double(operand(b.data()[j * of_b.across + p * of_b.along]));
            worst = std::max(worst, std::fabs(want - double(c.data()[i * ldc + j])) / double(1 + k));
          }
        INFO(std::string(tiles.name), " ", std::string(isa_name(tiles.isa(v))), " k ", k, " form ", form);
        CHECK(worst < 1e-6);
      }
}

// A tile may put numbers together of parts: the sum must be as near to that of doubles as a sum in F32, whose terms each round once, and what is not finite must arrive.
void matmul_tile_precision() {
  const auto& tiles = kernel::matmul_tile;
  constexpr int64_t k = 384;
  for (int v = 0; v < tiles.variants(); ++v) {
    const auto fn = tiles.variant(v).fn;
    const kernel::Tile& tile = tiles.variant(v).traits;
    const int64_t rows = tile.rows, cols = tile.cols, filled = (k + tile.step - 1) / tile.step * tile.step;
    INFO("matmul_tile ", std::string(isa_name(tiles.isa(v))));
    const auto product = [&](const Floats& a, const Floats& b) {      // of rows of a and of b
      std::vector<uint8_t> panel_a(size_t(tile.bytes * rows * filled)), panel_b(size_t(tile.bytes * cols * filled));
      Floats c(size_t(rows * cols));
      tile.pack_a(panel_a.data(), rows, a.data(), k, 1, rows, k);
      tile.pack_b(panel_b.data(), cols, b.data(), k, 1, cols, k);
      if (tile.begin) tile.begin();
      fn(c.data(), cols, panel_a.data(), panel_b.data(), k);
      if (tile.end) tile.end();
      return c;
    };
    Floats a = random(rows * k, 8, 1e10f), b = random(cols * k, 9, 1e-12f);
    const Floats c = product(a, b);
    double worst = 0;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j) {
        double sum = 0, size = 0;
        for (int64_t p = 0; p < k; ++p) {
          const double term = double(a[size_t(i * k + p)]) * double(b[size_t(j * k + p)]);
          sum += term, size += std::fabs(term);
        }
        worst = std::max(worst, std::fabs(double(c[size_t(i * cols + j)]) - sum) / size);
      }
    CHECK(worst < 0x1p-21);

    const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    for (const float x : {infinity, -infinity, nan, __builtin_bit_cast(float, 0x7fffffff), __builtin_bit_cast(float, 0x7f800001)}) {
      std::fill(a.begin(), a.end(), 1.0f), std::fill(b.begin(), b.end(), 1.0f);
      a[5] = x, b[size_t(k)] = x;                        // row 0, and column 1
      const Floats y = product(a, b);
      for (const float to : {y[0], y[1], y[size_t(cols + 1)]}) CHECK(!std::isfinite(to));
      CHECK(y[size_t(cols)] == float(k));
    }
  }
}

template <class T>
std::vector<T> narrow(const Floats& x, T (*f)(float)) {
  std::vector<T> y;
  for (float v : x) y.push_back(f(v));
  return y;
}
float same(float x) { return x; }

template <class T, class K>
void dot_case(const K& kernel, T (*convert)(float)) {
  for (int64_t n : sizes())
    for (int64_t rows : {0, 1, 2, 3, 4, 5, 9}) {
      INFO("rows ", rows, " n ", n);
      const int64_t stride = n + rows % 3;
      parity(kernel, 1e-6, [&](auto fn) {
        Guarded<T> w(narrow<T>(random(rows * stride, 7), convert), int(n % 4));
        Guarded<float> x(random(n, 8), int(rows % 4)), y(rows, int(n % 3));
        fn(y, w, stride, x, rows, n);
        return collect(y, 1 + double(n));
      });
    }
}

void pack_bf16_case() {
  for (int64_t n : sizes())
    parity(kernel::pack_bf16, 0, [&](auto fn) {
      Floats from = random(n, 60);
      const uint32_t edges[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x80000000, 0x7f7fffff, 0xff800000, 0x7f800001, 0xffffffff, 0x00000001, 0x80008000};
      for (size_t i = 0; i < from.size(); i += 3) from[i] = __builtin_bit_cast(float, edges[i / 3 % std::size(edges)]);
      Guarded<float> x(from, int(n % 4));
      Guarded<uint16_t> y(n, int(n % 3));
      fn(y, x, n);
      CHECK(y.intact());
      return Result{Floats(y.data(), y.data() + n), 0};
    });
}

// --- quantized weights ---

Floats interesting(int64_t n, uint32_t seed) {                           // activations and weights: plain, zero blocks, outliers, tiny
  Floats x = random(n, seed);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t block = i / 32 % 5;
    if (block == 1) x[size_t(i)] = 0;
    if (block == 2 && i % 32 == 5) x[size_t(i)] = 100;
    if (block == 3) x[size_t(i)] *= 1e-4f;
  }
  return x;
}

void quantize_case() {
  for (int64_t n : {0, 32, 64, 96, 160, 576})
    for (float spread : {1.0f, 1e-42f, 1e30f})
      parity(kernel::quantize_q8, 0, [&](auto fn) {
        Floats from = interesting(n, 11);
        for (float& v : from) v *= spread;
        Guarded<float> x(from, int(n / 32 % 4));
        Guarded<Q8Block> y(n / 32);
        fn(y, x, n);
        CHECK(y.intact());
        Result result;
        for (int64_t i = 0; i < n / 32; ++i) {
          const Q8Block& b = y.data()[i];
          result.y.insert(result.y.end(), {b.d, b.d_sum, float(b.sum[0]), float(b.sum[1])});
          result.y.insert(result.y.end(), b.q, b.q + 32);
        }
        return result;
      });
}

std::vector<uint16_t> packed(DType type, const Floats& x) {
  std::vector<uint16_t> y(size_t(byte_size(type, int64_t(x.size()))) / 2);
  weight_format(type).pack(y.data(), x.data(), int64_t(x.size()));
  return y;
}

void unpack_case(DType type) {
  const int64_t block = info(type).block;
  for (int64_t blocks : {0, 1, 2, 3, 5, 6, 17, 33, 35})
    parity(*weight_format(type).unpack, 1e-6, [&](auto fn) {
      const int64_t n = blocks * block;
      Guarded<uint16_t> x(packed(type, interesting(n, 12)), int(blocks % 4));
      Guarded<float> y(n, int(blocks % 3));
      fn(y, x, n);
      return collect(y, 1);
    });
}

void dot_q8_case(DType type) {
  const int64_t block = info(type).block;
  for (int64_t blocks : {1, 2, 3, 7})
    for (int64_t rows : {0, 1, 3, 4, 6, 9})
      for (int64_t T : {0, 1, 2, 4, 7}) {
        INFO("blocks ", blocks, " rows ", rows, " T ", T);
        parity(*weight_format(type).dot_q8, 1e-6, [&](auto fn) {
          const int64_t n = blocks * block, ldy = rows + T % 3;
          Guarded<uint16_t> w(packed(type, interesting(rows * n, 13)), int(blocks % 4));
          std::vector<Q8Block> x(size_t(T * n / 32));
          kernel::quantize_q8.variant(0).fn(x.data(), interesting(T * n, 14).data(), T * n);
          Guarded<Q8Block> activations(x);
          Guarded<float> y(T * ldy, int(rows % 4));
          fn(y, ldy, w, activations, rows, T, n);
          double most = 1;
          for (int64_t i = 0; i < y.size(); ++i) most = std::max(most, std::fabs(double(y.data()[i])));
          return collect(y, most);
        });
      }
}

std::vector<uint16_t> interleaved(DType type, int64_t rows, int64_t n, uint32_t seed) {
  const Tensor w = Tensor({rows, n}, type);
  const auto bytes = packed(type, interesting(rows * n, seed));
  if (rows > 0) std::memcpy(w.raw(), bytes.data(), bytes.size() * 2);
  interleave(w);
  std::vector<uint16_t> y(bytes.size());
  if (rows > 0) std::memcpy(y.data(), w.interleaved().data(), y.size() * 2);
  return y;
}

void dot16_case(DType type) {
  for (int64_t blocks : {1, 2, 3, 7})
    for (int64_t panels : {0, 1, 3})
      for (int64_t T : {0, 1, 2, 4, 7}) {
        INFO("blocks ", blocks, " panels ", panels, " T ", T);
        const int64_t n = blocks * 32, rows = 16 * panels, ldy = rows + T % 3;
        std::vector<Q8Block> x(size_t(T * blocks));
        kernel::quantize_q8.variant(0).fn(x.data(), interesting(T * n, 14).data(), T * n);
        const auto scale = [](Guarded<float>& y) {
          double most = 1;
          for (int64_t i = 0; i < y.size(); ++i) most = std::max(most, std::fabs(double(y.data()[i])));
          return most;
        };
        parity(*weight_format(type).dot16, 1e-6, [&](auto fn) {
          Guarded<uint16_t> w(interleaved(type, rows, n, 13), int(blocks % 4));
          Guarded<Q8Block> activations(x);
          Guarded<float> y(T * ldy, int(panels % 4));
          fn(y, ldy, w, activations, panels, T, n);
          return collect(y, scale(y));
        });
        Guarded<float> apart(T * ldy), beside(T * ldy);      // the same rows in the file's order
        weight_format(type).dot_q8->variant(0).fn(apart, ldy, packed(type, interesting(rows * n, 13)).data(), x.data(), rows, T, n);
        weight_format(type).dot16->variant(0).fn(beside, ldy, interleaved(type, rows, n, 13).data(), x.data(), panels, T, n);
        for (int64_t i = 0; i < apart.size(); ++i) CHECK(double(beside.data()[i]) == doctest::Approx(double(apart.data()[i])).epsilon(1e-5).scale(scale(apart)));
      }
}

void pairs16_case(DType type) {
  const int64_t blocks = 7, n = blocks * 32;
  for (int64_t first : {0, 2, 6})
    for (int64_t count : {int64_t(0), int64_t(1), blocks - first})
      for (int64_t step : {16, 32}) {
        const Floats numbers = interesting(16 * n, 15);
        Floats same(size_t(16 * n));
        unpack(same.data(), type, packed(type, numbers).data(), 16 * n);
        parity(*weight_format(type).pairs16, 0, [&](auto fn) {
          Guarded<uint16_t> w(interleaved(type, 16, n, 15), int(first % 4));
          Guarded<uint32_t> y(count > 0 ? (count - 1) * 512 + 15 * step + 16 : 0, 1);
          fn(y, step, w, first, count, n);
          CHECK(y.intact());
          Result result;
          for (int64_t b = 0; b < count; ++b)
            for (int64_t p = 0; p < 16; ++p)
              for (int64_t r = 0; r < 16; ++r) {
                const uint32_t pair = y.data()[b * 512 + p * step + r];
                const float* const want = &same[size_t(r * n + (first + b) * 32 + 2 * p)];
                result.y.insert(result.y.end(), {bf16_to_f32(uint16_t(pair)), bf16_to_f32(uint16_t(pair >> 16))});
                CHECK(std::fabs(result.y.end()[-2] - want[0]) <= std::fabs(want[0]) / 256 + 1e-30f);
                CHECK(std::fabs(result.y.end()[-1] - want[1]) <= std::fabs(want[1]) / 256 + 1e-30f);
              }
          return result;
        });
      }
}

// --- rows ---

template <class F>
void for_rows(F f) {
  for (int64_t cols : sizes())
    for (int64_t rows : {0, 1, 3}) {
      INFO("rows ", rows, " cols ", cols);
      f(rows, cols);
    }
}

// Scores with what attention and language models put there: masked entries, masked rows, large values.
Floats scores(int64_t rows, int64_t cols, uint32_t seed) {
  Floats x = random(rows * cols, seed, 4);
  for (int64_t i = 0; i < rows * cols; ++i) {
    if (i % 11 == 3) x[size_t(i)] = -INFINITY;
    if (i % 37 == 5) x[size_t(i)] = i % 2 ? 1e4f : -1e4f;
    if (cols > 1 && i / cols % 3 == 1) x[size_t(i)] = -INFINITY;
  }
  return x;
}

void softmax_case() {
  for_rows([](int64_t rows, int64_t cols) {
    for (bool in_place : {false, true})
      parity(kernel::softmax, 1e-6, [&](auto fn) {
        Guarded<float> x(scores(rows, cols, 15), int(cols % 4)), y(rows * cols, int(cols % 3));
        fn(in_place ? x : y, x, rows, cols);
        CHECK(x.intact());
        return collect(in_place ? x : y, 1);
      });
  });
}

void softmax_grad_case() {
  for_rows([](int64_t rows, int64_t cols) {
    parity(kernel::softmax_grad, 1e-6, [&](auto fn) {
      Guarded<float> y(random(rows * cols, 16, 0.2f), int(cols % 4)), dy(random(rows * cols, 17), 1), dx(random(rows * cols, 18), 3);
      fn(dx, y, dy, rows, cols);
      return collect(dx, 1 + std::sqrt(double(cols)));
    });
  });
}

void rms_norm_case() {
  for_rows([](int64_t rows, int64_t cols) {
    for (float spread : {1.0f, 0.0f, 1e15f})
      parity(kernel::rms_norm, 2e-6, [&](auto fn) {
        Guarded<float> x(random(rows * cols, 19, spread), int(cols % 4)), w(random(cols, 20), 1), y(rows * cols, int(cols % 3));
        fn(y, x, w, rows, cols, 1e-5f);
        return collect(y, 4);
      });
  });
}

// The results of up to three gradients, one behind the other.
Result together(std::initializer_list<Guarded<float>*> parts, double scale) {
  Result all{{}, scale};
  for (Guarded<float>* part : parts) {
    const Result one = collect(*part);
    all.y.insert(all.y.end(), one.y.begin(), one.y.end());
  }
  return all;
}

void rms_norm_grad_case() {
  for_rows([](int64_t rows, int64_t cols) {
    for (int null = 0; null < 3; ++null)
      parity(kernel::rms_norm_grad, 2e-6, [&](auto fn) {
        Guarded<float> x(random(rows * cols, 21), int(cols % 4)), w(random(cols, 22), 1), dy(random(rows * cols, 23), 2);
        Guarded<float> dx(random(rows * cols, 24), int(cols % 3)), dw(random(cols, 25), 3);
        fn(null == 1 ? nullptr : dx.data(), null == 2 ? nullptr : dw.data(), x, w, dy, rows, cols, 1e-5f);
        return together({&dx, &dw}, 10);
      });
  });
}

void layer_norm_case() {
  for_rows([](int64_t rows, int64_t cols) {
    for (int null = 0; null < 4; ++null)
      parity(kernel::layer_norm, 3e-6, [&](auto fn) {
        Guarded<float> x(random(rows * cols, 26), int(cols % 4)), w(random(cols, 27), 1), b(random(cols, 28), 2), y(rows * cols, int(cols % 3));
        fn(y, x, null & 1 ? nullptr : w.data(), null & 2 ? nullptr : b.data(), rows, cols, 1e-5f);
        return collect(y, cols == 2 ? 100 : 4);         // two nearly equal numbers magnify every rounding
      });
  });
}

void layer_norm_grad_case() {
  for_rows([](int64_t rows, int64_t cols) {
    for (int null = 0; null < 5; ++null)
      parity(kernel::layer_norm_grad, 1e-5, [&](auto fn) {
        Guarded<float> x(random(rows * cols, 29), int(cols % 4)), w(random(cols, 30), 1), dy(random(rows * cols, 31), 2);
        Guarded<float> dx(random(rows * cols, 32), int(cols % 3)), dw(random(cols, 33), 3), db(random(cols, 34), 1);
        fn(null == 1 ? nullptr : dx.data(), null == 2 ? nullptr : dw.data(), null == 3 ? nullptr : db.data(), x, null == 4 ? nullptr : w.data(), dy,
           rows, cols, 1e-5f);
        return together({&dx, &dw, &db}, cols < 4 ? 300 : 10);
      });
  });
}

// --- numbers ---

// A dense walk over the useful range, and the edges. Large values stay where the definitions themselves are finite.
Floats arguments(int64_t n, float reach) {
  Floats x = random(n, 35, reach / 4);
  const float edges[] = {0.0f, -0.0f, 1e-40f, -1e-40f, 1e-8f, -1e-8f, 0.624f, -0.626f, 1, -1, reach, -reach};
  for (size_t i = 0; i < x.size(); ++i)
    if (i % 3 == 1) x[i] = edges[i / 3 % std::size(edges)];
  return x;
}

// Errors are relative down to results of size `floor`.
void map_case(const Kernel<kernel::Map>& kernel, float reach, double tolerance, double floor) {
  const auto check = [&](const Floats& from, int offset, bool in_place) {
    parity(kernel, tolerance, [&](auto fn) {
      Guarded<float> x(from, offset), y(int64_t(from.size()), (offset + 1) % 4);
      fn(in_place ? x : y, x, int64_t(from.size()));
      CHECK(x.intact());
      return collect(in_place ? x : y, floor);
    });
  };
  for (int64_t n : sizes())
    for (bool in_place : {false, true}) check(arguments(n, reach), int(n % 4), in_place);
  Floats walk;
  for (float v = -reach; v <= reach; v += reach / 50000) walk.push_back(v);
  check(walk, 1, false);
}

void map_grad_case(const Kernel<kernel::MapGrad>& kernel, float reach, double tolerance) {
  for (int64_t n : {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 257, 20001})
    parity(kernel, tolerance, [&](auto fn) {
      Guarded<float> x(arguments(n, reach), int(n % 4)), dy(random(n, 36), 1), dx(random(n, 37), int(n % 3));
      fn(dx, x, dy, n);
      return collect(dx, 1);
    });
}

void swiglu_case() {
  for (int64_t n : sizes())
    parity(kernel::swiglu, 1e-6, [&](auto fn) {
      Guarded<float> gate(arguments(n, 30), int(n % 4)), up(random(n, 38), 1), y(n, int(n % 3));
      fn(y, gate, up, n);
      return collect(y, 30);
    });
}

void swiglu_grad_case() {
  for (int64_t n : sizes())
    parity(kernel::swiglu_grad, 1e-6, [&](auto fn) {
      Guarded<float> gate(arguments(n, 30), int(n % 4)), up(random(n, 39), 1), dy(random(n, 40), 2);
      Guarded<float> dgate(random(n, 41), int(n % 3)), dup(random(n, 42), 1);
      fn(dgate, dup, gate, up, dy, n);
      return together({&dgate, &dup}, 30);
    });
}

// --- attention ---

// Sizes of blocks, at the numbers of lanes that every variant of the scores takes.
template <class F>
void for_blocks(F f) {
  for (int v = 0; v < kernel::attention_scores.variants(); ++v) {
    const kernel::Panel panel = kernel::attention_scores.variant(v).traits;
    for (int64_t lanes = panel.step; lanes <= panel.most; lanes += panel.step)
      for (int64_t keys : {1, 2, 4, 7, 8, 11, 16, 31, 33, 64, 100})
        for (int64_t D : {1, 3, 8, 16, 20, 64, 72}) {
          INFO("lanes ", lanes, " keys ", keys, " D ", D);
          f(lanes, keys, D);
        }
  }
}

// The variants that take so many lanes; those of `kernel` are the scores' but for what an instruction set leaves out.
template <class K>
std::function<bool(int)> takes(const K& kernel, int64_t lanes) {
  return [&kernel, lanes](int v) {
    for (int i = 0; i < kernel::attention_scores.variants(); ++i) {
      const kernel::Panel panel = kernel::attention_scores.variant(i).traits;
      if (kernel::attention_scores.isa(i) == kernel.isa(v)) return lanes % panel.step == 0 && lanes <= panel.most;
    }
    return false;
  };
}

void attention_pack_case() {
  for_blocks([](int64_t lanes, int64_t keys, int64_t D) {
    const int64_t rows = std::min(keys, lanes), ldx = D + keys % 3;
    parity(kernel::attention_pack, 0, [&](auto fn) {
      Guarded<float> x(random(rows * ldx - ldx + D, 43), int(keys % 4)), y(D * lanes, 1);
      fn(y, lanes, x, ldx, rows, D, 0.3f);
      CHECK(x.intact());
      return collect(y);
    }, takes(kernel::attention_pack, lanes));
  });
}

void attention_scores_case() {
  for_blocks([](int64_t lanes, int64_t keys, int64_t D) {
    for (const bool masked : {false, true})
      parity(kernel::attention_scores, 1e-6, [&](auto fn) {
        const int64_t ldk = D + keys % 3;
        Guarded<float> q(random(D * lanes, 44), int(keys % 4)), k(random(keys * ldk, 45), 1), s(keys * lanes, int(D % 4));
        Guarded<float> top(random(lanes, 46, 5), 2), from(lanes, 3), to(lanes, 1);
        for (int64_t r = 0; r < lanes; ++r) {                             // early ends, late beginnings, and some that see nothing
          from[r] = float((5 * r) % (keys + 1)), to[r] = float((3 * r + 4) % (keys + 1));
          if (r % 4 == 3) top[r] = -INFINITY;
        }
        const kernel::Seen seen{from, to};
        fn(s, top, q, lanes, k, ldk, keys, D, masked ? &seen : nullptr);
        return together({&s, &top}, 1 + double(D));
      }, takes(kernel::attention_scores, lanes));
  });
}

template <class K, class Number>
void attention_dots_case(const K& kernel, Number convert) {
  for (int64_t keys : {1, 2, 3, 4, 5, 7, 8, 31, 33})
    for (int64_t D : {1, 3, 4, 8, 15, 16, 17, 20, 64, 72, 128, 256}) {
      INFO("keys ", keys, " D ", D);
      parity(kernel, 1e-6, [&](auto fn) {
        using T = decltype(convert(0.f));
        const int64_t ldk = D + keys % 3;
        const Floats numbers = random(keys * ldk - ldk + D, 47);
        std::vector<T> halves;
        for (float x : numbers) halves.push_back(convert(x));
        Guarded<T> k(halves, int(D % 4));
        const int64_t rows = 4 - (keys + D) % 4;
        Guarded<float> q(random(rows * D, 48), 1), s(keys * 4, 2), top(Floats{-INFINITY, 0, 1e3f, -1e3f}, 3);
        const kernel::Ahead ahead{k.data(), q.data()};
        fn(s, top, q, rows, k, ldk, keys, D, keys % 2 ? &ahead : nullptr);
        for (int64_t i = 0; i < s.size() + 4; ++i)
          if (i % 4 >= rows) (i < s.size() ? s[i] : top[i - s.size()]) = 0;              // what has no query
        return together({&s, &top}, 1 + double(D));
      });
    }
}

void attention_softmax_case() {
  for_blocks([](int64_t lanes, int64_t keys, int64_t D) {
    if (D > 8) return;                                                    // no part of it; three for what was before
    for (const int64_t n : {lanes, int64_t(4)})
      parity(kernel::attention_softmax, 1e-6, [&, lanes = n](auto fn) {
        Guarded<float> s(scores(keys, lanes, 49), int(keys % 4)), m(Floats(size_t(lanes), D == 1 ? -INFINITY : D == 3 ? 2.5f : 2e4f), 1);
        Guarded<float> l(Floats(size_t(lanes), D == 1 ? 0 : 3.f), 2), fix(lanes, 3), top(lanes, 1);
        for (int64_t r = 0; r < lanes; ++r) {
          top[r] = m[r];
          for (int64_t j = 0; j < keys; ++j) {
            if (r % 5 == 4) s[j * lanes + r] = -INFINITY;                 // a query without keys in this block
            top[r] = std::max(top[r], s[j * lanes + r]);
          }
        }
        fn(s, m, l, fix, top, lanes, keys);
        return together({&s, &m, &l, &fix}, 1 + double(keys) / 4);
      }, n == 4 ? takes_all : takes(kernel::attention_softmax, n));
  });
}

template <class K, class Number>
void attention_values_case(const K& kernel, Number convert) {
  for_blocks([&](int64_t panel, int64_t keys, int64_t D) {
    for (const int64_t lanes : {panel, int64_t(4)})
      for (int64_t rows = lanes; rows > 0; rows -= rows > 5 ? 5 : 1)
        parity(kernel, 1e-6, [&](auto fn) {
          using T = decltype(convert(0.f));
          const int64_t ldo = D + rows % 3, ldv = D + keys % 2;
          const Floats numbers = random(keys * ldv - ldv + D, 50);
          std::vector<T> stored;
          for (float x : numbers) stored.push_back(convert(x));
          Guarded<T> v(stored, int(D % 4));
          Guarded<float> o(random(rows * ldo - ldo + D, 51), int(keys % 4)), p(random(keys * lanes, 52), 1), keep(random(rows, 53), 2), share(random(rows, 54), 3);
          if (rows % 2) std::fill_n(o.data(), o.size(), NAN);             // not read without keep
          const kernel::Ahead ahead{p.data(), v.data()};
          fn(o, ldo, rows % 2 ? nullptr : keep.data(), rows % 3 ? share.data() : nullptr, p, lanes, v, ldv, rows, keys, D, rows % 2 ? &ahead : nullptr);
          for (int64_t i = 0; i < o.size(); ++i)
            if (i % ldo >= D) o[i] = 0;                                   // what lies between rows may be NaN still
          return collect(o, 1 + double(keys));
        }, lanes == 4 ? takes_all : takes(kernel, lanes));
  });
}

// --- the table: one case a slot ---

using Case = std::function<void()>;

std::map<std::string, Case> cases() {
  std::map<std::string, Case> all = {
      {"matmul", [] { matmul_case(kernel::matmul, kernel::matmul_tile); }},
      {"matmul_bf16", [] {
        matmul_case(kernel::matmul_bf16, kernel::matmul_tile_bf16);
      }},
      {"matmul_tile", [] {
        matmul_tile_case(kernel::matmul_tile, same);
        matmul_tile_precision();
      }},
      {"matmul_tile_bf16", [] { matmul_tile_case(kernel::matmul_tile_bf16, [](float x) { return bf16_to_f32(f32_to_bf16(x)); }); }},
      {"pack_bf16", pack_bf16_case},
      {"dot_f32", [] { dot_case(kernel::dot_f32, same); }},
      {"dot_f16", [] { dot_case(kernel::dot_f16, f32_to_f16); }},
      {"dot_bf16", [] { dot_case(kernel::dot_bf16, f32_to_bf16); }},
      {"quantize_q8", quantize_case},
      {"softmax", softmax_case},
      {"softmax_grad", softmax_grad_case},
      {"rms_norm", rms_norm_case},
      {"rms_norm_grad", rms_norm_grad_case},
      {"layer_norm", layer_norm_case},
      {"layer_norm_grad", layer_norm_grad_case},
      {"silu", [] { map_case(kernel::silu, 80, 5e-7, 1e-30); }},
      {"gelu_erf", [] { map_case(kernel::gelu_erf, 10, 5e-7, 1); }},
      {"gelu_tanh", [] { map_case(kernel::gelu_tanh, 10, 5e-7, 1); }},
      {"sigmoid", [] { map_case(kernel::sigmoid, 80, 5e-7, 1e-35); }},
      {"tanh", [] { map_case(kernel::tanh, 40, 5e-7, 1e-38); }},
      {"exp", [] { map_case(kernel::exp, 86, 2e-7, 1e-37); }},
      {"silu_grad", [] { map_grad_case(kernel::silu_grad, 80, 2e-6); }},
      {"gelu_erf_grad", [] { map_grad_case(kernel::gelu_erf_grad, 10, 3e-6); }},
      {"gelu_tanh_grad", [] { map_grad_case(kernel::gelu_tanh_grad, 10, 1e-5); }},
      {"sigmoid_grad", [] { map_grad_case(kernel::sigmoid_grad, 80, 2e-6); }},
      {"tanh_grad", [] { map_grad_case(kernel::tanh_grad, 40, 2e-6); }},
      {"swiglu", swiglu_case},
      {"swiglu_grad", swiglu_grad_case},
      {"attention_pack", attention_pack_case},
      {"attention_scores", attention_scores_case},
      {"attention_dots_f32", [] { attention_dots_case(kernel::attention_dots_f32, same); }},
      {"attention_dots_f16", [] { attention_dots_case(kernel::attention_dots_f16, f32_to_f16); }},
      {"attention_softmax", attention_softmax_case},
      {"attention_values_f32", [] { attention_values_case(kernel::attention_values_f32, same); }},
      {"attention_values_f16", [] { attention_values_case(kernel::attention_values_f16, f32_to_f16); }},
  };
  for (DType type : {DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::IQ4_NL, DType::Q2_K,
                     DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K}) {
    const WeightFormat& format = weight_format(type);
    all[format.unpack->name] = [type] { unpack_case(type); };
    if (format.dot_q8) all[format.dot_q8->name] = [type] { dot_q8_case(type); };
    if (format.dot16) all[format.dot16->name] = [type] { dot16_case(type); }, all[format.pairs16->name] = [type] { pairs16_case(type); };
  }
  return all;
}

}  // namespace

TEST_CASE("every variant of every kernel computes what its reference does") {
  load_backends();
  const auto table = cases();
  for (const KernelInfo* k = KernelInfo::first; k; k = k->next) {
    const auto found = table.find(k->name);
    INFO("kernel ", std::string(k->name));
    REQUIRE(found != table.end());                  // a new slot needs a case
    found->second();
  }
}

TEST_CASE("KVT_KERNELS chooses by instruction set and by slot") {
  choose_kernels("reference");
  for (const KernelInfo* k = KernelInfo::first; k; k = k->next) CHECK(k->chosen() == 0);
  choose_kernels("reference,matmul=blocked");
  CHECK(kernel::matmul.isa(kernel::matmul.chosen()) == Isa::blocked);
  CHECK(kernel::dot_f32.chosen() == 0);
  choose_kernels("");
  for (const KernelInfo* k = KernelInfo::first; k; k = k->next) CHECK(k->chosen() == k->variants() - 1);

  for (int v = 0; v < kernel::dot_f32.variants(); ++v) {          // a cap gives the newest variant that it allows, in every slot
    const Isa cap = kernel::dot_f32.isa(v);
    choose_kernels(isa_name(cap));
    CHECK(kernel::dot_f32.chosen() == v);
    for (const KernelInfo* k = KernelInfo::first; k; k = k->next) {
      CHECK(k->isa(k->chosen()) <= cap);
      if (k->chosen() + 1 < k->variants()) CHECK(k->isa(k->chosen() + 1) > cap);
    }
  }
  choose_kernels("");
}

TEST_CASE("a wish that cannot be met names what there is and changes nothing") {
  const auto message = [](const char* wish) -> std::string {
    try {
      choose_kernels(wish);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  choose_kernels("");
  CHECK(message("avx9000").find("there are: reference, blocked") != std::string::npos);
  CHECK(message("nonesuch=reference").find("matmul_tile") != std::string::npos);
  CHECK(message("softmax=blas").find("there are: reference") != std::string::npos);
  CHECK(message("reference,softmax=avx9000").find("softmax has no variant 'avx9000'") != std::string::npos);
#if defined(__x86_64__)
  CHECK(message("neon").find("no kernels for 'neon'") != std::string::npos);
#else
  CHECK(message("avx2").find("no kernels for 'avx2'") != std::string::npos);
#endif
  for (const KernelInfo* k = KernelInfo::first; k; k = k->next) CHECK(k->chosen() == k->variants() - 1);
}
