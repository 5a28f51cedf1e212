// The generated tables of engine/unicode_tables.cpp; engine/unicode.cpp alone reads them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace kvt::unicode {

struct LowerRun { uint32_t first, last; int32_t step, delta; };      // every step-th code point lower-cases to itself + delta
struct Decomposition { uint64_t code : 21, first : 21, second : 21; };   // canonical, one step; second may be 0

extern const uint32_t category_runs[];                               // first code point of a run << 5 | category
extern const size_t category_run_count;
extern const LowerRun lower_runs[];
extern const size_t lower_run_count;
extern const Decomposition decompositions[];
extern const size_t decomposition_count;

}  // namespace kvt::unicode
