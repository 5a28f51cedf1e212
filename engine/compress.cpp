#include "engine/compress.h"

#include <algorithm>
#include <tuple>

#include "ops/quant.h"
#include "ops/svd.h"
#include "tensor/parallel.h"

namespace kvt {

namespace {

Tensor transposed(const Tensor& x) { return permute(x, {1, 0}); }

// B = Q_b R_b, Aᵀ = Q_a R_a:   B A = Q_b (R_b R_aᵀ) Q_aᵀ,  whose middle is r × r. A side that is shorter than r is taken as it is.
Svd product_svd(const Tensor& b, const Tensor& a) {
  const auto tall = [](const Tensor& x) { return x.dim(0) >= x.dim(1); };
  const Tensor at = transposed(a);
  const Qr left = tall(b) ? qr(b) : Qr{{}, b}, right = tall(at) ? qr(at) : Qr{{}, at};
  Svd x = svd(matmul(left.r, right.r, false, true));
  if (left.q) x.u = matmul(left.q, x.u);
  if (right.q) x.v = matmul(right.q, x.v);
  return x;
}

}  // namespace

double truncate(LoraSet& set, double mean) {
  require(mean >= 1, "adapter: a mean rank of ", mean, ", expected 1 or more");
  const Tape::Pause pause;
  std::vector<Svd> products(set.layers.size());
  parallel_for(int64_t(set.layers.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Lora& lora = *set.layers[size_t(i)].lora;
      products[size_t(i)] = product_svd(scale(lora.b, lora.scale), lora.a);
    }
  });
  struct Direction { double worth; size_t layer; int64_t numbers; };
  std::vector<Direction> rest;                   // but the first of each layer
  std::vector<int64_t> ranks(products.size(), 1);
  double room = 0, all = 0, kept = 0;
  const auto energy = [&](size_t i, int64_t j) { return double(products[i].s.data()[j]) * double(products[i].s.data()[j]); };
  for (size_t i = 0; i < products.size(); ++i) {
    const int64_t numbers = products[i].u.dim(0) + products[i].v.dim(0);
    room += (mean - 1) * double(numbers);
    for (int64_t j = 0; j < products[i].rank(); ++j) {
      all += energy(i, j);
      if (j > 0 && energy(i, j) > 0) rest.push_back({energy(i, j) / double(numbers), i, numbers});
    }
  }
  std::stable_sort(rest.begin(), rest.end(), [](const Direction& a, const Direction& b) { return a.worth > b.worth; });
  for (const Direction& d : rest) {              // of one layer they come in falling order
    if (room < double(d.numbers)) break;
    room -= double(d.numbers);
    ++ranks[d.layer];
  }
  set.alpha = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    const Svd x = products[i].leading(ranks[i]);
    for (int64_t j = 0; j < x.rank(); ++j) kept += energy(i, j);
    Lora& lora = *set.layers[i].lora;
    std::tie(lora.a, lora.b, lora.scale) = std::tuple(transposed(x.v), x.u * x.s, 1.f);
  }
  return all > 0 ? kept / all : 1;
}

void round_to(LoraSet& set, DType type) {
  for (const auto& layer : set.layers)
    for (Tensor* factor : {&layer.lora->a, &layer.lora->b})
      if (const DType stored = factor_type(*factor, type); stored != DType::F32) *factor = unpack(pack(*factor, stored));
}

}  // namespace kvt
