// What this CPU can do, of the features that some kernel asks for.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvt {

// x86-64: sse2 avx2 fma f16c avx512f avx512bw avx512vl avx512dq avx512vnni avx512bf16 amx_int8 amx_bf16, as /proc/cpuinfo spells them (without the
// dash of avx512_…);
// aarch64: neon dotprod i8mm
//
// amx_… are there when the processor has them, the system saves their registers, and Linux let this process use them: the first call asks for that
// (arch_prctl ARCH_REQ_XCOMP_PERM), for all threads. It costs nothing until a thread uses a tile; from then on its signal frames hold 8 KB more.
const std::vector<std::string_view>& cpu_features();
bool cpu_has(std::string_view feature);

// Bytes of the data caches that one core reads; where the system does not say, 32 KiB, 512 KiB and 0.
struct Caches { int64_t l1, l2, l3; };
const Caches& caches();

// The processor's name and what distinguishes it from relatives, such as "Intel(R) Xeon(R) Processor, 6-167-1"; "unknown" where the system does not say.
const std::string& cpu_name();

}  // namespace kvt
