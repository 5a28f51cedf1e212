// What this CPU can do, of the features that some kernel asks for.
#pragma once
#include <string_view>
#include <vector>

namespace kvt {

// x86-64: sse2 avx2 fma f16c avx512f avx512bw avx512vl avx512dq avx512vnni avx512bf16, as /proc/cpuinfo spells them (the last two without their
// dash);
// aarch64: neon dotprod
const std::vector<std::string_view>& cpu_features();
bool cpu_has(std::string_view feature);

}  // namespace kvt
