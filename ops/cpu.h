// What this CPU can do, of the features that some kernel asks for.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvt {

// x86-64: sse2 avx2 fma f16c avx512f avx512bw avx512vl avx512dq avx512vnni avx512bf16, as /proc/cpuinfo spells them (the last two without their
// dash);
// aarch64: neon dotprod
const std::vector<std::string_view>& cpu_features();
bool cpu_has(std::string_view feature);

// Bytes of the data caches that one core reads; where the system does not say, 32 KiB, 512 KiB and 0.
struct Caches { int64_t l1, l2, l3; };
const Caches& caches();

// The processor's name and what distinguishes it from relatives, such as "Intel(R) Xeon(R) Processor, 6-167-1"; "unknown" where the system does not say.
const std::string& cpu_name();

}  // namespace kvt
