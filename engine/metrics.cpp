#include "engine/metrics.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "tensor/parallel.h"

namespace kvt {

double Perplexity::mean() const { return predictions ? nll / double(predictions) : 0; }
double Perplexity::value() const { return std::exp(mean()); }
double Perplexity::error() const {
  if (predictions < 2) return 0;
  const double n = double(predictions), variance = std::max(0.0, nll_squares / n - mean() * mean());
  return value() * std::sqrt(variance / (n - 1));
}

double log_sum_exp(std::span<const float> x) {
  const double top = *std::max_element(x.begin(), x.end());
  double total = 0;
  for (const float v : x) total += std::exp(double(v) - top);
  return top + std::log(total);
}

std::vector<double> token_losses(const CausalLm& model, std::span<const int32_t> ids, int64_t first, int64_t batch, DType type) {
  const int64_t T = int64_t(ids.size()), step = batch > 0 ? batch : T;
  require(first >= 1 && first < T, "token_losses: tokens ", first, " to ", T - 1, " of ", T);
  constexpr int64_t rows_at_once = 64;       // of scores: V floats each

  const Tape::Pause inference;
  std::vector<double> losses(size_t(T - first));
  std::optional<KvCache> cache;
  if (batch > 0) cache = model.make_cache(T, type);
  for (int64_t at = 0; at < T - 1; at += step) {
    const int64_t n = std::min(step, T - at), last = std::min(at + n, T - 1);      // what the last token predicts is unknown
    const Tensor hidden = model.hidden(ids.subspan(size_t(at), size_t(n)), 1, n, {.cache = cache ? &*cache : nullptr});
    for (int64_t begin = std::max(at, first - 1); begin < last; begin += rows_at_once) {
      const int64_t end = std::min(begin + rows_at_once, last);
      const Tensor logits = model.logits(slice(hidden, 1, begin - at, end - at));
      const int64_t V = logits.dim(-1);
      parallel_for(end - begin, 1, [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r) {
          const std::span<const float> row(logits.data() + r * V, size_t(V));
          losses[size_t(begin + r + 1 - first)] = log_sum_exp(row) - double(row[size_t(ids[size_t(begin + r + 1)])]);
        }
      });
    }
  }
  return losses;
}

Perplexity perplexity(const CausalLm& model, std::span<const int32_t> ids, const PerplexityOptions& options,
                      const std::function<bool(const Perplexity&)>& on_chunk) {
  const int64_t context = options.context, available = int64_t(ids.size()) / context;
  require(context >= 4, "perplexity: a context of ", context, " tokens is too short");
  require(available >= 1, "perplexity: the text has ", ids.size(), " tokens, a chunk needs ", context);
  const int64_t chunks = options.chunks > 0 ? std::min(options.chunks, available) : available;
  const int64_t first = options.whole ? 1 : context / 2 + 1;

  Perplexity result;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    std::vector<int32_t> tokens(ids.begin() + chunk * context, ids.begin() + (chunk + 1) * context);
    if (options.bos >= 0) tokens[0] = options.bos;
    for (const double x : token_losses(model, tokens, first, options.batch, options.cache)) {
      result.nll += x;
      result.nll_squares += x * x;
    }
    result.predictions += context - first;
    ++result.chunks;
    if (!on_chunk(result)) break;
  }
  return result;
}

void ClassCounts::add(int64_t decided, int64_t truth) {
  const auto n = int64_t(counts_.size());
  require(decided >= 0 && decided < n && truth >= 0 && truth < n, "class counts: decision ", decided, " and class ", truth, " of ", n, " classes");
  ++counts_[size_t(decided)].decided;
  ++counts_[size_t(truth)].occurs;
  counts_[size_t(truth)].hits += decided == truth;
}

double ClassCounts::f1(int64_t c) const {
  const Counts& k = counts_.at(size_t(c));
  return 2 * double(k.hits) / double(k.decided + k.occurs);      // TP + FP are the decisions for it, TP + FN its occurrences
}

double ClassCounts::macro_f1() const {
  double sum = 0;
  int64_t classes = 0;
  for (size_t c = 0; c < counts_.size(); ++c)
    if (counts_[c].decided + counts_[c].occurs > 0) sum += f1(int64_t(c)), ++classes;
  return sum / double(classes);
}

}  // namespace kvt
