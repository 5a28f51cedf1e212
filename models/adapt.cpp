#include "models/adapt.h"

#include <cmath>

#include "ops/quant.h"

namespace kvt {

std::shared_ptr<Lora> Lora::init(int64_t in, int64_t out, int64_t rank, float alpha, Rng& rng) {
  require(rank >= 1 && rank <= std::min(in, out), "lora: rank ", rank, " does not fit a layer of ", out, " × ", in);
  const float bound = 1 / std::sqrt(float(in));
  auto lora = std::make_shared<Lora>(rand_uniform({rank, in}, rng, -bound, bound), Tensor::zeros({out, rank}), alpha / float(rank));
  lora->a.want_grad();
  lora->b.want_grad();
  return lora;
}

// s where it is cheapest: on r numbers a token
Tensor Lora::operator()(const Tensor& x, const Tensor& y) const { return y + linear(kvt::scale(linear(x, a), scale), b); }

Tensor merged(const Tensor& w, const Lora& lora) {
  const Tape::Pause pause;
  return unpack(w) + scale(matmul(lora.b, lora.a), lora.scale);
}

}  // namespace kvt
