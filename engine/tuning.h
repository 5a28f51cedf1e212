// The profile of a machine: the tunables (ops/tuning.h) that `kvt tune` measured there, as JSON.
//
//   {"format": 1, "version": "0.1.0", "cpu": "…, 6-143-8", "kernels": "avx512", "tunables": {"attention.key_block": 128, …}}
//
// It holds for the same processor, the same version and the same kernels alone.
#pragma once
#include <string>

namespace kvt {

// $KVT_TUNING; else kvt/tuning.json in $XDG_CACHE_HOME or ~/.cache. Empty for KVT_TUNING=off, or where there is no home.
std::string tuning_path();

// Sets the tunables that the profile at `path` names. Returns "", or, if it was measured on something else or cannot be read, why it is ignored:
// then every tunable stays what it was. No file there is no fault unless KVT_TUNING names it.
std::string load_tuning(const std::string& path, const std::string& version);

// Writes the tunables that are set; makes the folder of a profile at the default place. Throws an Error naming the path.
void save_tuning(const std::string& path, const std::string& version);

}  // namespace kvt
