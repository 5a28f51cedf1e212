#include "tensor/dtype.h"

#include <strings.h>

#include "tensor/error.h"

namespace kvt {

static constexpr DTypeInfo table[] = {
    {DType::F32, "F32", 1, 4},       {DType::F16, "F16", 1, 2},       {DType::BF16, "BF16", 1, 2},
    {DType::Q4_0, "Q4_0", 32, 18},   {DType::Q4_1, "Q4_1", 32, 20},   {DType::Q5_0, "Q5_0", 32, 22},
    {DType::Q5_1, "Q5_1", 32, 24},   {DType::Q8_0, "Q8_0", 32, 34},   {DType::Q2_K, "Q2_K", 256, 84},
    {DType::Q3_K, "Q3_K", 256, 110}, {DType::Q4_K, "Q4_K", 256, 144}, {DType::Q5_K, "Q5_K", 256, 176},
    {DType::Q6_K, "Q6_K", 256, 210}, {DType::IQ4_NL, "IQ4_NL", 32, 18},
    {DType::I8, "I8", 1, 1},         {DType::I16, "I16", 1, 2},       {DType::I32, "I32", 1, 4},
    {DType::I64, "I64", 1, 8},       {DType::F64, "F64", 1, 8},
};

const DTypeInfo* find_dtype(uint32_t gguf_id) {
  for (const DTypeInfo& t : table)
    if (uint32_t(t.type) == gguf_id) return &t;
  return nullptr;
}

const DTypeInfo* find_dtype(const char* name) {
  for (const DTypeInfo& t : table)
    if (strcasecmp(t.name, name) == 0) return &t;
  return nullptr;
}

const DTypeInfo& info(DType type) {
  const DTypeInfo* found = find_dtype(uint32_t(type));
  require(found, "dtype: unknown type id ", uint32_t(type));
  return *found;
}

int64_t byte_size(DType type, int64_t elements) {
  const DTypeInfo& t = info(type);
  int64_t bytes = 0;
  require(elements >= 0 && elements % t.block == 0, "dtype: ", elements, " elements do not fill whole ", t.name, " blocks of ", t.block);
  require(!__builtin_mul_overflow(elements / t.block, int64_t(t.block_bytes), &bytes), "dtype: ", elements, " elements of ", t.name, " overflow");
  return bytes;
}

}  // namespace kvt
