// Which kernels run: what the build has, what this CPU can do, and what KVT_KERNELS wishes (grammar: ops/kernels.h).
#include "ops/backends.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ops/cpu.h"
#include "ops/kernels.h"

namespace kvt {

static constexpr const char* isa_names[] = {"reference", "blocked", "sse2", "avx2", "avx512", "vnni", "bf16", "amx", "neon", "fp16", "dotprod", "i8mm", "blas"};

static_assert(std::size(isa_names) == size_t(Isa::blas) + 1);

const char* isa_name(Isa isa) { return isa_names[size_t(isa)]; }

static bool add_backends() {
  // OpenBLAS is behind our own products where their tiles have AVX-512: what it copies in each block, we pack faster.
#if defined(KVT_OPENBLAS)
#if defined(KVT_SIMD) && defined(__x86_64__)
  const bool own = cpu_has("avx512f") && cpu_has("avx512bw") && cpu_has("avx512vl") && cpu_has("avx512dq") && cpu_has("fma");
#else
  const bool own = false;
#endif
  if (own) add_blas_kernels();
  add_blocked_kernels();
  if (!own) add_blas_kernels();
#else
  add_blocked_kernels();
#endif
#if defined(KVT_SIMD) && defined(__x86_64__)
  const bool avx2 = cpu_has("avx2") && cpu_has("fma") && cpu_has("f16c");
  const bool avx512 = avx2 && cpu_has("avx512f") && cpu_has("avx512bw") && cpu_has("avx512vl") && cpu_has("avx512dq");
  add_sse2_kernels();
  if (avx2) add_avx2_kernels();
  if (avx512) add_avx512_kernels();
  if (avx512 && cpu_has("avx512vnni")) add_vnni_kernels();
  if (avx512 && cpu_has("avx512bf16")) add_bf16_kernels();
#if defined(KVT_AMX)
  if (avx512 && cpu_has("avx512bf16") && cpu_has("amx_bf16") && cpu_has("amx_int8")) add_amx_kernels();
#endif
#elif defined(KVT_SIMD) && defined(__aarch64__)
  add_neon_kernels();
  if (cpu_has("dotprod")) add_dotprod_kernels();
  if (cpu_has("dotprod") && cpu_has("i8mm")) add_i8mm_kernels();
#endif
  return true;
}

static std::string all_slots() {
  std::string text;
  for (const KernelInfo* k = KernelInfo::first; k; k = k->next) text += (text.empty() ? "" : ", ") + std::string(k->name);
  return text;
}

static std::string variants_of(const KernelInfo& k) {
  std::string text;
  for (int v = 0; v < k.variants(); ++v) text += (v ? ", " : "") + std::string(isa_name(k.isa(v)));
  return text;
}

// The ISA of that name if some slot has a variant of it.
static Isa find_isa(std::string_view name) {
  std::vector<bool> there(std::size(isa_names), false);
  for (const KernelInfo* k = KernelInfo::first; k; k = k->next)
    for (int v = 0; v < k->variants(); ++v) there[size_t(k->isa(v))] = true;
  std::string names;
  for (size_t i = 0; i < there.size(); ++i) {
    if (!there[i]) continue;
    if (name == isa_names[i]) return Isa(i);
    names += (names.empty() ? "" : ", ") + std::string(isa_names[i]);
  }
  fail("KVT_KERNELS: no kernels for '", name, "' in this build or on this CPU; there are: ", names);
}

static KernelInfo& find_slot(std::string_view name) {
  for (KernelInfo* k = KernelInfo::first; k; k = k->next)
    if (name == k->name) return *k;
  fail("KVT_KERNELS: no kernel named '", name, "'; there are: ", all_slots());
}

// Decides everything first and changes something last, so that a wish with a mistake changes nothing.
static void apply(std::string_view wish) {
  std::vector<std::pair<KernelInfo*, int>> choice;
  Isa cap = Isa::blas;
  while (!wish.empty()) {
    const size_t comma = std::min(wish.find(','), wish.size());
    const std::string_view item = wish.substr(0, comma);
    wish.remove_prefix(std::min(comma + 1, wish.size()));
    const size_t equals = item.find('=');
    if (equals == item.npos) {
      cap = find_isa(item);
      continue;
    }
    KernelInfo& slot = find_slot(item.substr(0, equals));
    const std::string_view isa = item.substr(equals + 1);
    int chosen = -1;
    for (int v = 0; v < slot.variants(); ++v)
      if (isa == isa_name(slot.isa(v))) chosen = v;
    require(chosen >= 0, "KVT_KERNELS: ", slot.name, " has no variant '", isa, "' in this build or on this CPU; there are: ", variants_of(slot));
    choice.emplace_back(&slot, chosen);
  }
  for (KernelInfo* k = KernelInfo::first; k; k = k->next)
    for (int v = 0; v < k->variants(); ++v)
      if (v == 0 || k->isa(v) <= cap) k->choose(v);
  for (const auto& [slot, variant] : choice) slot->choose(variant);
}

void load_backends() {
  static const bool added = add_backends();
  // A wish that fails is reported by every call until it is mended: nothing runs on kernels nobody asked for.
  static const bool chosen = [] {
    const char* wish = std::getenv("KVT_KERNELS");
    apply(wish ? wish : "");
    return true;
  }();
  (void)added, (void)chosen;
}

void choose_kernels(const char* wish) {
  load_backends();
  apply(wish);
}

}  // namespace kvt
