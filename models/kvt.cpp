#include "models/kvt.h"

#include <algorithm>
#include <cmath>

#include "ops/loops.h"
#include "ops/low_rank.h"

namespace kvt {

Kvt::Kvt(const KvtConfig& c)
    : bank(Shape{c.vectors, c.size}), w_alpha(Shape{c.size}), alpha(c.channels, c.size), mlp_up(c.size, c.hidden, true),
      mlp_down(c.hidden, c.layers * c.size * c.columns, true), gates(Shape{3}), config_(c) {
  require(c.vectors >= 1 && c.size >= 1 && c.columns >= 1 && c.hidden >= 1 && c.layers >= 1 && c.channels >= 1, "kvt: ", c.vectors, " vectors of size ",
          c.size, ", ", c.columns, " columns, ", c.hidden, " hidden numbers, ", c.layers, " layers, ", c.channels, " channels");
}

void Kvt::init(Rng& rng) {
  const auto uniform = [&](Parameter& p) { p.tensor = rand_uniform(p.shape, rng, -1 / std::sqrt(float(p.shape[-1])), 1 / std::sqrt(float(p.shape[-1]))); };
  bank.tensor = randn(bank.shape, rng);
  uniform(alpha.weight);
  uniform(mlp_up.weight);
  for (Parameter* p : {&w_alpha, &mlp_up.bias, &mlp_down.weight, &mlp_down.bias}) p->tensor = Tensor::zeros(p->shape);
  gates.tensor = Tensor::filled(gates.shape, 1.f);
  const int64_t k = config_.size, t = config_.columns;
  for (int64_t layer = 0; layer < config_.layers; ++layer)
    for (int64_t i = 0; i < std::min(k, t); ++i) mlp_down.bias.tensor.data()[layer * k * t + i * t + i] = 1;
  each<Parameter>(*this, [](const std::string&, Parameter& p) { p.tensor.want_grad(); });
}

Tensor Kvt::relevance(const Tensor& query) const {
  const Tensor asked = query ? query + w_alpha.tensor : w_alpha.tensor.view({1, config_.size});
  return softmax(matmul(asked, bank, false, true));
}

// g GELU(W_1 κ + b_1)
Tensor Kvt::level(int gate, const Tensor& query) const {
  const Tensor kappa = matmul(relevance(query), bank);
  return gelu(mlp_up(kappa)) * slice(gates.tensor, 0, gate, gate + 1);
}

Tensor Kvt::cores(const Tensor& phi, int64_t layer) const {
  const int64_t n = config_.size * config_.columns;
  require(layer >= 0 && layer < config_.layers, "kvt: layer ", layer, " of ", config_.layers);
  const Tensor constant = slice(mlp_down.bias.tensor, 0, layer * n, (layer + 1) * n);
  return phi ? linear(phi, slice(mlp_down.weight.tensor, 0, layer * n, (layer + 1) * n), constant) : constant.view({1, n});
}

Tensor Kvt::core_weights(int64_t layer) const {
  const Tape::Pause pause;
  const int64_t k = config_.size, t = config_.columns, h = config_.generated() ? config_.hidden : 0, n = k * t;
  const Tensor w = Tensor::zeros({h + 1, t, round_up(k, core_lanes)});
  for (int64_t u = 0; u <= h; ++u)
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < t; ++j) {
        const int64_t number = layer * n + i * t + j;
        w.data()[(u * t + j) * w.dim(2) + i] = u < h ? mlp_down.weight.tensor.data()[number * h + u] : mlp_down.bias.tensor.data()[number];
      }
  return w;
}

Tensor Kvt::lanes(const Tensor& phi) {
  constexpr int64_t four = low_rank_rows;
  const int64_t N = phi ? phi.dim(0) : 1, h = phi ? phi.dim(1) : 0;
  const Tensor y = Tensor::zeros({pieces(N, four), h + 1, four});
  for (int64_t n = 0; n < N; ++n)
    for (int64_t u = 0; u <= h; ++u) y.data()[(n / four * (h + 1) + u) * four + n % four] = u < h ? phi.data()[n * h + u] : 1;
  return y;
}

