// What several test programs share: random tensors, closeness, gradient checks, and where the shared data lies.
#pragma once
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace kvt {

// $KVT_DATA, else ../shared/data beside the project (meson runs tests with KVT_ROOT set to the project's folder).
inline std::filesystem::path data_path(const std::string& file) {
  if (const char* data = std::getenv("KVT_DATA")) return std::filesystem::path(data) / file;
  const char* project = std::getenv("KVT_ROOT");
  return std::filesystem::path(project ? project : ".") / "../shared/data" / file;
}

// A file of this project, e.g. "tests/golden/llama.gguf".
inline std::string project_path(const std::string& file) {
  const char* project = std::getenv("KVT_ROOT");
  return (std::filesystem::path(project ? project : ".") / file).string();
}

// True if the file is there; otherwise says SKIPPED and why.
inline bool have_data(const std::filesystem::path& file) {
  if (std::filesystem::exists(file)) return true;
  MESSAGE("SKIPPED: no ", file.string(), " (set KVT_DATA)");
  return false;
}

// max |a − b| / max(|b|, 1e-6 …): one number for two arrays; NaN anywhere gives ∞.
inline double max_relative_error(std::span<const float> got, std::span<const float> want) {
  REQUIRE(got.size() == want.size());
  double scale = 1e-6, worst = 0;
  for (float w : want) scale = std::max(scale, double(std::fabs(w)));
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = std::fabs(double(got[i]) - want[i]) / scale;
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
  }
  return worst;
}

using TensorFn = std::function<Tensor(const std::vector<Tensor>&)>;

// ⟨u, J v⟩ by central differences equals ⟨Jᵀu, v⟩ from the tape, for random u and v (u random: a plain sum hides errors by
// symmetry). Every input is checked on its own.
inline void check_gradients(const std::string& name, const TensorFn& f, const std::vector<Tensor>& xs, Rng& rng, double tolerance = 1e-2, float h = 1e-2f) {
  for (const Tensor& x : xs) x.want_grad();
  const Tensor u = randn(f(xs).shape(), rng);
  {
    Tape tape;
    tape.backward(sum(f(xs) * u));
  }
  for (size_t i = 0; i < xs.size(); ++i) {
    const Tensor v = randn(xs[i].shape(), rng);
    double exact = 0, norm_g = 0, norm_v = 0;
    for (int64_t j = 0; j < v.size(); ++j) {
      exact += double(xs[i].grad()[j]) * v.data()[j];
      norm_g += double(xs[i].grad()[j]) * xs[i].grad()[j];
      norm_v += double(v.data()[j]) * v.data()[j];
    }
    const auto at = [&](float e) {
      std::vector<Tensor> ys = xs;
      ys[i] = xs[i].clone();
      for (int64_t j = 0; j < v.size(); ++j) ys[i].data()[j] += e * v.data()[j];
      const Tensor y = f(ys);
      double total = 0;
      for (int64_t j = 0; j < y.size(); ++j) total += double(y.data()[j]) * u.data()[j];
      return total;
    };
    const double numeric = (at(h) - at(-h)) / (2 * double(h));
    INFO(name, ": input ", i, ", tape ", exact, ", differences ", numeric);
    CHECK(norm_g > 0);
    CHECK(std::fabs(exact - numeric) <= tolerance * std::max(std::fabs(numeric), 0.1 * std::sqrt(norm_g * norm_v)));
  }
}

}  // namespace kvt
