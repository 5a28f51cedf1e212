#include "engine/shift.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

namespace kvt {

namespace {

constexpr int64_t rows_at_once = 32;       // of [rows, V] tensors in memory

class Measure {
 public:
  Measure(const CausalLm& base, const CausalLm* tuned, const Examples& text, const ShiftOptions& options)
      : base_(base), tuned_(tuned), text_(text), options_(options), vocabulary_(base.config().vocabulary) {
    require(!tuned || tuned->config().vocabulary == vocabulary_, "shift: the base has ", vocabulary_, " tokens, the tuned model ",
            tuned ? tuned->config().vocabulary : 0);
    require(text.learned() > 0, "shift: the text has nothing to predict");
    require(options.positions >= 1 && options.kept >= 1, "shift: ", options.positions, " positions, ", options.kept, " changes kept");
    shift_.before.resize(size_t(vocabulary_));
    shift_.after.resize(size_t(vocabulary_));
    shift_.rise.resize(size_t(vocabulary_));
    shift_.fall.resize(size_t(vocabulary_));
    every_ = std::max(1.0, double(text.learned()) / double(options.positions));
  }

  Shift run(const std::function<bool(int64_t)>& more) {
    for (int64_t e = 0; e < text_.size(); ++e) {
      example(e);
      if (more && !more(e + 1)) break;
    }
    const auto n = double(shift_.positions);
    for (double* sum : {&shift_.divergence, &shift_.same_choice}) *sum /= n;
    for (auto* sums : {&shift_.before, &shift_.after})
      for (double& sum : *sums) sum /= n;
    shift_.directions = Tensor::from({shift_.positions, base_.config().channels}, directions_);
    return std::move(shift_);
  }

 private:
  void example(int64_t e) {
    const Example& x = text_[e];
    std::vector<int64_t> at;
    for (size_t t = 0; t < x.labels.size(); ++t)
      if (x.labels[t] != ignored_label && double(labels_++) >= next_) at.push_back(int64_t(t)), next_ += every_;
    if (at.empty()) return;
    const auto T = int64_t(x.tokens.size());
    const Tensor hidden = base_.hidden(x.tokens, 1, T, {}), tuned = tuned_ ? tuned_->hidden(x.tokens, 1, T, {}) : Tensor();
    for (size_t begin = 0; begin < at.size(); begin += rows_at_once) {
      const std::span<const int64_t> some(at.data() + begin, std::min<size_t>(rows_at_once, at.size() - begin));
      Ids targets;
      for (const int64_t t : some) targets.push_back(x.labels[size_t(t)]);
      rows(rows_of(hidden, some), tuned ? rows_of(tuned, some) : Tensor(), targets);
      for (const int64_t t : some) shift_.places.push_back({e, t});
      count(int64_t(some.size()));
    }
  }

  static Tensor rows_of(const Tensor& hidden, std::span<const int64_t> at) {
    const int64_t C = hidden.dim(2);
    Tensor some({int64_t(at.size()), C});
    for (size_t i = 0; i < at.size(); ++i) std::copy_n(hidden.data() + at[i] * C, C, some.data() + int64_t(i) * C);
    return some;
  }

  // log p of both models, Δp, and from it u: the gradient of Σ logits ⊙ Δp with respect to h.
  void rows(const Tensor& h, const Tensor& tuned, const Ids& targets) {
    log_after_ = tuned ? log_softmax(tuned_->logits(tuned)) : one_hot(targets);
    Tape tape;
    h.want_grad();
    const Tensor logits = base_.logits(h);
    {
      const Tape::Pause pause;
      log_before_ = log_softmax(logits);
      delta_ = Tensor(logits.shape());
      for (int64_t i = 0; i < delta_.size(); ++i) delta_.data()[i] = std::exp(log_after_.data()[i]) - std::exp(log_before_.data()[i]);
    }
    tape.backward(sum(logits * delta_));
    directions_.insert(directions_.end(), h.grad(), h.grad() + h.size());
  }

  Tensor one_hot(const Ids& targets) const {
    const Tensor log_p = Tensor::filled({int64_t(targets.size()), vocabulary_}, -std::numeric_limits<float>::infinity());
    for (size_t i = 0; i < targets.size(); ++i) log_p.data()[int64_t(i) * vocabulary_ + targets[i]] = 0;
    return log_p;
  }

