#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

namespace kvt {

Sampler::Sampler(const SamplerOptions& o) : options_(o), rng_(o.seed) {
  require(std::isfinite(o.temperature) && o.temperature >= 0, "sampler: temperature ", o.temperature, ", expected 0 or more");
  require(o.top_k >= 0, "sampler: top-k ", o.top_k, ", expected 0 or more");
  require(o.top_p > 0 && o.top_p <= 1, "sampler: top-p ", o.top_p, ", expected above 0, at most 1");
  require(o.min_p >= 0 && o.min_p < 1, "sampler: min-p ", o.min_p, ", expected at least 0, below 1");
  require(std::isfinite(o.repeat_penalty) && o.repeat_penalty > 0, "sampler: repetition penalty ", o.repeat_penalty, ", expected above 0");
  require(o.repeat_last >= 0, "sampler: ", o.repeat_last, " recent tokens");
}

int32_t Sampler::operator()(std::span<const float> logits, std::span<const int32_t> recent) {
  auto& seen = seen_;
  seen.clear();
  if (options_.repeat_penalty != 1.f) {
    const auto tail = recent.last(std::min(recent.size(), size_t(options_.repeat_last)));
    seen.assign(tail.begin(), tail.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  }
  const auto before = [](const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; };

  // The k best in a heap whose root is the worst of them: nearly every score is passed over after one comparison.
  const size_t k = options_.temperature == 0 ? 1 : options_.top_k ? size_t(options_.top_k) : logits.size();
  auto& c = candidates_;
  c.clear();
  auto recently = seen.begin();           // those from here on are still to come
  for (size_t i = 0; i < logits.size(); ++i) {
    const bool is_recent = recently != seen.end() && *recently == int32_t(i);
    if (is_recent) ++recently;
    else if (c.size() == k && !(logits[i] >= c[0].logit)) continue;
    if (!std::isfinite(logits[i])) continue;
    Candidate x{logits[i], int32_t(i)};
    if (is_recent) x.logit = x.logit > 0 ? x.logit / options_.repeat_penalty : x.logit * options_.repeat_penalty;
    if (c.size() == k) {
      if (!before(x, c[0])) continue;
      std::pop_heap(c.begin(), c.end(), before);
      c.back() = x;
    } else {
      c.push_back(x);
    }
    std::push_heap(c.begin(), c.end(), before);
  }
  require(!c.empty(), "sampler: none of ", logits.size(), " scores is finite");
  if (options_.temperature == 0) return c[0].id;
  std::sort_heap(c.begin(), c.end(), before);

  // Probabilities relative to the best: w_i = e^(logit_i − logit_0).
  const float best = c[0].logit;
  double total = 0;
  for (const Candidate& x : c) total += std::exp(double(x.logit - best));
  double kept = 0;
  size_t n = 0;
  while (n < c.size() && kept < options_.top_p * total) kept += std::exp(double(c[n++].logit - best));
  while (n > 1 && std::exp(double(c[n - 1].logit - best)) < options_.min_p) --n;
  c.resize(std::max<size_t>(n, 1));

  total = 0;
  for (const Candidate& x : c) total += std::exp(double(x.logit - best) / options_.temperature);
  double target = rng_.uniform() * total;
  for (const Candidate& x : c)
    if ((target -= std::exp(double(x.logit - best) / options_.temperature)) < 0) return x.id;
  return c.back().id;
}

}  // namespace kvt
