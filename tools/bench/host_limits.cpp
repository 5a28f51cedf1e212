// What this processor can do at most, for tools/bench/peers.py: every rate of ours is put beside its limit, measured in the same run.
//
//   host_limits read MEGABYTES THREADS [SECONDS]    GB/s of reading a buffer of that size, again and again (1 GB = 10⁹ bytes)
//   host_limits fma THREADS [SECONDS]               GFLOP/s of F32 multiply-adds between registers; one counts as two
//   host_limits int8 THREADS [SECONDS]              the same in 10⁹ operations/s of 8-bit dot products (AVX-512 VNNI, SDOT), one multiply-add being two
//   host_limits amx-int8 | amx-bf16 THREADS [SECONDS]     and of the tile products of AMX
//
// Prints one number, the best of many short runs in SECONDS (default 1), or "none" where the processor lacks the instructions.
// Threads are bound to no core. The instructions stand in assembly, so that no compiler can improve them away.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "tools/bench/reading.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Work per second: every thread does run(thread), all begin together, the slowest counts; the best of what fits into `budget` seconds.
double best_rate(int threads, double work, double budget, const std::function<void(int)>& run) {
  double best = 0;
  const auto begin = Clock::now();
  do {
    std::barrier start(threads);
    std::vector<std::thread> others;
    std::vector<Clock::time_point> from(static_cast<size_t>(threads)), to(from);
    const auto one = [&](int i) {
      start.arrive_and_wait();
      from[size_t(i)] = Clock::now();
      run(i);
      to[size_t(i)] = Clock::now();
    };
    for (int i = 1; i < threads; ++i) others.emplace_back(one, i);
    one(0);
    for (std::thread& t : others) t.join();
    const double seconds = std::chrono::duration<double>(*std::max_element(to.begin(), to.end()) - *std::min_element(from.begin(), from.end())).count();
    best = std::max(best, work / seconds);
  } while (seconds_since(begin) < budget);
  return best;
}

// --- arithmetic between registers: 24 independent sums, more than latency times pipes of any core ---
//
// The loops are called by pointer alone, so no caller has anything in a vector register that they change.

struct Arithmetic {
  double operations;               // of one turn of the loop
  void (*loop)(long turns);        // null: this processor has no such instructions
};

#define REPEAT_24(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15) f(16) f(17) f(18) f(19) f(20) f(21) f(22) f(23)
#define REPEAT_12(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)

#if defined(__x86_64__)

// Registers are cleared first: sums of what was left there could be denormal, which is slow.
#define CLEAR(i) "vpxorq %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n"
#define FMA(i) "vfmadd231ps %%zmm24, %%zmm25, %%zmm" #i "\n"
#define VNNI(i) "vpdpbusd %%zmm24, %%zmm25, %%zmm" #i "\n"
#define ZMM_LOOP(operation)                                                                                      \
  asm volatile("vpxorq %%zmm24, %%zmm24, %%zmm24\nvpxorq %%zmm25, %%zmm25, %%zmm25\n" REPEAT_24(CLEAR)           \
               "1:\n" REPEAT_24(operation) "dec %0\njnz 1b\n" : "+r"(turns) : : "memory", "cc")
__attribute__((target("avx512f"))) void fma_avx512(long turns) { ZMM_LOOP(FMA); _mm256_zeroupper(); }
__attribute__((target("avx512f"))) void vnni_avx512(long turns) { ZMM_LOOP(VNNI); _mm256_zeroupper(); }

#define CLEAR_YMM(i) "vxorps %%ymm" #i ", %%ymm" #i ", %%ymm" #i "\n"
#define FMA_YMM(i) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #i "\n"
__attribute__((target("avx2"))) void fma_avx2(long turns) {
  asm volatile("vxorps %%ymm12, %%ymm12, %%ymm12\nvxorps %%ymm13, %%ymm13, %%ymm13\n" REPEAT_12(CLEAR_YMM)
               "1:\n" REPEAT_12(FMA_YMM) "dec %0\njnz 1b\n" : "+r"(turns) : : "memory", "cc");
  _mm256_zeroupper();
}

// AMX: eight tiles of 16 rows of 64 bytes, four of them sums, as a blocked product has them. Linux gives a process the tiles when asked.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
#define TILE_LOOP(instruction)                                                                                                       \
  const TileConfig config;                                                                                                           \
  asm volatile("ldtilecfg %1\n"                                                                                                      \
               "tilezero %%tmm0\ntilezero %%tmm1\ntilezero %%tmm2\ntilezero %%tmm3\n"                                                \
               "tilezero %%tmm4\ntilezero %%tmm5\ntilezero %%tmm6\ntilezero %%tmm7\n"                                                \
               "1:\n" instruction " %%tmm6, %%tmm4, %%tmm0\n" instruction " %%tmm7, %%tmm4, %%tmm1\n"                                \
               instruction " %%tmm6, %%tmm5, %%tmm2\n" instruction " %%tmm7, %%tmm5, %%tmm3\n"                                       \
               "dec %0\njnz 1b\ntilerelease\n" : "+r"(turns) : "m"(config) : "memory", "cc")
