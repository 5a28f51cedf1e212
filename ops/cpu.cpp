#include "ops/cpu.h"

#include <algorithm>
#include <fstream>
#include <map>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace kvt {

#if defined(__x86_64__)
// CPUID leaf 1, ECX bit 29; clang below 17 does not know the name for __builtin_cpu_supports.
static bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

// CPUID leaf 7.1, EAX bit 5; clang 14 does not know that name either.
static bool has_avx512bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}

// The features of CPUID leaf 7 that need tiles, if this process may use tiles (Intel SDM vol. 1, 13.3 and 18; Linux Documentation/arch/x86/xstate.rst).
struct Amx { bool int8 = false, bf16 = false; };
static Amx find_amx() {
#if defined(__linux__)
  constexpr unsigned osxsave = 1u << 27, bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25;
  constexpr unsigned tile_state = 1u << 17 | 1u << 18;              // XCR0: configuration and data
  constexpr long ask_permission = 0x1023, tile_data = 18;           // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & osxsave)) return {};
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & tile)) return {};
  const unsigned has = d;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  if ((a & tile_state) != tile_state || syscall(SYS_arch_prctl, ask_permission, tile_data) != 0) return {};
  return {.int8 = (has & int8) != 0, .bf16 = (has & bf16) != 0};
#else
  return {};
#endif
}
#endif

static std::vector<std::string_view> find_features() {
  std::vector<std::string_view> there;
  [[maybe_unused]] const auto add = [&](const char* name, bool has) { if (has) there.push_back(name); };
#if defined(__x86_64__)
  add("sse2", __builtin_cpu_supports("sse2"));
  add("avx2", __builtin_cpu_supports("avx2"));
  add("fma", __builtin_cpu_supports("fma"));
  add("f16c", has_f16c());
  add("avx512f", __builtin_cpu_supports("avx512f"));
  add("avx512bw", __builtin_cpu_supports("avx512bw"));
  add("avx512vl", __builtin_cpu_supports("avx512vl"));
  add("avx512dq", __builtin_cpu_supports("avx512dq"));
  add("avx512vnni", __builtin_cpu_supports("avx512vnni"));
  add("avx512bf16", has_avx512bf16());
  const Amx amx = find_amx();
  add("amx_int8", amx.int8);
  add("amx_bf16", amx.bf16);
#elif defined(__aarch64__)
  add("neon", true);
#if defined(__linux__)
  constexpr unsigned long hwcap_asimddp = 1ul << 20;      // of the kernel's ABI; older C libraries do not name it
  constexpr unsigned long hwcap2_i8mm = 1ul << 13;
  add("dotprod", getauxval(AT_HWCAP) & hwcap_asimddp);
  add("i8mm", getauxval(AT_HWCAP2) & hwcap2_i8mm);
#endif
#endif
  return there;
}

const std::vector<std::string_view>& cpu_features() {
  static const std::vector<std::string_view> features = find_features();
  return features;
}

bool cpu_has(std::string_view feature) {
  const auto& all = cpu_features();
  return std::find(all.begin(), all.end(), feature) != all.end();
}

// /sys/devices/system/cpu/cpu0/cache/index*: level, type, size ("48K")
static Caches find_caches() {
  Caches found{32 << 10, 512 << 10, 0};
  for (int i = 0; i < 8; ++i) {
    const auto read = [i](const char* what) {
      std::string text;
      std::ifstream("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/" + what) >> text;
      return text;
    };
    const std::string level = read("level"), type = read("type"), size = read("size");
    int64_t bytes = 0;
    for (const char c : size) {
      if (c >= '0' && c <= '9' && bytes < (int64_t{1} << 40)) bytes = bytes * 10 + (c - '0');
      else bytes <<= c == 'K' ? 10 : c == 'M' ? 20 : 0;
    }
    if (bytes == 0 || type == "Instruction") continue;
    if (level == "1") found.l1 = bytes;
    if (level == "2") found.l2 = bytes;
    if (level == "3") found.l3 = bytes;
  }
  return found;
}

const Caches& caches() {
  static const Caches found = find_caches();
  return found;
}

// /proc/cpuinfo of the first core: "key : value" lines up to an empty one
static std::string find_name() {
  std::map<std::string, std::string> said;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const size_t colon = line.find(':');
    if (colon == line.npos) continue;
    const size_t key = line.find_last_not_of(" \t", colon - 1) + 1, value = line.find_first_not_of(" \t", colon + 1);
    said[line.substr(0, key)] = value == line.npos ? "" : line.substr(value);
  }
  std::string name = said["model name"], numbers;
  for (const char* key : {"cpu family", "model", "stepping", "CPU implementer", "CPU variant", "CPU part", "CPU revision"})
    if (said.count(key)) numbers += (numbers.empty() ? "" : "-") + said[key];
  name += (name.empty() || numbers.empty() ? "" : ", ") + numbers;
  return name.empty() ? "unknown" : name;
}

const std::string& cpu_name() {
  static const std::string name = find_name();
  return name;
}

}  // namespace kvt
