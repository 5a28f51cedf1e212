#include "tests/fuzz/raw_gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "tensor/dtype.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace kvt::fuzz {

namespace {

// Reads while there is something; `ok` is false once there was not.
struct Reader {
  std::string_view left;
  bool ok = true;

  std::string_view take(uint64_t n) {
    if (n > left.size()) ok = false, n = 0;
    const std::string_view part = left.substr(0, n);
    left.remove_prefix(n);
    return part;
  }
  template <class T> T number() {
    T x{};
    const std::string_view bytes = take(sizeof x);
    if (ok) std::memcpy(&x, bytes.data(), sizeof x);
    return x;
  }
  std::string string() { return std::string(take(number<uint64_t>())); }
};

template <class T> void put(std::string& out, T x) { out.append(reinterpret_cast<const char*>(&x), sizeof x); }
void put_string(std::string& out, std::string_view s) { put(out, uint64_t(s.size())), out += s; }

uint64_t padded(uint64_t n, uint64_t alignment) { return (n + alignment - 1) / alignment * alignment; }

// The bytes of a tensor, if it is one that a small file can hold
std::optional<size_t> data_bytes(const RawGguf::Tensor& t) {
  const DTypeInfo* type = find_dtype(t.type);
  if (!type) return {};
  int64_t n = 1;
  for (const int64_t extent : t.ne)
    if (extent <= 0 || __builtin_mul_overflow(n, extent, &n) || n > 1 << 20) return {};
  return size_t(n / type->block * type->block_bytes);
}

}  // namespace

size_t scalar_bytes(uint32_t type) {
  static constexpr uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < sizeof bytes ? bytes[type] : 0;
}

std::optional<RawArray> RawArray::parse(std::string_view value) {
  Reader in{value};
  RawArray array{in.number<uint32_t>(), {}};
  const size_t size = scalar_bytes(array.type);
  if (size == 0 && array.type != string_type) return {};
  for (uint64_t n = in.number<uint64_t>(); n > 0 && in.ok; --n) array.items.push_back(size ? std::string(in.take(size)) : in.string());
  return in.ok ? std::optional(array) : std::nullopt;
}

std::string RawArray::write() const {
  std::string out;
  put(out, type);
  put(out, uint64_t(items.size()));
  for (const std::string& item : items)
    if (type == string_type) put_string(out, item);
    else out += item;
  return out;
}

std::optional<RawGguf> RawGguf::parse(std::string_view bytes) {
  Reader in{bytes};
  RawGguf file;
  if (in.take(4) != "GGUF") return {};
  file.version = in.number<uint32_t>();
  const uint64_t tensor_count = in.number<uint64_t>(), key_count = in.number<uint64_t>();
  for (uint64_t i = 0; i < key_count && in.ok; ++i) {
    Key key{in.string(), in.number<uint32_t>(), {}};
    const std::string_view before = in.left;
    if (const size_t n = scalar_bytes(key.type)) {
      in.take(n);
    } else if (key.type == string_type) {
      in.string();
    } else if (key.type == array_type) {
      const auto item = in.number<uint32_t>();
      const auto count = in.number<uint64_t>();
      const size_t n = scalar_bytes(item);
      if (n) in.take(count > bytes.size() ? UINT64_MAX : count * n);
      else if (item == string_type) for (uint64_t j = 0; j < count && in.ok; ++j) in.string();
      else return {};
    } else {
      return {};
    }
    key.value = before.substr(0, before.size() - in.left.size());
    if (key.name == "general.alignment" && key.type == u32_type && in.ok) {
      uint32_t a;
      std::memcpy(&a, key.value.data(), sizeof a);
      file.alignment = std::clamp(a, 1u, 1u << 12);
    }
    file.keys.push_back(std::move(key));
  }
  for (uint64_t i = 0; i < tensor_count && in.ok; ++i) {
    Tensor t{in.string(), {}, 0, {}};
    const auto axes = in.number<uint32_t>();
    if (axes > 8) return {};
    for (uint32_t a = 0; a < axes; ++a) t.ne.push_back(in.number<int64_t>());
    t.type = in.number<uint32_t>();
    in.number<uint64_t>();
    file.tensors.push_back(std::move(t));
  }
  if (!in.ok) return {};
  uint64_t at = padded(bytes.size() - in.left.size(), file.alignment);
  for (Tensor& t : file.tensors) {
    const auto size = data_bytes(t);
    if (!size || at > bytes.size() || *size > bytes.size() - at) return {};
    t.data = bytes.substr(at, *size);
    at = padded(at + *size, file.alignment);
  }
  return file;
}

std::string RawGguf::write() const {
  std::string out = "GGUF";
  put(out, version);
  put(out, uint64_t(int64_t(tensors.size()) + tensor_count_error));
  put(out, uint64_t(int64_t(keys.size()) + key_count_error));
  for (const Key& k : keys) {
    put_string(out, k.name);
    put(out, k.type);
    out += k.value;
  }
  uint64_t offset = 0;
  for (const Tensor& t : tensors) {
    put_string(out, t.name);
    put(out, uint32_t(t.ne.size()));
    for (const int64_t n : t.ne) put(out, n);
    put(out, t.type);
    put(out, offset + uint64_t(t.offset_error));
    offset = padded(offset + t.data.size(), alignment);
  }
  for (const Tensor& t : tensors) {
    out.resize(padded(out.size(), alignment));
    out += t.data;
  }
  if (!tensors.empty()) out.resize(padded(out.size(), alignment));
  return out;
}

namespace {

class Mutator {
 public:
  Mutator(RawGguf& file, unsigned seed) : file_(file), random_(seed) {}

