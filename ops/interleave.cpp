// Bringing rows side by side, and what reads them so: the reference kernels.
#include "ops/interleave.h"

#include "ops/quant.h"
#include "tensor/parallel.h"

namespace kvt {

namespace {

// q of number i of block k in row r
template <class B>
int q_at(const Panel<B>& p, int64_t k, int64_t r, int i) {
  const uint8_t* const codes = p.codes + k * Panel<B>::code_bytes + r * 4 + i % 4;
  if constexpr (Panel<B>::bytes_apart) return codes[i / 4 * 64] - 128;
  int code = codes[i % 16 / 4 * 64] >> i / 16 * 4 & 15;
  if constexpr (Panel<B>::levels) return iq4_nl_levels[code];
  if constexpr (Panel<B>::has_fifths) code |= int(p.fifths[k * 8 + i / 4] >> (4 * r + i % 4) & 1) << 4;
  return code - Panel<B>::zero;
}
template <class B> float scale_at(const Panel<B>& p, int64_t k, int64_t r) { return f16_to_f32(p.d[k * panel_rows + r]); }
template <class B> float offset_at(const Panel<B>& p, int64_t k, int64_t r) { return has_min<B> ? f16_to_f32(p.m[k * panel_rows + r]) : 0; }

template <class B>
void dot16_ref(float* y, int64_t ldy, const void* w, const Q8Block* x, int64_t panels, int64_t T, int64_t n) {
  const int64_t blocks = n / 32;
  for (int64_t i = 0; i < panels; ++i) {
    const Panel<B> panel(static_cast<const std::byte*>(w) + i * Panel<B>::size(blocks), blocks);
    for (int64_t r = 0; r < panel_rows; ++r)
      for (int64_t t = 0; t < T; ++t) {
        float total = 0;
        for (int64_t k = 0; k < blocks; ++k) {
          const Q8Block& a = x[t * blocks + k];
          int dot = 0;
          for (int j = 0; j < 32; ++j) dot += q_at(panel, k, r, j) * a.q[j];
          total += a.d * (scale_at(panel, k, r) * float(dot) + offset_at(panel, k, r) * float(a.sum[0] + a.sum[1]));
        }
        y[t * ldy + i * panel_rows + r] = total;
      }
  }
}

template <class B>
void pairs16_ref(uint32_t* y, int64_t pair_step, const void* w, int64_t first, int64_t blocks, int64_t n) {
  const Panel<B> panel(w, n / 32);
  for (int64_t k = first; k < first + blocks; ++k, y += 512)
    for (int64_t r = 0; r < panel_rows; ++r)
      for (int p = 0; p < 16; ++p) {
        const auto number = [&](int i) { return f32_to_bf16(scale_at(panel, k, r) * float(q_at(panel, k, r, i)) + offset_at(panel, k, r)); };
        y[p * pair_step + r] = uint32_t(number(2 * p)) | uint32_t(number(2 * p + 1)) << 16;
      }
}

uint32_t load_u32(const void* p) { uint32_t v; std::memcpy(&v, p, sizeof v); return v; }
void store_u32(void* p, uint32_t v) { std::memcpy(p, &v, sizeof v); }

// Row r of the panel at `to`, whose fifths are zeros yet where r = 0.
template <class B>
void interleave_row(std::byte* to, int64_t r, const B* row, int64_t blocks) {
  const Panel<B> panel(to, blocks);
  auto* const codes = const_cast<uint8_t*>(panel.codes) + r * 4;
  for (int64_t k = 0; k < blocks; ++k) {
    const B& b = row[k];
    uint8_t* const at = codes + k * Panel<B>::code_bytes;
    if constexpr (Panel<B>::bytes_apart) {
      for (int j = 0; j < 8; ++j) store_u32(at + j * 64, load_u32(b.q + 4 * j) ^ 0x80808080u);
    } else {
      for (int j = 0; j < 4; ++j) store_u32(at + j * 64, load_u32(b.low.bytes + 4 * j));
    }
    if constexpr (Panel<B>::has_fifths) {
      const uint32_t bits = load_u32(b.high.bytes);
      auto* const words = const_cast<uint64_t*>(panel.fifths) + k * 8;
      for (int j = 0; j < 8; ++j) words[j] |= uint64_t(bits >> 4 * j & 15) << 4 * r;
    }
    const_cast<uint16_t*>(panel.d)[k * panel_rows + r] = b.d;
    if constexpr (has_min<B>) const_cast<uint16_t*>(panel.m)[k * panel_rows + r] = b.m;
  }
}

template <class B>
void interleave_rows(std::byte* to, const void* from, int64_t begin, int64_t end, int64_t blocks) {
  const B* row = static_cast<const B*>(from) + begin * panel_rows * blocks;
  for (int64_t i = begin; i < end; ++i) {
    std::byte* const panel = to + i * Panel<B>::size(blocks);
    if constexpr (Panel<B>::has_fifths) std::memset(panel + blocks * Panel<B>::code_bytes, 0, size_t(blocks) * 64);
    for (int64_t r = 0; r < panel_rows; ++r, row += blocks) interleave_row(panel, r, row, blocks);
  }
}

using Interleave = void(std::byte* to, const void* from, int64_t begin, int64_t end, int64_t blocks);
Interleave* interleaver(DType type) {
  switch (type) {
    case DType::Q4_0: return interleave_rows<BlockQ4_0>;
    case DType::Q4_1: return interleave_rows<BlockQ4_1>;
    case DType::Q5_0: return interleave_rows<BlockQ5_0>;
    case DType::Q5_1: return interleave_rows<BlockQ5_1>;
    case DType::Q8_0: return interleave_rows<BlockQ8_0>;
    case DType::IQ4_NL: return interleave_rows<BlockIQ4_NL>;
    default: return nullptr;
  }
}

}  // namespace

bool gains_by_interleaving(const Tensor& w) {
  if (w.rank() != 2 || w.dim(0) % panel_rows != 0 || !interleaver(w.dtype())) return false;
  const WeightFormat& format = weight_format(w.dtype());
  load_backends();
  return format.dot16->chosen() > 0 && activations() == Activations::q8;
}

// f(begin, end) over n parts of w of so many bytes, some megabytes at a time, whose pages then leave memory: so that w does not lie there twice
template <class F>
static void by_and_by(const Tensor& w, int64_t n, int64_t bytes, F&& f) {
  const int64_t step = std::max<int64_t>(1, (4 << 20) / bytes);
  for (int64_t first = 0; first < n; first += step) {
    const int64_t count = std::min(step, n - first);
    parallel_for(count, 1, [&](int64_t begin, int64_t end) { f(first + begin, first + end); });
    w.storage().part(size_t(first * bytes), size_t(count * bytes)).leave_memory();
  }
}

void interleave(const Tensor& w, const Storage& to) {
  Interleave* const rows = interleaver(w.dtype());
  require(rows && w.rank() == 2 && w.dim(0) % panel_rows == 0, "interleave: ", w.dtype(), " weights of shape ", w.shape());
  require(int64_t(to.size()) == w.bytes(), "interleave: ", to.size(), " bytes for ", w.bytes());
  const int64_t blocks = w.dim(1) / 32;
  by_and_by(w, w.dim(0) / panel_rows, panel_rows * byte_size(w.dtype(), w.dim(1)), [&](int64_t begin, int64_t end) { rows(to.data(), w.raw(), begin, end, blocks); });
  w.set_interleaved(to);
}

void move(const Tensor& w, const Storage& to) {
  const int64_t bytes = byte_size(w.dtype(), w.dim(-1));
  by_and_by(w, w.bytes() / bytes, bytes, [&](int64_t begin, int64_t end) { std::memcpy(to.data() + begin * bytes, w.raw() + begin * bytes, size_t((end - begin) * bytes)); });
  w.move_to(to);
}

namespace kernel {
decltype(dot16_q4_0) dot16_q4_0{"dot16_q4_0", dot16_ref<BlockQ4_0>};
decltype(dot16_q4_1) dot16_q4_1{"dot16_q4_1", dot16_ref<BlockQ4_1>};
decltype(dot16_q5_0) dot16_q5_0{"dot16_q5_0", dot16_ref<BlockQ5_0>};
decltype(dot16_q5_1) dot16_q5_1{"dot16_q5_1", dot16_ref<BlockQ5_1>};
decltype(dot16_q8_0) dot16_q8_0{"dot16_q8_0", dot16_ref<BlockQ8_0>};
decltype(dot16_iq4_nl) dot16_iq4_nl{"dot16_iq4_nl", dot16_ref<BlockIQ4_NL>};

decltype(pairs16_q4_0) pairs16_q4_0{"pairs16_q4_0", pairs16_ref<BlockQ4_0>};
decltype(pairs16_q4_1) pairs16_q4_1{"pairs16_q4_1", pairs16_ref<BlockQ4_1>};
decltype(pairs16_q5_0) pairs16_q5_0{"pairs16_q5_0", pairs16_ref<BlockQ5_0>};
decltype(pairs16_q5_1) pairs16_q5_1{"pairs16_q5_1", pairs16_ref<BlockQ5_1>};
decltype(pairs16_q8_0) pairs16_q8_0{"pairs16_q8_0", pairs16_ref<BlockQ8_0>};
decltype(pairs16_iq4_nl) pairs16_iq4_nl{"pairs16_iq4_nl", pairs16_ref<BlockIQ4_NL>};
}  // namespace kernel

}  // namespace kvt
