// safetensors, the container of most published weights, read strictly and written.
//
//   u64 n    n bytes of JSON, padded with spaces    data
//
//   {"__metadata__": {"format": "pt", …},                    strings to strings, optional
//    "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …}      offsets into the data, row-major little-endian
//
// Format: huggingface/safetensors README. A file is not trusted: the header has at most 100 MB, the tensors fill the data without
// gap or overlap, each has exactly the bytes of its shape; an Error names file, tensor and offset.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace kvt {

class Safetensors {
 public:
  struct Entry {
    std::string name, type;       // type as in the file: BOOL U8 I8 U16 I16 U32 I32 U64 I64 F16 BF16 F32 F64
    Shape shape;
    Storage bytes;
    uint64_t offset;              // into the file
  };

  static constexpr uint64_t max_header = 100'000'000;      // bytes

  Safetensors() = default;                                 // empty, to be filled and written
  static Safetensors open(const std::string& path);        // memory-mapped
  static Safetensors parse(const Storage& bytes, const std::string& name);       // `name` stands in errors for the path

  const std::string& path() const { return path_; }
  const std::vector<Entry>& entries() const { return entries_; }               // in the order of their bytes
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  const Entry* find(std::string_view name) const;
  // A tensor of one of this engine's types, sharing the bytes where they lie aligned. Throws if it is absent, or of another type.
  Tensor tensor(std::string_view name) const;

  void set_metadata(const std::string& name, std::string value) { metadata_[name] = std::move(value); }
  void add(const std::string& name, const Tensor& tensor);                     // a plain type; throws on a duplicate
  void write(const std::string& path) const;                                   // whole or not at all

 private:
  std::string path_;
  std::vector<Entry> entries_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace kvt
