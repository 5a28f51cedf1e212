// Token sequences of different lengths as rows of one length.
#pragma once
#include <algorithm>

#include "ops/ops.h"

namespace kvt {

struct Rows {
  int64_t T = 0;                        // the longest
  Ids ids;                              // [rows, T], filled up
  std::vector<int32_t> lengths;         // of each row
};

inline Rows fill_rows(std::span<const Ids* const> sequences, int32_t filling) {
  Rows r;
  for (const Ids* s : sequences) {
    r.lengths.push_back(int32_t(s->size()));
    r.T = std::max(r.T, int64_t(s->size()));
  }
  for (const Ids* s : sequences) {
    r.ids.insert(r.ids.end(), s->begin(), s->end());
    r.ids.insert(r.ids.end(), size_t(r.T) - s->size(), filling);
  }
  return r;
}

}  // namespace kvt
