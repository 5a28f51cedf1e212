#include "ops/profile.h"

#include <algorithm>

#include "ops/kernels.h"
#include "tensor/parallel.h"
#include "tensor/tensor.h"

namespace kvt {

static thread_local Profile* current_profile = nullptr;

Profile::Profile() : outer_(current_profile) { current_profile = this; }
Profile::~Profile() { current_profile = outer_; }
Profile* Profile::current() { return current_profile; }

void Profile::add(const std::string& operation, int64_t bytes, double seconds) {
  auto row = std::find_if(rows_.begin(), rows_.end(), [&](const Row& r) { return r.operation == operation; });
  if (row == rows_.end()) row = rows_.insert(rows_.end(), Row{operation});
  ++row->calls, row->bytes += bytes, row->seconds += seconds;
}

double read_bandwidth(int64_t bytes) {
  constexpr int64_t cols = 1024, passes = 8;                // four rows of 4 KB at a time: as many pages read side by side
  const int64_t rows = std::max<int64_t>(64, bytes / int64_t(sizeof(float)) / cols);
  const Tensor w = Tensor::zeros({rows, cols}), x = Tensor::zeros({cols}), y({rows});
  double best = 0;
  for (int64_t i = 0; i < passes; ++i) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for(rows, 16, [&](int64_t begin, int64_t end) { kernel::dot_f32(y.data() + begin, w.data() + begin * cols, cols, x.data(), end - begin, cols); });
    best = std::max(best, 1e-9 * double(w.bytes()) / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace kvt
