// Numbers that no formula decides but the machine: sizes of blocks, sizes from which another way is faster. Each has a default, derived from the cache
// sizes where it has to do with them. `kvt tune` measures better ones, and engine/tuning.h reads its profile when a program starts.
//
//   extern Tunable query_block;                                   // here, by the topic
//   Tunable query_block("attention.query_block", "…", 16, 4096, [] { return …; });      // in ops/tuning.cpp
//   const int64_t step = tuning::query_block();
//
// Set before work begins, not beside it. What is computed does not depend on them but for rounding.
#pragma once
#include <cstdint>
#include <string_view>

namespace kvt {

class Tunable {
 public:
  using Default = int64_t();
  Tunable(const char* name, const char* meaning, int64_t least, int64_t most, Default* standard);
  Tunable(const Tunable&) = delete;
  Tunable& operator=(const Tunable&) = delete;

  const char *const name, *const meaning;
  const int64_t least, most;
  Tunable* const next;                                          // all of them: for (Tunable* t = Tunable::first; t; t = t->next)
  inline static Tunable* first = nullptr;

  int64_t operator()() const { return is_set_ ? value_ : standard(); }
  int64_t standard() const;                                     // the default
  bool is_set() const { return is_set_; }
  void set(int64_t value);                                      // throws an Error outside [least, most]
  void reset() { is_set_ = false; }

  static Tunable* find(std::string_view name);                  // null if there is none

 private:
  Default* const standard_;
  int64_t value_ = 0;
  bool is_set_ = false;
};

namespace tuning {

// attention (ops/attention.cpp)
extern Tunable query_block;      // queries of a job, over the heads that share one head of keys
extern Tunable key_block;        // keys that a panel of queries meets at once
extern Tunable panel_queries;    // queries that share a tile, in whole vectors and as many as the kernels take
extern Tunable gather_panels;    // panels from which the rows of a block are copied together
extern Tunable few_keys;         // the same for few queries (ops/attention_few.cpp)

// products (ops/matmul_kernels.cpp, ops/panel_product.cpp)
extern Tunable matmul_rows;      // of A in a block, mc
extern Tunable matmul_cols;      // of B in a block, nc
extern Tunable blas_products;    // multiplications from which OpenBLAS computes a product, where it is chosen (ops/blas/matmul.cpp)

}  // namespace tuning
}  // namespace kvt