Tensor Kvt::hidden(const KvtInput& in, Tensor* sentence) const {
  const KvtConfig& c = config_;
  Tensor phi;
  if (c.per_token()) {
    require(in.embedding && in.embedding.rank() == 3 && in.embedding.dim(2) == c.channels, "kvt: embeddings ",
            in.embedding ? in.embedding.shape() : Shape{}, ", expected [B, T, ", c.channels, "]");
    const int64_t B = in.embedding.dim(0), T = in.embedding.dim(1), k = c.size;
    const Tensor emb = rms_norm(in.embedding, Tensor::filled({c.channels}, 1.f), 1e-6f), query = alpha(emb);
    if (c.sentence_level && in.sentence) {
      require(in.sentence.shape() == Shape{B, 1, c.hidden}, "kvt: embeddings ", in.embedding.shape(), " of translations of ", in.sentence.dim(0), " sentences");
      phi = in.sentence;
    } else if (c.sentence_level) {
      Tensor before;
      int64_t count = 0;
      if (in.cache && in.cache->length() > 0) {
        count = in.cache->length();
        before = scale(slice(in.cache->notes(), 0, count - 1, count), float(count)).view({k});
      }
      const Tensor mean_query = in.causal ? prefix_mean(query, before, count) : in.lengths.empty() ? mean(query, 1).view({B, 1, k})
                                          : pooled(query, in.lengths, Pooling::mean).view({B, 1, k});
      if (in.cache) std::copy_n(mean_query.data(), T * k, in.cache->notes().data() + count * k);
      phi = level(1, mean_query);
    }
    if (sentence) *sentence = phi;
    if (c.word_level) {
      const Tensor word = level(2, query);
      if (phi && phi.dim(1) != T) phi = matmul(Tensor::filled({B, T, 1}, 1.f), phi);
      phi = phi ? phi + word : word;
    }
    phi = phi.view({phi.dim(0) * phi.dim(1), c.hidden});
  }
  if (c.concept_level) {
    const Tensor concept_phi = level(0, {});
    phi = phi ? phi + concept_phi.view({c.hidden}) : concept_phi;
  }
  return phi;
}

AdapterPass Kvt::pass(const KvtInput& input) const {
  AdapterPass pass = AdapterPass::current();
  pass.made = hidden(input, &pass.sentence);
  if (!Tape::current()) pass.lanes = lanes(pass.made);
  pass.maker = this;
  return pass;
}

void make_cores(Model& model, std::shared_ptr<const Kvt> kvt) {
  model.adapter_pass = [kvt = std::move(kvt)](const Tensor& embeddings, const std::vector<int32_t>& lengths, const AdapterPass* source) {
    return kvt->pass({.embedding = embeddings, .causal = false, .lengths = lengths, .sentence = source ? source->sentence : Tensor()});
  };
}

Tensor core_product(const Tensor& cores, int64_t k, const Tensor& h) {
  const int64_t t = h.dim(-1), rows = h.shape().leading().numel(), N = cores.dim(0);
  require(cores.rank() == 2 && cores.dim(1) == k * t && rows % N == 0, "core_product: cores ", cores.shape(), " of ", k, " × ", t, " and ", h.shape());
  const int64_t each = rows / N;               // rows that share a core
  Tensor y(h.shape().with_last(k));
  for (int64_t r = 0; r < rows; ++r) {
    const float *C = cores.data() + r / each * k * t, *from = h.data() + r * t;
    for (int64_t i = 0; i < k; ++i) {
      float total = 0;
      for (int64_t j = 0; j < t; ++j) total += C[i * t + j] * from[j];
      y.data()[r * k + i] = total;
    }
  }
  return on_backward(y, {cores, h}, [=, y = y.gradient()] {
    float *dC = cores.wants_grad() ? cores.grad() : nullptr, *dh = h.wants_grad() ? h.grad() : nullptr;
    const float* dy = y.grad();
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t core = r / each * k * t;
      for (int64_t i = 0; i < k; ++i)
        for (int64_t j = 0; j < t; ++j) {
          if (dC) dC[core + i * t + j] += dy[r * k + i] * h.data()[r * t + j];
          if (dh) dh[r * t + j] += dy[r * k + i] * cores.data()[core + i * t + j];
        }
    }
  });
}

