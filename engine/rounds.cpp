#include "engine/rounds.h"

#include <chrono>
#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "engine/both_tasks.h"
#include "tensor/parallel.h"

namespace kvt {

Step line_search(const std::function<double(float)>& f, double at_zero, float start, int most, const std::function<bool()>& cancelled) {
  Step best{0, at_zero};
  const auto better = [&](float eta) {
    if (cancelled && cancelled()) return false;
    const double loss = f(eta);
    if (!(loss < best.loss)) return false;
    best = {eta, loss};
    return true;
  };
  float eta = start;
  bool falling = better(eta);
  if (falling) {
    int doublings = 0;
    while (doublings < most && better(2 * eta)) eta *= 2, ++doublings;
    if (doublings > 0) return best;
  }
  for (int n = 0; n < most; ++n) {
    eta /= 2;
    const bool fell = better(eta);
    if (falling && !fell) break;     // the least lies behind
    falling = fell;
  }
  return best;
}

namespace {

using Clock = std::chrono::steady_clock;

Tensor transposed(const Tensor& x) { return permute(x, {1, 0}); }

// S/s_1
std::vector<float> weights(const Svd& g) {
  std::vector<float> w(g.s.data(), g.s.data() + g.rank());
  const float most = std::max(w[0], std::numeric_limits<float>::min());
  for (float& s : w) s /= most;
  return w;
}

constexpr float lora_scale = 2;        // α/r of the last round

class Rounds {
 public:
  Rounds(const Task& data, const Task& validation, const std::vector<TargetLayer>& layers, const RoundsOptions& options, RoundsState& state,
         const RoundsCallbacks& callbacks)
      : data_(data), validation_(validation), layers_(layers), options_(options), state_(state), callbacks_(callbacks), began_(Clock::now()) {
    require(options.k >= 0 && options.rounds >= 1, "kvt: ", options.k, " directions, ", options.rounds, " rounds");
    require(options.core != CoreForm::extracted || options.basis == Basis::gradient, "kvt: the extracted core is made of gradients");
    require(options.k > 0 || options.basis == Basis::gradient, "kvt: an automatic k needs gradients");
    require(!options.learn_validation || options.core == CoreForm::extracted, "kvt: a trained core does not learn validation data");
    require(options.refine == 0 || options.core == CoreForm::extracted, "kvt: rounds of trained cores are not refined");
    require(options.refine >= 0 && (options.refine == 0 || options.refine_rank >= 1), "kvt: ", options.refine, " steps of refining, rank ", options.refine_rank);
    require(options.portion >= 0, "kvt: portions of ", options.portion, " labels");
    require(options.eta > 0 && std::isfinite(options.eta), "kvt: first step ", options.eta);
  }

  bool go() {
    const int64_t first = state_.rounds();
    if (state_.losses.empty()) {
      const double base = evaluate();
      if (cancelled()) return false;
      require(std::isfinite(base), "kvt: the base's validation loss is ", base);
      state_.losses.push_back(base);
    }
    bool searching = state_.rounds() < options_.rounds;
    while (!state_.finished) {
      const bool refining = options_.refine > 0 && !searching;
      RoundReport report{};
      report.round = state_.rounds() + 1;
      report.before = state_.losses.back();
      const int64_t evaluations = state_.evaluations;
      const Snapshot before = snapshot();
      try {
        if (!(refining ? refine(report) : round(report))) return false;
      } catch (const Error& e) {             // amid a pass
        if (e.trouble != Trouble::cancelled) throw;
        restore(before);
        return false;
      }
      for (const auto& layer : state_.set.layers) report.rank = std::max(report.rank, layer.lora->rank());
      report.evaluations = state_.evaluations - evaluations;
      report.seconds = std::chrono::duration<double>(Clock::now() - began_).count();
      searching = searching && report.eta > 0 && report.round < options_.rounds;
      state_.finished = refining || (options_.refine == 0 && !searching);
      report.seconds_left = searching ? report.seconds / double(report.round - first) * double(options_.rounds - report.round) : 0;
      if (callbacks_.round) callbacks_.round(report);
      if (callbacks_.save) callbacks_.save(state_);
    }
    return true;
  }

 private:
  bool cancelled() const { return callbacks_.cancelled && callbacks_.cancelled(); }

  double evaluate() {
    ++state_.evaluations;
    return kvt::evaluate(validation_, options_.train.batch, callbacks_.cancelled, options_.extract.precision);
  }