void amx_int8(long turns) { TILE_LOOP("tdpbssd"); }
void amx_bf16(long turns) { TILE_LOOP("tdpbf16ps"); }

bool has_leaf7(unsigned bit_of_edx) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> bit_of_edx & 1);
}
bool tiles_allowed() {
  constexpr long request_permission = 0x1023, tile_data = 18;      // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

Arithmetic arithmetic(const std::string& what) {
  const bool avx512 = __builtin_cpu_supports("avx512f"), avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (what == "fma") return avx512 ? Arithmetic{24. * 16 * 2, fma_avx512} : Arithmetic{12. * 8 * 2, avx2 ? fma_avx2 : nullptr};
  if (what == "int8") return {24. * 64 * 2, __builtin_cpu_supports("avx512vnni") ? vnni_avx512 : nullptr};
  if (what == "amx-int8") return {4. * 16 * 16 * 64 * 2, has_leaf7(25) && tiles_allowed() ? amx_int8 : nullptr};
  return {4. * 16 * 16 * 32 * 2, has_leaf7(22) && tiles_allowed() ? amx_bf16 : nullptr};
}

#elif defined(__aarch64__)

#define CLEAR(i) "movi v" #i ".4s, #0\n"
#define FMA(i) "fmla v" #i ".4s, v24.4s, v25.4s\n"
#define SDOT(i) ".inst 0x4e999700 + " #i "\n"      // sdot vi.4s, v24.16b, v25.16b: also for assemblers set to ARMv8.0
#define VECTOR_LOOP(operation)                                                                                                                  \
  asm volatile("movi v24.4s, #0\nmovi v25.4s, #0\n" REPEAT_24(CLEAR) "1:\n" REPEAT_24(operation) "subs %0, %0, #1\nb.ne 1b\n" : "+r"(turns) : : \
               "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19",  \
               "v20", "v21", "v22", "v23", "v24", "v25", "cc", "memory")
void fma_neon(long turns) { VECTOR_LOOP(FMA); }
void sdot(long turns) { VECTOR_LOOP(SDOT); }

Arithmetic arithmetic(const std::string& what) {
  constexpr unsigned long hwcap_asimddp = 1ul << 20;
  if (what == "fma") return {24. * 4 * 2, fma_neon};
  if (what == "int8") return {24. * 16 * 2, getauxval(AT_HWCAP) & hwcap_asimddp ? sdot : nullptr};
  return {1, nullptr};
}

#else
Arithmetic arithmetic(const std::string&) { return {1, nullptr}; }
#endif

// --- reading ---

double read_rate(size_t bytes, int threads, double budget) {
  // As weights lie at best: pages of 2 MB where the system gives them.
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  madvise(memory, bytes, MADV_HUGEPAGE);
  char* p = static_cast<char*>(memory);
  std::memset(p, 1, bytes);
  const size_t share = bytes / size_t(threads) / 64 * 64;
  std::atomic<uint64_t> sink = 0;
  double best = 0;
  for (const ReadForm& form : read_forms)
    best = std::max(best, best_rate(threads, double(share) * threads, budget / double(std::size(read_forms)),
                                    [&](int i) { sink |= read_all(p + size_t(i) * share, share, form); }));
  munmap(memory, bytes);
  return sink.load() ? best : 0;
}

double arithmetic_rate(const Arithmetic& a, int threads, double budget) {
  constexpr long turns = 100'000;        // about a millisecond: short beside what interrupts it
  return best_rate(threads, a.operations * double(turns) * threads, budget, [&](int) { a.loop(turns); });
}

void print(double rate) { rate > 0 ? std::printf("%.1f\n", rate / 1e9) : std::printf("none\n"); }

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const auto number = [&](int i, double otherwise) { return argc > i ? std::atof(argv[i]) : otherwise; };
  const bool read = what == "read";
  const int threads = int(number(read ? 3 : 2, 1));
  const double budget = number(read ? 4 : 3, 1), megabytes = number(2, 0);
  if ((!read && what != "fma" && what != "int8" && what != "amx-int8" && what != "amx-bf16") || threads < 1 || threads > 1024 || (read && megabytes < 1)) {
    std::fprintf(stderr, "usage: host_limits read MEGABYTES THREADS [SECONDS] | fma|int8|amx-int8|amx-bf16 THREADS [SECONDS]\n");
    return 2;
  }
  if (read) return print(read_rate(size_t(megabytes * 1e6), threads, budget)), 0;
  const Arithmetic a = arithmetic(what);
  print(a.loop ? arithmetic_rate(a, threads, budget) : 0);
}
