// A GGUF file taken apart without judgement, and put together again, for mutating it (and seeds): counts, lengths, offsets and padding
// follow from what is there, unless they are made to be wrong.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvt::fuzz {

struct RawGguf {
  struct Key { std::string name; uint32_t type; std::string value; };                  // value: the bytes behind the type
  struct Tensor { std::string name; std::vector<int64_t> ne; uint32_t type; std::string data; int64_t offset_error = 0; };

  uint32_t version = 3;
  uint64_t alignment = 32;
  int64_t key_count_error = 0, tensor_count_error = 0;
  std::vector<Key> keys;
  std::vector<Tensor> tensors;

  static std::optional<RawGguf> parse(std::string_view bytes);                         // none if it cannot be followed to its end
  std::string write() const;
};

enum : uint32_t { u8_type, i8_type, u16_type, i16_type, u32_type, i32_type, f32_type, bool_type, string_type, array_type, u64_type, i64_type, f64_type };
size_t scalar_bytes(uint32_t type);                                                    // 0 for strings, arrays and unknown types

// An array's value: its items, as bytes (of strings without their lengths).
struct RawArray {
  uint32_t type;
  std::vector<std::string> items;
  static std::optional<RawArray> parse(std::string_view value);
  std::string write() const;
};

// One random change of a kind that a byte is unlikely to make: values at the edges, keys and tensors dropped, doubled, renamed, resized.
void mutate(RawGguf& file, unsigned seed);
// Keys and tensors of `other` in some places.
void cross(RawGguf& file, const RawGguf& other, unsigned seed);

}  // namespace kvt::fuzz