  void count(int64_t n) {
    std::vector<int32_t> order(static_cast<size_t>(vocabulary_));
    for (int64_t i = 0; i < n; ++i) {
      const float *from = log_before_.data() + i * vocabulary_, *to = log_after_.data() + i * vocabulary_, *delta = delta_.data() + i * vocabulary_;
      const Place place = shift_.places[size_t(shift_.positions + i)];
      for (int64_t v = 0; v < vocabulary_; ++v) {
        const auto token = size_t(v);
        const double p = std::exp(double(from[v])), q = p + double(delta[v]);
        shift_.before[token] += p;
        shift_.after[token] += q;
        if (std::isfinite(to[v])) shift_.divergence += std::exp(double(to[v])) * (double(to[v]) - double(from[v]));
        Extreme& extreme = delta[v] > 0 ? shift_.rise[token] : shift_.fall[token];
        if (std::fabs(delta[v]) > std::fabs(extreme.change)) extreme = {delta[v], to[v] - from[v], place};
      }
      shift_.same_choice += std::max_element(from, from + vocabulary_) - from == std::max_element(to, to + vocabulary_) - to;

      std::iota(order.begin(), order.end(), 0);
      const auto kept = std::min(options_.kept, vocabulary_);
      std::partial_sort(order.begin(), order.begin() + kept, order.end(),
                        [&](int32_t a, int32_t b) { return std::fabs(delta[a]) != std::fabs(delta[b]) ? std::fabs(delta[a]) > std::fabs(delta[b]) : a < b; });
      auto& changes = shift_.changes.emplace_back();
      for (int64_t j = 0; j < kept; ++j) changes.push_back({order[size_t(j)], delta[order[size_t(j)]]});
    }
    shift_.positions += n;
  }

  const CausalLm& base_;
  const CausalLm* tuned_;
  const Examples& text_;
  const ShiftOptions options_;
  const int64_t vocabulary_;
  Shift shift_;
  Tensor log_before_, log_after_, delta_;      // [rows, V]
  std::vector<float> directions_;
  double every_ = 1, next_ = 0;                // of the labels, which count
  int64_t labels_ = 0;
};

}  // namespace

Shift measure_shift(const CausalLm& base, const CausalLm* tuned, const Examples& text, const ShiftOptions& options, const std::function<bool(int64_t)>& more) {
  return Measure(base, tuned, text, options).run(more);
}

Concepts find_concepts(const Shift& shift, int64_t count, uint64_t seed) {
  Concepts concepts{spherical_kmeans(shift.directions, count, seed), {}};
  const Clusters& c = concepts.clusters;
  const int64_t C = shift.directions.dim(1);
  std::vector<std::map<int32_t, double>> sums(c.sizes.size());
  std::vector<double> nearest(c.sizes.size(), -2);
  concepts.each.resize(c.sizes.size());
  for (size_t i = 0; i < shift.places.size(); ++i) {
    if (c.assignment[i] < 0) continue;
    const auto j = size_t(c.assignment[i]);
    for (const TokenChange& t : shift.changes[i]) sums[j][t.token] += double(t.change);
    const float *u = shift.directions.data() + int64_t(i) * C, *centre = c.centres.data() + int64_t(j) * C;
    const double cosine = std::inner_product(u, u + C, centre, 0.0) / std::sqrt(std::inner_product(u, u + C, u, 0.0));
    if (cosine > nearest[j]) nearest[j] = cosine, concepts.each[j].example = shift.places[i];
  }
  for (size_t j = 0; j < sums.size(); ++j) {
    Concept& concept_ = concepts.each[j];
    concept_.positions = c.sizes[j];
    for (const auto& [token, sum] : sums[j]) (sum > 0 ? concept_.risen : concept_.fallen).push_back({token, float(sum / double(c.sizes[j]))});
    for (auto* list : {&concept_.risen, &concept_.fallen})
      std::stable_sort(list->begin(), list->end(), [](const TokenChange& a, const TokenChange& b) { return std::fabs(a.change) > std::fabs(b.change); });
  }
  return concepts;
}

}  // namespace kvt
