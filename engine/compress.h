// Adapters in fewer numbers and fewer bytes.
//
//   rank    B A = U S Vᵀ,  to rank r:  B = U S, A = Vᵀ, the nearest of that rank (Eckart and Young 1936). All layers share one number of
//           stored numbers: directions go where they hold the most energy for each, s²/(in + out), and every layer keeps its first
//   type    A as Q8_0 and B, whose rows are too short for its blocks, as F16;  or both as F16
#pragma once
#include "engine/adapter.h"

namespace kvt {

// Makes the factors of `set` those of rank `mean` for a set of layers of one shape, and of as many numbers altogether for any; scales are
// folded into B (α = 0). Adapters whose rank is less already only change their form. Returns the share of the energy Σ ‖B A‖² that is kept.
double truncate(LoraSet& set, double mean);

// Rounds the factors to what adapter_file(…, type) stores.
void round_to(LoraSet& set, DType type);

}  // namespace kvt
