// Element types. The numbers are those of GGUF's tensor infos, so a file's type id is a DType once it was checked.
//
// Quantized types store `block` consecutive elements of a row in `block_bytes` bytes; ops/quant.h draws each block.
#pragma once
#include <cstdint>
#include <string>

namespace kvt {

enum class DType : uint32_t {
  F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8,
  Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, IQ4_NL = 20,
  I8 = 24, I16 = 25, I32 = 26, I64 = 27, F64 = 28, BF16 = 30,
};

struct DTypeInfo {
  DType type;
  const char* name;   // as in GGUF file names and llama.cpp: "Q4_K"
  int block;          // elements per block; 1 for plain types
  int block_bytes;
};

const DTypeInfo* find_dtype(uint32_t gguf_id);        // nullptr for an id this engine does not know
const DTypeInfo* find_dtype(const char* name);        // any case: "q4_1"; nullptr if unknown
const DTypeInfo& info(DType type);

// Bytes of `elements` consecutive elements. Throws unless they fill whole blocks, and on overflow.
int64_t byte_size(DType type, int64_t elements);

inline bool is_float(DType t) { return t == DType::F32 || t == DType::F16 || t == DType::BF16; }
inline bool is_quantized(DType t) { return info(t).block > 1; }
inline void append(std::string& to, DType t) { to += info(t).name; }

}  // namespace kvt
