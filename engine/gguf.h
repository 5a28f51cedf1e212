// GGUF, the container of llama.cpp's model files, read strictly (v2, v3) and written (v3).
//
//   "GGUF"  u32 version  i64 tensor count  i64 key count
//   keys:     string name, u32 value type, value            string = u64 length + bytes; array = u32 type, u64 count, items
//   tensors:  string name, u32 axes (1…4), i64 extents (innermost first), u32 dtype, u64 offset into the data
//   padding to `general.alignment` (32), then the tensors' data, each padded likewise; everything little-endian
//
// Spec: ggml-org/ggml docs/gguf.md. Shapes here are outermost first, as everywhere in this engine: GGUF's ne = [in, out] is [out, in].
// A file is not trusted: each length is bounded by the bytes that remain before anything is allocated, and an Error names
// file, key or tensor, and offset.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/variant.h"
#include "tensor/tensor.h"

namespace kvt {

using TensorMap = std::map<std::string, Tensor>;

class Gguf {
 public:
  // Value types in GGUF's numbering: u8 i8 u16 i16 u32 i32 f32 bool string array u64 i64 f64.
  using Value = Variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool, std::string,
                        std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>, std::vector<int16_t>,
                        std::vector<uint32_t>, std::vector<int32_t>, std::vector<float>, std::vector<bool>,
                        std::vector<std::string>, uint64_t, int64_t, double,
                        std::vector<uint64_t>, std::vector<int64_t>, std::vector<double>>;
  struct Key { std::string name; Value value; };
  struct Entry { std::string name; Tensor tensor; uint64_t offset; };     // offset: into the file

  static constexpr const char* alignment_key = "general.alignment";
  static constexpr uint64_t max_key_length = 65535, max_tensor_name = 63;     // bytes
  static bool valid_alignment(uint64_t bytes);                 // a power of two from 8 to 1 MiB

  Gguf() = default;                                            // empty, to be filled and written
  enum class Access { map, read };                             // memory-map the file, or copy it into memory
  static Gguf open(const std::string& path, Access access = Access::map);
  // `name` stands in errors for the path. Tensors share the bytes, which must lie at a multiple of 8.
  static Gguf parse(const Storage& bytes, const std::string& name);

  // The same without the tensors' data, of which nothing is read: they have names, shapes and types.
  static Gguf header(const std::string& path);
  static Gguf header(int fd, uint64_t offset, uint64_t size, const std::string& name);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  const std::vector<Key>& keys() const { return keys_; }               // in file order
  const std::vector<Entry>& tensors() const { return tensors_; }
  TensorMap tensor_map() const;                                         // shares the file's bytes, in handles of its own

  // --- typed look-up. All errors name file and key ---
  bool has(std::string_view key) const { return find(key) != nullptr; }
  const Value* find(std::string_view key) const;
  int64_t integer(std::string_view key) const;                          // any integer type; throws if absent or not an integer
  int64_t integer(std::string_view key, int64_t fallback) const;
  double real(std::string_view key) const;                              // f32, f64 or any integer
  double real(std::string_view key, double fallback) const;
  bool boolean(std::string_view key, bool fallback) const;
  const std::string& string(std::string_view key) const;
  std::string string(std::string_view key, std::string_view fallback) const;
  // T: std::string, float, int32_t … ; throws if absent or of other items
  template <class T> const std::vector<T>& array(std::string_view key) const;
  Tensor tensor(std::string_view name) const;                           // throws if absent
  Tensor find_tensor(std::string_view name) const;                      // no tensor if absent

  // --- building ---
  void set(std::string key, Value value);                               // replaces a key of that name
  void add(std::string name, const Tensor& tensor);                     // throws on a duplicate
  // Writes a new file beside `path`, syncs it, renames it onto `path`: an old file survives any failure.
  void write(const std::string& path) const;

  // Throws an Error naming tensor, block and value unless every float and every block scale is finite.
  void check_tensors() const;

 private:
  static Gguf parse(const Storage& bytes, uint64_t size, const std::string& name);
  [[noreturn]] void bad_key(std::string_view key, std::string_view why) const;

  std::string path_;
  uint32_t version_ = 3;
  uint64_t alignment_ = 32;
  std::vector<Key> keys_;
  std::vector<Entry> tensors_;
  std::unordered_map<std::string, size_t> key_index_, tensor_index_;
};

}  // namespace kvt