  bool round(RoundReport& report) {
    ExtractOptions extract = options_.extract;
    const bool choose = state_.k == 0 && options_.k == 0;
    if (!choose) state_.k = state_.k > 0 ? state_.k : options_.k;
    extract.k = choose ? automatic_k_most : state_.k;
    extract.seed = options_.extract.seed + uint64_t(report.round);
    double part = 1;                           // of the data that the round sees
    std::vector<LayerGradient> gradients;
    Extraction extraction(layers_, extract);
    if (options_.basis == Basis::gradient) {
      const std::vector<int64_t> examples = portion(report.round);
      report.training_loss = extraction.add(data_, examples, 1, callbacks_.extracting, callbacks_.cancelled);
      if (cancelled()) return false;
      gradients = extraction.gradients();
      part = double(examples.size()) / double(data_.size());
      state_.extractions += part;
    } else {
      gradients = other_bases(options_.basis, extract.k, extract.seed);
    }

    int64_t k = choose ? directions_holding(gradients, automatic_k_share) : state_.k;
    const Snapshot before = snapshot();
    Step step = take(gradients, k);
    while (choose && step.eta > 0 && k > 1 && !cancelled()) {
      const Snapshot whole = snapshot();
      restore(before);
      const Step half = take(gradients, k / 2);
      if (half.loss > step.loss + 0.01 * (report.before - step.loss)) {
        restore(whole);
        break;
      }
      k /= 2;
      step = half;
    }
    if (cancelled() || step.eta == 0) restore(before);
    if (cancelled()) return false;
    report.k = k;
    report.eta = step.eta;
    report.loss = step.loss;
    if (options_.learn_validation && step.eta > 0) {
      restore(before);                         // W_l of the training data's D_l, where the validation data's gradient is taken as well
      if (std::isnan(extraction.add(validation_, all(validation_), part, callbacks_.extracting, callbacks_.cancelled))) return false;
      gradients = extraction.gradients();
      state_.extractions += part * learned_share();
      move(gradients, k)(step.eta);
      step.loss = evaluate();
      if (cancelled()) return restore(before), false;
    }
    if (choose) state_.k = k;
    if (step.eta > 0) keep(gradients, k, step);
    double layers = 0;
    for (const LayerGradient& g : gradients) {
      if (g.energy <= 0) continue;
      layers += 1;
      for (int64_t i = 0; i < std::min(k, g.svd.rank()); ++i) report.energy += double(g.svd.s.data()[i]) * double(g.svd.s.data()[i]) / g.energy;
    }
    report.energy /= std::max(layers, 1.0);
    return true;
  }

  static std::vector<int64_t> all(const Task& task) {
    std::vector<int64_t> examples(size_t(task.size()));
    std::iota(examples.begin(), examples.end(), 0);
    return examples;
  }

  // The examples that a round extracts from: every P-th, P the number of portions in the data.
  std::vector<int64_t> portion(int64_t round) const {
    const std::vector<int64_t> examples = all(data_);
    if (options_.portion == 0) return examples;
    const double labels = double(data_.extent(examples).labels);
    const int64_t parts = std::clamp<int64_t>(std::llround(labels / double(options_.portion)), 1, data_.size());
    std::vector<int64_t> part;
    for (int64_t i = (round - 1) % parts; i < data_.size(); i += parts) part.push_back(i);
    return part;
  }

  // U, S, V of the weights; or random rows of V as LoRA starts with, and orthonormal U.
  std::vector<LayerGradient> other_bases(Basis basis, int64_t k, uint64_t seed) const {
    std::vector<LayerGradient> bases(layers_.size());
    parallel_for(int64_t(layers_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto& [name, layer] = layers_[size_t(i)];
        const Linear& linear = *layer;
        require(bool(linear.weight) || basis != Basis::weight, "kvt: '", name, "' is tied to the embedding: it has no directions of its own to start from");
        const int64_t out = linear.weight.shape[0], in = linear.weight.shape[1], n = std::min({k, out, in});
        Rng of_run(seed), rng(of_run.next() + uint64_t(i));
        Svd& svd = bases[size_t(i)].svd;
        if (basis == Basis::weight) svd = leading_svd(linear.weight, n, rng);
        else svd = {qr(randn({out, n}, rng)).q, Tensor::filled({n}, 1), rand_uniform({in, n}, rng, -1 / std::sqrt(float(in)), 1 / std::sqrt(float(in)))};
      }
    });
    return bases;
  }