  void change() {
    const bool keys = !file_.keys.empty(), tensors = !file_.tensors.empty();
    switch (below(12)) {
      case 0: return file_.version = uint32_t(below(5)), void();
      case 1: return (below(2) ? file_.key_count_error : file_.tensor_count_error) = pick<int64_t>({-1, 1, 1 << 20, INT64_MIN}), void();
      case 2: case 3: case 4: case 5: case 6: case 7: return keys ? change(any(file_.keys)) : void();
      case 8: return keys ? change_list(file_.keys) : void();
      case 9: return tensors ? change_list(file_.tensors) : void();
      default: return tensors ? change(any(file_.tensors)) : void();
    }
  }
  uint64_t below(uint64_t n) { return random_() % n; }
  template <class T> T& any(std::vector<T>& list) { return list[below(list.size())]; }

 private:
  template <class T> T pick(std::initializer_list<T> of) { return of.begin()[below(of.size())]; }

  template <class T> void change_list(std::vector<T>& list) {
    const size_t at = below(list.size());
    switch (below(4)) {
      case 0: list.erase(list.begin() + long(at)); break;
      case 1: list.insert(list.begin() + long(below(list.size())), T(list[at])); break;
      case 2: std::swap(list[at], any(list)); break;
      default: list[at] = T(any(list));
    }
  }

  void change(std::string& s) {
    std::string more = s;
    more.resize(s.size() + 16);
    more.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(more.data()), s.size(), more.size()));
    s = std::move(more);
  }

  // A number at an edge, or near what it was, in the bytes of its type
  void change_scalar(std::string& bytes, uint32_t type) {
    if (type == f32_type || type == f64_type) {
      const double x = pick<double>({0, -0.0, 1, -1, 1e-30, 1e30, 0.5, double(NAN), double(INFINITY), -double(INFINITY), 1e300, 255, 1e-45});
      if (type == f32_type) { const auto f = float(std::clamp(x, -1e38, 1e38) == x || x != x ? x : x > 0 ? INFINITY : -INFINITY); std::memcpy(bytes.data(), &f, 4); }
      else std::memcpy(bytes.data(), &x, 8);
      return;
    }
    uint64_t x = 0;
    std::memcpy(&x, bytes.data(), bytes.size());
    x = pick<uint64_t>({0, 1, 2, 3, 4, 8, x + 1, x - 1, x * 2, x / 2, below(64), below(1 << 16), UINT64_MAX, INT64_MAX, INT32_MAX, uint64_t(INT32_MAX) + 1, UINT32_MAX, 1u << 20});
    std::memcpy(bytes.data(), &x, bytes.size());
  }

  void change(RawGguf::Key& key) {
    if (below(16) == 0) return change(key.name);
    if (below(16) == 0) {
      key.type = uint32_t(below(14));
      key.value.assign(scalar_bytes(key.type), '\0');
      if (key.type == string_type) put_string(key.value, "x");
      if (key.type == array_type) key.value = RawArray{pick<uint32_t>({u32_type, string_type, f32_type, bool_type}), {}}.write();
      return;
    }
    if (scalar_bytes(key.type)) return change_scalar(key.value, key.type);
    if (key.type == string_type) {
      std::string s = key.value.substr(std::min<size_t>(8, key.value.size()));
      change(s);
      key.value.clear();
      return put_string(key.value, s);
    }
    auto array = RawArray::parse(key.value);
    if (!array) return;
    for (uint64_t n = 1 + below(3); n > 0 && !array->items.empty(); --n) {
      if (below(3) == 0) change_list(array->items);
      else if (array->type == string_type) change(any(array->items));
      else change_scalar(any(array->items), array->type);
    }
    key.value = array->write();
    if (below(32) == 0) key.value[4 + below(8)] ^= char(1 << below(8));                 // a count that is wrong
  }

  void change(RawGguf::Tensor& t) {
    switch (below(8)) {
      case 0: change(t.name); break;
      case 1: t.type = uint32_t(below(40)); break;
      case 2: t.offset_error = pick<int64_t>({32, -32, 1, INT64_MIN}); break;
      case 3: t.ne.push_back(pick<int64_t>({1, 2, 0, -1, INT64_MAX})); break;
      case 4: if (!t.ne.empty()) change_list(t.ne); break;
      case 5: case 6: {
        if (t.ne.empty()) break;
        int64_t& n = any(t.ne);
        n = pick<int64_t>({0, 1, 2, 32, 256, int64_t(uint64_t(n) + 1), int64_t(uint64_t(n) - 1), int64_t(uint64_t(n) * 2), n / 2, -1, INT64_MAX, int64_t(1) << 32, int64_t(1) << 62});
        break;
      }
      default: if (!t.data.empty()) {
        const size_t size = t.data.size();
        change(t.data);
        t.data.resize(size);
      }
    }
    // Mostly with the data that belongs to it
    if (const auto size = data_bytes(t); size && *size <= 1 << 16 && below(8) != 0) t.data.resize(*size, '\x11');
  }

  RawGguf& file_;
  std::minstd_rand random_;
};

}  // namespace

void mutate(RawGguf& file, unsigned seed) {
  Mutator m(file, seed);
  for (uint64_t n = 1 + m.below(3); n > 0; --n) m.change();
}

void cross(RawGguf& file, const RawGguf& other, unsigned seed) {
  std::minstd_rand random(seed);
  const auto mix = [&](auto& into, const auto& from) {
    for (const auto& x : from) {
      if (random() % 4 != 0) continue;
      const auto same = std::find_if(into.begin(), into.end(), [&](const auto& y) { return y.name == x.name; });
      if (same != into.end()) *same = x;
      else into.push_back(x);
    }
  };
  mix(file.keys, other.keys);
  mix(file.tensors, other.tensors);
}

}  // namespace kvt::fuzz
