// Rotary position embedding (Su et al. 2021), x [B, T, H, D]
//
//   angle = position · base^(−2i/dims) / factor_i · freq_scale      for each pair (a, b), i < dims/2
//   (a, b)   →   (a cos − b sin,  a sin + b cos)                    backward: the same with −angle
#include <cmath>

#include "ops/loops.h"
#include "ops/ops.h"
#include "ops/profile.h"

namespace kvt {

namespace {

// cos and sin of every position and pair: [positions, dims/2, 2]. Angles in double: at position 10⁵ a float has two decimals.
using Table = std::shared_ptr<const std::vector<float>>;

// Queries and keys of all layers of a model turn by the same angles, so each thread remembers the last table, and makes the next in its place unless a step of
// backward keeps it.
class Tables {
 public:
  Table find(std::span<const int32_t> positions, int64_t dims, const RopeOptions& o) {
    const std::span<const float> factors = o.factors ? std::span<const float>(o.factors.values()) : std::span<const float>();
    const bool same_angles = dims_ == dims && base_ == o.base && freq_scale_ == o.freq_scale && std::equal(factors.begin(), factors.end(), factors_.begin(), factors_.end());
    if (same_angles && whole_ && std::equal(positions.begin(), positions.end(), positions_.begin(), positions_.end())) return table_;
    whole_ = false;                                           // until nothing can fail any more
    if (!same_angles) {
      dims_ = 0;
      factors_.assign(factors.begin(), factors.end());
      freqs_.resize(size_t(dims / 2));
      for (int64_t i = 0; i < dims / 2; ++i)
        freqs_[size_t(i)] = std::pow(double(o.base), -2.0 * double(i) / double(dims)) / (factors.empty() ? 1.0 : double(factors[size_t(i)])) * double(o.freq_scale);
      dims_ = dims, base_ = o.base, freq_scale_ = o.freq_scale;
    }
    positions_.assign(positions.begin(), positions.end());
    if (!table_ || table_.use_count() > 1) table_ = std::make_shared<std::vector<float>>();
    table_->clear();
    table_->reserve(positions.size() * size_t(dims));
    for (const int32_t position : positions)
      for (const double freq : freqs_) {
        table_->push_back(float(std::cos(position * freq)));
        table_->push_back(float(std::sin(position * freq)));
      }
    whole_ = true;
    return table_;
  }

 private:
  int64_t dims_ = 0;
  float base_ = 0, freq_scale_ = 0;
  std::vector<float> factors_;
  std::vector<double> freqs_;
  std::vector<int32_t> positions_;
  std::shared_ptr<std::vector<float>> table_;
  bool whole_ = false;
};

Table find_table(std::span<const int32_t> positions, int64_t dims, const RopeOptions& o) {
  thread_local Tables last;
  return last.find(positions, dims, o);
}

// One head, y = x turned or y += x turned. step: distance of the two numbers of a pair; next: of two pairs
struct Pairs { int64_t dims, step, next; };

template <bool add>
void rotate(float* y, const float* x, const float* cos_sin, float direction, Pairs at) {
  for (int64_t i = 0; i < at.dims / 2; ++i) {
    const float c = cos_sin[2 * i], s = direction * cos_sin[2 * i + 1];
    const float a = x[i * at.next], b = x[i * at.next + at.step];
    float *const ya = y + i * at.next, *const yb = ya + at.step;
    *ya = (add ? *ya : 0) + a * c - b * s;
    *yb = (add ? *yb : 0) + a * s + b * c;
  }
}

}  // namespace

Tensor rope(const Tensor& x, std::span<const int32_t> positions, const RopeOptions& options) {
  const Timed timed([] { return "rope"; });
  require(x.rank() == 4, "rope: expected [B, T, H, D], got ", x.shape());
  const int64_t rows = x.dim(0) * x.dim(1), H = x.dim(2), D = x.dim(3), dims = options.dims ? options.dims : D;
  const int64_t distinct = int64_t(positions.size());
  require(dims > 0 && dims <= D && dims % 2 == 0, "rope: cannot turn ", dims, " of ", D, " numbers in pairs");
  require(distinct == x.dim(1) || distinct == rows, "rope: ", distinct, " positions for ", x.shape());
  require(!options.factors || options.factors.shape() == Shape{dims / 2}, "rope: factors ", options.factors ? options.factors.shape() : Shape{},
          " for ", dims / 2, " pairs");

  const Table table = find_table(positions, dims, options);
  const Pairs pairs = options.pairing == RopeOptions::interleaved ? Pairs{dims, 1, 2} : Pairs{dims, dims / 2, 1};
  Tensor y(x.shape());
  for_rows(rows, H * D, [=, to = y.data(), from = x.data(), turns = table->data()](int64_t begin, int64_t end) {
    for (int64_t i = begin * H; i < end * H; ++i) {
      rotate<false>(to + i * D, from + i * D, turns + i / H % distinct * dims, 1, pairs);
      std::copy(from + i * D + dims, from + (i + 1) * D, to + i * D + dims);
    }
  });

  return on_backward(y, {x}, [=, x = x.gradient(), y = y.gradient()] {
    for_rows(rows, H * D, [=, dx = x.grad(), dy = y.grad(), turns = table->data()](int64_t begin, int64_t end) {
      for (int64_t i = begin * H; i < end * H; ++i) {
        rotate<true>(dx + i * D, dy + i * D, turns + i / H % distinct * dims, -1, pairs);
        for (int64_t j = i * D + dims; j < (i + 1) * D; ++j) dx[j] += dy[j];
      }
    });
  });
}

}  // namespace kvt