  // The round's step in k directions, in the adapters.
  Step take(const std::vector<LayerGradient>& gradients, int64_t k) {
    if (options_.core == CoreForm::extracted) return search(gradients, k);
    Training t{options_.core, data_, &validation_, options_.train, options_.scale};
    const int64_t all = train_steps(t.options, data_.size()), r = state_.rounds(), R = options_.rounds;
    t.options.steps = all * (r + 1) / R - all * r / R;
    require(t.options.steps > 0, "kvt: ", all, " steps for ", R, " rounds");
    t.options.schedule_offset = all * r / R;
    t.options.schedule_steps = all;
    return train_core(gradients, k, t);
  }

  // The last round: a LoRA on all that is learned. Its loss on validation data says something where those are kept from it.
  bool refine(RoundReport& report) {
    const Snapshot before = snapshot();
    const BothTasks both(data_, validation_);
    const bool all = options_.learn_validation;
    Training t{CoreForm::lora, all ? static_cast<const Task&>(both) : data_, all ? nullptr : &validation_, options_.train, lora_scale};
    t.options.steps = options_.refine;
    if (options_.cut_before_refining() && !state_.set.layers.empty()) state_.cut(options_.mean_rank - double(options_.refine_rank));
    Step step = train_core(other_bases(Basis::random, options_.refine_rank, options_.extract.seed + uint64_t(report.round)), options_.refine_rank, t);
    if (all && !cancelled()) step = {1, evaluate()};
    report.k = options_.refine_rank;
    report.eta = step.eta;
    report.loss = step.loss;
    if (cancelled() || step.eta == 0) restore(before);
    if (cancelled()) return false;
    if (step.eta > 0) keep({}, 0, step);
    return true;
  }

  // Labels of the validation data by those of the training data
  double learned_share() const { return double(validation_.extent(all(validation_)).labels) / double(data_.extent(all(data_)).labels); }

  // The adapters' numbers, layer by layer; none before the first round. Adding columns makes new tensors: these stay as they are. What is
  // trained beside them changes where it lies, and is copied.
  struct Snapshot {
    std::vector<size_t> attached;                      // adapters of each layer
    std::vector<std::pair<Tensor, Tensor>> factors;
    std::vector<Tensor> beside;
  };
  Snapshot snapshot() const {
    Snapshot s;
    for (const TargetLayer& layer : layers_) s.attached.push_back(layer.linear->adapters.size());
    for (const auto& layer : state_.set.layers) s.factors.push_back({layer.lora->a, layer.lora->b});
    for (const Trained& t : options_.beside) s.beside.push_back(t.tensor.clone());
    return s;
  }

  void restore(const Snapshot& s) {
    for (size_t i = 0; i < layers_.size(); ++i) layers_[i].linear->adapters.resize(s.attached[i]);
    if (s.factors.empty()) state_.set.layers.clear();
    for (size_t i = 0; i < s.factors.size(); ++i) std::tie(state_.set.layers[i].lora->a, state_.set.layers[i].lora->b) = s.factors[i];
    for (size_t i = 0; i < s.beside.size(); ++i) std::copy_n(s.beside[i].data(), s.beside[i].size(), options_.beside[i].tensor.data());
  }

  // k more rows of A [r, in], columns of B [out, r]
  void add(size_t i, const Tensor& a, const Tensor& b) {
    const Tape::Pause pause;
    if (state_.set.layers.size() < layers_.size()) {
      state_.set.layers.push_back({layers_[i].name, std::make_shared<Lora>(a.clone(), b.clone(), 1.f)});
      layers_[i].linear->adapters.push_back(state_.set.layers.back().lora);
    } else {
      Lora& lora = *state_.set.layers[i].lora;
      lora.a = concat(std::vector<Tensor>{lora.a, a}, 0);
      lora.b = concat(std::vector<Tensor>{lora.b, b}, 1);
    }
  }

  void keep(const std::vector<LayerGradient>& gradients, int64_t k, const Step& step) {
    for (const LayerGradient& g : gradients) state_.singular.insert(state_.singular.end(), g.svd.s.data(), g.svd.s.data() + std::min(k, g.svd.rank()));
    state_.etas.push_back(step.eta);
    state_.losses.push_back(step.loss);
  }

  // extracted:  A = Vᵀ,  B = −η U (S/s_1); returns what sets η
  std::function<void(float)> move(const std::vector<LayerGradient>& gradients, int64_t k) {
    std::vector<Svd> kept;
    for (size_t i = 0; i < layers_.size(); ++i) {
      kept.push_back(gradients[i].svd.leading(k));
      add(i, transposed(kept[i].v), kept[i].u);
    }
    return [this, kept](float eta) {
      for (size_t i = 0; i < layers_.size(); ++i) {
        const Tensor &u = kept[i].u, &b = state_.set.layers[i].lora->b;
        const std::vector<float> w = weights(kept[i]);
        const int64_t columns = u.dim(1), rank = b.dim(1);
        for (int64_t o = 0; o < u.dim(0); ++o)
          for (int64_t j = 0; j < columns; ++j) b.data()[o * rank + rank - columns + j] = -eta * u.data()[o * columns + j] * w[size_t(j)];
      }
    };
  }

