#include "ops/tuning.h"

#include <algorithm>

#include "ops/cpu.h"
#include "ops/kernels.h"

namespace kvt {

Tunable::Tunable(const char* n, const char* m, int64_t l, int64_t u, Default* standard) : name(n), meaning(m), least(l), most(u), next(first), standard_(standard) {
  first = this;
}

int64_t Tunable::standard() const { return std::clamp(standard_(), least, most); }

void Tunable::set(int64_t value) {
  require(value >= least && value <= most, "tuning: ", name, " is ", value, ", expected ", least, " to ", most);
  value_ = value;
  is_set_ = true;
}

Tunable* Tunable::find(std::string_view name) {
  for (Tunable* t = first; t; t = t->next)
    if (name == t->name) return t;
  return nullptr;
}

namespace tuning {

// Queries and outputs of heads of 64 numbers take a tenth of the L2 cache.
Tunable query_block("attention.query_block", "queries that meet a block of keys while it is in the cache", 8, 1 << 14,
                    [] { return std::clamp<int64_t>(caches().l2 / 10 / (2 * 64 * int64_t(sizeof(float))) / 48 * 48, 96, 384); });
Tunable key_block("attention.key_block", "keys that a panel of queries meets at once", 8, 1 << 14, [] { return int64_t(kernel::attention_scores.best().traits.block); });
Tunable panel_queries("attention.panel_queries", "queries whose scores are computed side by side", 4, 48, [] { return int64_t(kernel::attention_scores.best().traits.most); });
// Rows kilobytes apart share few sets of the L1 cache. On ARM the tiles load them long before they use them, and in modelled cycles copies do not pay.
#if defined(__aarch64__)
constexpr int64_t gather_from = 1 << 20;
#else
constexpr int64_t gather_from = 3;
#endif
Tunable gather_panels("attention.gather_panels", "panels of queries from which a block of keys and values is copied together", 1, 1 << 20, [] { return gather_from; });
Tunable few_keys("attention.few_keys", "keys that few queries meet at once", 16, 256, [] { return int64_t{64}; });

// Panels of A and of B in the L2 cache: some hundred KB
Tunable matmul_rows("matmul.rows", "rows of A in a block of a product", 16, 4096, [] { return int64_t{192}; });
Tunable matmul_cols("matmul.columns", "columns of B in a block of a product", 64, 1 << 14, [] { return int64_t{512}; });
Tunable blas_products("matmul.blas", "multiplications from which OpenBLAS computes a product", 1, int64_t{1} << 40, [] { return int64_t{64 * 64 * 64}; });

}  // namespace tuning
}  // namespace kvt
