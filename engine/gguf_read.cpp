// Reads GGUF without trust. One cursor does all reading, so that one place checks every length against the bytes that remain.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "engine/gguf.h"

namespace kvt {

namespace {

constexpr uint64_t min_key_record = 8 + 1 + 4 + 1, min_tensor_record = 8 + 1 + 4 + 8 + 4 + 8;     // names of one byte

// A name as errors show it: short, and without bytes that a terminal would obey.
std::string quoted(std::string_view name) {
  constexpr size_t longest = 80;
  std::string out = "'";
  for (const char c : name.substr(0, longest)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return out + (name.size() > longest ? "…'" : "'");
}

struct EndOfPart {};                   // the header goes on behind the bytes at hand

// Reads `bytes`, which are the file or its beginning: `size` bytes has the whole.
class Cursor {
 public:
  Cursor(const Storage& bytes, uint64_t size, const std::string& file) : bytes_(bytes), size_(size), file_(file) {}

  std::string what = "header";          // what is being read, for errors

  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const { fail("'", file_, "': ", what, ": ", parts..., " (at offset ", at_, ")"); }
  template <class... Parts>
  void expect(bool ok, const Parts&... parts) const { if (!ok) refuse(parts...); }

  uint64_t offset() const { return at_; }
  uint64_t remaining() const { return size_ - at_; }

  template <class T>
  T number() {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  bool boolean() {
    const uint8_t byte = *reinterpret_cast<const uint8_t*>(take(1));
    expect(byte <= 1, "a boolean of value ", int(byte));
    return byte == 1;
  }
  std::string string() { return text(number<uint64_t>()); }
  std::string name(const char* kind, uint64_t longest) {
    const uint64_t length = number<uint64_t>();
    expect(length >= 1 && length <= longest, "a ", kind, " name of ", length, " bytes; expected 1 to ", longest);
    return text(length);
  }
  // The number of things that take at least `smallest` bytes each
  uint64_t count(const char* things, uint64_t smallest) {
    const uint64_t n = number<uint64_t>();
    expect(n <= remaining() / smallest, n, " ", things, " in the ", remaining(), " bytes that remain");
    return n;
  }
  const std::byte* take(uint64_t n) {
    expect(n <= remaining(), n, " bytes needed, ", remaining(), " remain: the file is truncated or damaged");
    if (n > bytes_.size() - at_) throw EndOfPart();
    const std::byte* p = bytes_.data() + at_;
    at_ += n;
    return p;
  }

 private:
  std::string text(uint64_t length) {
    const char* p = reinterpret_cast<const char*>(take(length));
    return {p, p + length};
  }

  const Storage& bytes_;
  uint64_t size_;
  const std::string& file_;
  uint64_t at_ = 0;
};

template <class T>
Gguf::Value read_array(Cursor& in) {
  if constexpr (std::is_same_v<T, std::string>) {
    std::vector<std::string> items;
    for (uint64_t n = in.count("strings", 8); n > 0; --n) items.push_back(in.string());     // grows with what is really there
    return items;
  } else if constexpr (std::is_same_v<T, bool>) {
    std::vector<bool> items(in.count("booleans", 1));
    for (auto item : items) item = in.boolean();
    return items;
  } else {
    const uint64_t n = in.count("numbers", sizeof(T));
    const std::byte* p = in.take(n * sizeof(T));
    std::vector<T> items(n);
    if (n > 0) std::memcpy(items.data(), p, n * sizeof(T));
    return items;
  }
}

template <class T>
Gguf::Value read_scalar(Cursor& in) {
  if constexpr (std::is_same_v<T, std::string>) return in.string();
  else if constexpr (std::is_same_v<T, bool>) return in.boolean();
  else return in.number<T>();
}

constexpr uint32_t array_type = 9;

// The value types in GGUF's numbering; `is_array` says that these are an array's items.
Gguf::Value read_value(Cursor& in, uint32_t type, bool is_array = false) {
  const auto read = [&]<class T>(T) { return is_array ? read_array<T>(in) : read_scalar<T>(in); };
  switch (type) {
    case 0: return read(uint8_t());
    case 1: return read(int8_t());
    case 2: return read(uint16_t());
    case 3: return read(int16_t());
    case 4: return read(uint32_t());
    case 5: return read(int32_t());
    case 6: return read(float());
    case 7: return read(bool());
    case 8: return read(std::string());
    case array_type:
      in.expect(!is_array, "an array of arrays");
      return read_value(in, in.number<uint32_t>(), true);
    case 10: return read(uint64_t());
    case 11: return read(int64_t());
    case 12: return read(double());
    default: in.refuse("unknown value type ", type);
  }
}

uint32_t read_version(Cursor& in) {
  char magic[5] = {};
  std::memcpy(magic, in.take(4), 4);
  in.expect(std::strcmp(magic, "GGUF") == 0, "no GGUF file: it begins with ", quoted(magic));
  const uint32_t version = in.number<uint32_t>();
  in.expect(version != 1, "GGUF version 1; convert the model again, versions 2 and 3 are read");
  in.expect(version == 0 || (version & 0xffff) != 0, "version ", version, ": is this a big-endian file? Only little-endian files are read");
  in.expect(version == 2 || version == 3, "GGUF version ", version, "; versions 2 and 3 are read");
  return version;
}

struct TensorRecord {
  std::string name;
  Shape shape;
  DType type;
  uint64_t offset, bytes;           // offset into the data
};

// `data_end` is where the tensors so far end, padded: where this one must begin.
TensorRecord read_tensor_record(Cursor& in, uint64_t data_end) {
  TensorRecord r;
  r.name = in.name("tensor", Gguf::max_tensor_name);
  in.what = "tensor " + quoted(r.name);
  const uint32_t axes = in.number<uint32_t>();
  in.expect(axes >= 1 && axes <= 4, axes, " axes; expected 1 to 4");
  int64_t ne[4], numbers = 1;
  for (uint32_t i = 0; i < axes; ++i) {
    ne[i] = in.number<int64_t>();
    in.expect(ne[i] > 0, "extent ", ne[i]);
    in.expect(!__builtin_mul_overflow(numbers, ne[i], &numbers) && numbers <= int64_t(1) << 62, "more than 2^62 elements");
  }
  for (uint32_t i = axes; i-- > 0;) r.shape.push_back(ne[i]);

  const uint32_t type_id = in.number<uint32_t>();
  const DTypeInfo* type = find_dtype(type_id);
  in.expect(type, "unknown type ", type_id);
  in.expect(ne[0] % type->block == 0, "rows of ", ne[0], " elements do not fill ", type->name, " blocks of ", type->block);
  r.type = type->type;
  in.expect(!__builtin_mul_overflow(uint64_t(numbers / type->block), uint64_t(type->block_bytes), &r.bytes), "more than 2^64 bytes");

  r.offset = in.number<uint64_t>();
  in.expect(r.offset == data_end, "data at ", r.offset, "; expected at ", data_end, ", after the tensor before it");
  return r;
}

}  // namespace

bool Gguf::valid_alignment(uint64_t a) { return a >= 8 && a <= (1 << 20) && (a & (a - 1)) == 0; }

Gguf Gguf::open(const std::string& path, Access access) {
  return parse(access == Access::map ? Storage::map_file(path) : Storage::read_file(path), path);
}

Gguf Gguf::parse(const Storage& bytes, const std::string& name) { return parse(bytes, bytes.size(), name); }

Gguf Gguf::header(const std::string& path) {
  const File file(path);
  return header(file.fd, 0, file.size, path);
}

// Larger parts until all of the header is there; data is never read.
Gguf Gguf::header(int fd, uint64_t offset, uint64_t size, const std::string& name) {
  for (uint64_t part = 1 << 18;; part *= 4) {
    const Storage bytes = Storage::read(fd, offset, std::min(part, size), name);
    try {
      return parse(bytes, size, name);
    } catch (const EndOfPart&) {
    }
  }
}

Gguf Gguf::parse(const Storage& bytes, uint64_t size, const std::string& name) {
  Gguf g;
  g.path_ = name;
  require(reinterpret_cast<uintptr_t>(bytes.data()) % 8 == 0, "'", name, "': the bytes do not lie at a multiple of 8");
  Cursor in(bytes, size, g.path_);
  g.version_ = read_version(in);
  // The keys' count follows the tensors'; both are bounded before anything is read by them.
  const uint64_t tensor_count = in.count("tensors", min_tensor_record), key_count = in.count("keys", min_key_record);

  for (uint64_t i = 0; i < key_count; ++i) {
    in.what = "key " + std::to_string(i);
    std::string key = in.name("key", max_key_length);
    in.what = "key " + quoted(key);
    in.expect(g.key_index_.try_emplace(key, g.keys_.size()).second, "a second key of this name");
    const uint32_t type = in.number<uint32_t>();
    Value value = read_value(in, type);
    if (key == alignment_key) {
      const uint32_t* alignment = std::get_if<uint32_t>(&value);
      in.expect(alignment, "value type ", type, "; expected u32");
      in.expect(valid_alignment(*alignment), "alignment ", *alignment, "; expected a power of two from 8 to 1048576");
      g.alignment_ = *alignment;
    }
    g.keys_.push_back({std::move(key), std::move(value)});
  }

  const auto padded = [&](uint64_t n) { return (n + g.alignment_ - 1) / g.alignment_ * g.alignment_; };
  std::vector<TensorRecord> records;
  uint64_t data_end = 0;                           // of the tensors so far, padded
  for (uint64_t i = 0; i < tensor_count; ++i) {
    in.what = "tensor " + std::to_string(i);
    records.push_back(read_tensor_record(in, data_end));
    const TensorRecord& r = records.back();
    in.expect(r.bytes <= size - std::min(data_end, size), r.bytes, " bytes of ", r.type, " ", r.shape, " in a file of ", size);
    in.expect(g.tensor_index_.try_emplace(r.name, i).second, "a second tensor of this name");
    data_end = padded(data_end + r.bytes);
  }

  if (tensor_count == 0) return g;
  const uint64_t data_start = padded(in.offset());
  for (TensorRecord& r : records) {
    in.what = "tensor " + quoted(r.name);
    const uint64_t offset = data_start + r.offset;
    in.expect(offset <= size && r.bytes <= size - offset, "its ", r.bytes, " bytes at ", offset, " end beyond the file's ", size, ": the file is truncated");
    Storage data = bytes.size() == size ? bytes.part(offset, r.bytes) : Storage::borrow(nullptr, r.bytes, false);
    g.tensors_.push_back({std::move(r.name), Tensor(r.shape, r.type, std::move(data)), offset});
  }
  return g;
}

}  // namespace kvt