  Step search(const std::vector<LayerGradient>& gradients, int64_t k) {
    const auto set_step = move(gradients, k);
    const auto loss_at = [&](float eta) {
      set_step(eta);
      const double loss = evaluate();
      if (callbacks_.trial) callbacks_.trial(eta, loss);
      return loss;
    };
    const bool first = state_.etas.empty();          // later rounds know about how far to go: 2^−4 of that is as good as nothing
    const Step step = line_search(loss_at, state_.losses.back(), first ? options_.eta : state_.etas.back(), first ? 8 : 4, callbacks_.cancelled);
    set_step(step.eta);
    return step;
  }

  struct Training {
    CoreForm core;
    const Task& data;
    const Task* validation;            // null: its end is what counts, η = 1 with no loss
    TrainOptions options;
    float scale;
  };

  // A core between A and B, or A and B themselves, trained and then folded
  Step train_core(const std::vector<LayerGradient>& gradients, int64_t k, const Training& t) {
    TrainedSet trained = options_.beside;
    std::vector<std::function<std::shared_ptr<const Lora>()>> folded;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Svd g = gradients[i].svd.leading(k);
      const Tensor a = transposed(g.v);
      const int64_t n = g.rank();
      if (t.core == CoreForm::lora) {
        const auto lora = std::make_shared<Lora>(a, Tensor::zeros({g.u.dim(0), n}), t.scale);
        trained.push_back({layers_[i].name + ".lora_a", lora->a.want_grad()});
        trained.push_back({layers_[i].name + ".lora_b", lora->b.want_grad()});
        layers_[i].linear->adapters.push_back(lora);
        folded.push_back([lora] { return std::make_shared<Lora>(lora->a.clone(), kvt::scale(lora->b, lora->scale), 1.f); });
        continue;
      }
      // Directions count as their singular values do in a diagonal, relative to the first, and in LoRA-XS.
      std::vector<float> w(size_t(n), 1.f);
      if (t.core == CoreForm::spectral) w = weights(g);
      else if (options_.basis == Basis::weight) w.assign(g.s.data(), g.s.data() + n);
      for (int64_t j = 0; j < n; ++j)
        for (int64_t c = 0; c < a.dim(1); ++c) a.data()[j * a.dim(1) + c] *= w[size_t(j)];
      const auto core = std::make_shared<Core>(a, g.u, Tensor::zeros(t.core == CoreForm::spectral ? Shape{n} : Shape{n, n}), t.scale);
      trained.push_back({layers_[i].name + ".core", core->c.want_grad(), false});
      layers_[i].linear->adapters.push_back(core);
      folded.push_back([core] { return core->folded(); });
    }
    TrainOptions options = t.options;
    options.seed += uint64_t(state_.rounds());             // each round its own order of the data
    TrainCallbacks callbacks = callbacks_.training;
    callbacks.save = {};
    callbacks.cancelled = callbacks_.cancelled;
    callbacks.validation = [&, report = callbacks.validation](const ValidationReport& v) {
      ++state_.evaluations;
      if (report) report(v);
    };
    TrainState train_state;
    train(t.data, trained, options, t.validation, train_state, callbacks);
    for (size_t i = 0; i < layers_.size(); ++i) {
      layers_[i].linear->adapters.pop_back();
      const auto lora = folded[i]();
      add(i, lora->a, lora->b);
    }
    if (!t.validation) return {1, 0};
    const bool better = train_state.best_loss < state_.losses.back();
    return {better ? 1.f : 0.f, std::min(train_state.best_loss, state_.losses.back())};
  }

  const Task &data_, &validation_;
  const std::vector<TargetLayer>& layers_;
  const RoundsOptions& options_;
  RoundsState& state_;
  const RoundsCallbacks& callbacks_;
  Clock::time_point began_;
};

}  // namespace

bool run_rounds(const Task& data, const Task& validation, const std::vector<TargetLayer>& layers, const RoundsOptions& options,
                RoundsState& state, const RoundsCallbacks& callbacks) {
  return Rounds(data, validation, layers, options, state, callbacks).go();
}

}  // namespace kvt
