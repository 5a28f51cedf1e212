// Spherical k-means (Dhillon and Modha 2001): clusters of directions, by the cosine.
//
//   assign   a_i = argmax_j x̂_i · c_j,   x̂ = x/|x|
//   update   c_j = Σ_{a_i = j} x̂_i / |Σ …|          until no assignment changes
//
// The first centres are drawn as k-means++ does (Arthur and Vassilvitskii 2007), with 1 − cosine as squared distance.
#pragma once
#include "tensor/tensor.h"

namespace kvt {

struct Clusters {
  Tensor centres;                        // [k, C], unit length
  std::vector<int32_t> assignment;       // of each point; −1 for a point of length 0, which has no direction
  std::vector<int64_t> sizes;            // [k]; the largest cluster first
  double cosine = 0;                     // mean over points, to their own centre
  int64_t iterations = 0;
};

// points [N, C]. Fewer than k clusters if there are fewer different directions. Throws an Error for k < 1 or if no point has a direction.
Clusters spherical_kmeans(const Tensor& points, int64_t k, uint64_t seed, int64_t iterations = 100);

}  // namespace kvt
