// The extents of a tensor, outermost axis first (row-major): [B, T, C] has C contiguous.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>

#include "tensor/error.h"

namespace kvt {

class Shape {
 public:
  static constexpr int max_rank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) { for (int64_t d : dims) push_back(d); }

  int rank() const { return rank_; }
  int64_t& operator[](int i) { return dims_[checked(i)]; }        // negative i counts from the end
  int64_t operator[](int i) const { return dims_[checked(i)]; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }

  void push_back(int64_t dim) {
    require(rank_ < max_rank, "shape: more than ", max_rank, " axes");
    require(dim >= 0, "shape: negative extent ", dim);
    dims_[rank_++] = dim;
  }

  // The number of elements. Throws when the product does not fit into 62 bits.
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t d : *this)
      require(!__builtin_mul_overflow(n, d, &n) && n <= (int64_t(1) << 62), "shape: ", *this, " has too many elements");
    return n;
  }

  // The same shape without its last axis / with another last axis.
  Shape leading() const { Shape s = *this; s.rank_ -= s.rank_ > 0; return s; }
  Shape with_last(int64_t dim) const { Shape s = leading(); s.push_back(dim); return s; }

  friend bool operator==(const Shape& a, const Shape& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

 private:
  int checked(int i) const {
    const int axis = i < 0 ? rank_ + i : i;
    require(axis >= 0 && axis < rank_, "shape: axis ", i, " of a tensor with ", rank_, " axes");
    return axis;
  }

  std::array<int64_t, max_rank> dims_{};
  int rank_ = 0;
};

void append(std::string& to, const Shape& s);         // "[2, 3]"

}  // namespace kvt
