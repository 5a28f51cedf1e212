// The kernels of one x86 instruction set: the files of this folder, compiled for it.
#include "ops/backends.h"
#include "ops/simd/vec.h"

#define KVT_JOIN(a, b, c) a##b##c
#define KVT_ADD_KERNELS(isa) KVT_JOIN(add_, isa, _kernels)

namespace kvt {

void KVT_ADD_KERNELS(ISA)() {
#if defined(__AMX_BF16__)
  ISA::add_products_amx();
#elif defined(__AVX512BF16__)
  ISA::add_interleaved_pairs();
  ISA::add_products_bf16();
#elif defined(__AVX512VNNI__)
  ISA::add_interleaved_dots();
  ISA::add_quants();
#else
  ISA::add_attention();
  ISA::add_dots();
  ISA::add_maps();
  ISA::add_norms();
  ISA::add_products();
  ISA::add_softmax();
  ISA::add_unpacks();
#if defined(__AVX2__) && !defined(__AVX512F__)      // blocks of 32 fill these vectors; wider ones add nothing
  ISA::add_blocks();
  ISA::add_quants();
#endif
#endif
}

}  // namespace kvt
