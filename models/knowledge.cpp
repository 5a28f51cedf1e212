#include "models/knowledge.h"

#include <cmath>

namespace kvt {

KnowledgeConfig KnowledgeConfig::for_channels(int64_t channels) {
  const int64_t size = std::max<int64_t>(4, std::lround(std::sqrt(double(channels)) / 4));
  return {.channels = channels, .vectors = size, .size = size};
}

float KnowledgeConfig::keep() const { return std::min(0.5f, std::sqrt(float(size) / float(channels))); }

KnowledgeExtractor::KnowledgeExtractor(const KnowledgeConfig& c)
    : w_s(2 * c.channels, c.channels, true), norm(c.channels, 1e-5f), w_c(2 * c.channels, c.channels, true), w_g(3 * c.channels, c.channels),
      q_k(Shape{c.vectors, c.channels}), w_k(c.channels, c.size), config_(c) {
  require(c.channels >= 1 && c.vectors >= 1 && c.size >= 1, "knowledge: ", c.vectors, " vectors of size ", c.size, " from ", c.channels, " channels");
}

void KnowledgeExtractor::init(Rng& rng) {
  each<Parameter>(*this, [&](const std::string& name, Parameter& p) {
    const float bound = 1 / std::sqrt(float(p.shape[-1]));
    if (name == "q_k") p.tensor = randn(p.shape, rng);
    else if (p.shape.rank() == 2) p.tensor = rand_uniform(p.shape, rng, -bound, bound);
    else p.tensor = Tensor::filled(p.shape, name == "norm.weight" ? 1.f : 0.f);
    p.tensor.want_grad();
  });
}

Tensor sinusoids(int64_t tokens, int64_t channels) {
  Tensor pe({tokens, channels});
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < channels; ++c) {
      const double angle = double(t) / std::pow(10000.0, double(c - c % 2) / double(channels));
      pe.data()[t * channels + c] = float(c % 2 ? std::cos(angle) : std::sin(angle));
    }
  return pe;
}

static Tensor beside(std::initializer_list<Tensor> parts) { return concat(std::vector<Tensor>(parts), -1); }

// g where it is at least τ, else 0
static Tensor thresholded(const Tensor& g, float tau) {
  Tensor kept(g.shape());
  for (int64_t i = 0; i < g.size(); ++i) kept.data()[i] = g.data()[i] >= tau ? 1.f : 0.f;
  return g * kept;
}

KnowledgeExtractor::Features KnowledgeExtractor::features(const Tensor& h, const Tensor& mask) const {
  require(h.rank() == 2 && h.dim(1) == config_.channels && h.dim(0) >= 1, "knowledge: hidden states ", h.shape(), ", expected [T, ", config_.channels, "]");
  const int64_t T = h.dim(0), C = config_.channels;
  const Tensor pe = sinusoids(T, C), pooled = matmul(Tensor::filled({T, 1}, 1.f), mean(h, 0).view({1, C}));
  const Tensor z_s = norm(w_s(beside({h, pe})));
  const Tensor z_c = gelu(w_c(beside({pooled, pe})));
  const Tensor open = sigmoid(w_g(beside({h, z_s, z_c})));
  const Tensor g = mask ? open * mask : thresholded(open, config_.threshold);
  return {g * (z_s + z_c), g};
}

Tensor KnowledgeExtractor::sample_mask(int64_t tokens, Rng& rng) const {
  return dropout(Tensor::filled({tokens, config_.channels}, 1.f), 1 - config_.keep(), rng);
}

Tensor KnowledgeExtractor::knowledge(const Tensor& f) const {
  const int64_t C = config_.channels;
  const Tensor rows = f.view({f.size() / C, C});
  const Tensor share = softmax(scale(matmul(q_k, rows, false, true), 1 / std::sqrt(float(C))));      // [m, T]
  return w_k(matmul(share, rows));
}

}  // namespace kvt