Tensor prefix_mean(const Tensor& x, const Tensor& before, int64_t count) {
  require(x.rank() == 3 && (!before || before.shape() == Shape{x.dim(2)}), "prefix_mean: ", x.shape());
  const int64_t B = x.dim(0), T = x.dim(1), k = x.dim(2);
  Tensor y(x.shape());
  std::vector<float> sum(static_cast<size_t>(k));
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t i = 0; i < k; ++i) sum[size_t(i)] = before ? before.data()[i] : 0;
    for (int64_t t = 0; t < T; ++t)
      for (int64_t i = 0, at = (b * T + t) * k; i < k; ++i) y.data()[at + i] = (sum[size_t(i)] += x.data()[at + i]) / float(count + t + 1);
  }
  return on_backward(y, {x}, [=, x = x.gradient(), y = y.gradient()] {
    std::vector<float> later(static_cast<size_t>(k));
    for (int64_t b = 0; b < B; ++b) {
      std::fill(later.begin(), later.end(), 0.f);
      for (int64_t t = T - 1; t >= 0; --t)
        for (int64_t i = 0, at = (b * T + t) * k; i < k; ++i) x.grad()[at + i] += later[size_t(i)] += y.grad()[at + i] / float(count + t + 1);
    }
  });
}

std::shared_ptr<GeneratedCore> GeneratedCore::init(std::shared_ptr<const Kvt> kvt, int64_t layer, int64_t in, int64_t out, float scale, Rng& rng) {
  const float bound = 1 / std::sqrt(float(in));
  auto core = std::make_shared<GeneratedCore>();
  core->a = rand_uniform({kvt->config().columns, in}, rng, -bound, bound);
  core->b = Tensor::zeros({out, kvt->config().size});
  core->kvt = std::move(kvt);
  core->layer = layer;
  core->scale = scale;
  core->a.want_grad();
  core->b.want_grad();
  return core;
}

std::shared_ptr<Lora> GeneratedCore::folded() const {
  const KvtConfig& c = kvt->config();
  require(!c.per_token(), "kvt: cores that depend on the input cannot be folded into factors");
  const Tape::Pause pause;
  const Tensor core = kvt->cores(kvt->hidden({}), layer).view({c.size, c.columns});
  return std::make_shared<Lora>(a, matmul(b, core), scale);
}

// φ of this pass, for each row or for some that follow one another; none for the constant core
static const AdapterPass& pass_of(const Kvt& kvt, int64_t rows) {
  const AdapterPass& pass = AdapterPass::current();
  require(pass.maker == &kvt && bool(pass.made) == kvt.config().generated() && (!pass.made || rows % pass.made.dim(0) == 0), "kvt: the cores of this pass have not been made");
  return pass;
}

Tensor GeneratedCore::operator()(const Tensor& x, const Tensor& y) const {
  const int64_t rows = x.shape().leading().numel(), k = kvt->config().size;
  if (fast && !Tape::current()) return add_low_rank(y, x, *low_rank(rows)), y;
  const Tensor cores = kvt->cores(pass_of(*kvt, rows).made, layer);
  return y + linear(kvt::scale(core_product(cores, k, linear(x, a)), scale), b);
}

std::optional<LowRank> GeneratedCore::low_rank(int64_t rows) const {
  if (!fast) return std::nullopt;
  const AdapterPass& pass = pass_of(*kvt, rows);
  require(bool(pass.lanes), "kvt: the cores of this pass have not been made");
  return LowRank{.a = fast.a, .f = fast.f, .cores = {&fast.w, pass.lanes.data(), rows / (pass.made ? pass.made.dim(0) : 1)}, .scale = scale * fast.scale};
}

void GeneratedCore::freeze() {
  LowRankAdapter::freeze();
  add_core_weights(fast, kvt->core_weights(layer));
}

KvtLm::KvtLm(std::shared_ptr<CausalLm> model, std::shared_ptr<const Kvt> kvt) : model_(std::move(model)), kvt_(std::move(kvt)) {
  model_->each_parameter([&](const std::string& name, Parameter& p) { if (name == "token_embd.weight") embedding_ = p.tensor; });
  require(bool(embedding_), "kvt: the model has no token embedding");
}

Tensor KvtLm::hidden(std::span<const int32_t> ids, int64_t B, int64_t T, const Forward& options) const {
  KvtInput input{.embedding = {}, .causal = true, .cache = options.cache};
  if (kvt_->config().per_token()) {
    const Tape::Pause frozen;
    input.embedding = embedding(ids, {B, T}, embedding_);
  }
  const AdapterPass::Scope scope(kvt_->pass(input));
  return model_->hidden(ids, B, T, options);
}

KvCache KvtLm::make_cache(int64_t capacity, DType dtype, int64_t twins_from) const {
  KvCache cache = model_->make_cache(capacity, dtype, twins_from);
  if (kvt_->config().sentence_level) cache.keep_notes(kvt_->config().size);
  return cache;
}

}  // namespace kvt
