// Writes GGUF version 3.
#include <type_traits>

#include "engine/atomic_file.h"
#include "engine/gguf.h"

namespace kvt {

namespace {

template <class T> struct IsVector : std::false_type {};
template <class T> struct IsVector<std::vector<T>> : std::true_type {};

constexpr uint32_t array_type = 9;

template <class T>
constexpr uint32_t type_id() {
  if constexpr (IsVector<T>::value) return array_type;
  else if constexpr (std::is_same_v<T, uint8_t>) return 0;
  else if constexpr (std::is_same_v<T, int8_t>) return 1;
  else if constexpr (std::is_same_v<T, uint16_t>) return 2;
  else if constexpr (std::is_same_v<T, int16_t>) return 3;
  else if constexpr (std::is_same_v<T, uint32_t>) return 4;
  else if constexpr (std::is_same_v<T, int32_t>) return 5;
  else if constexpr (std::is_same_v<T, float>) return 6;
  else if constexpr (std::is_same_v<T, bool>) return 7;
  else if constexpr (std::is_same_v<T, std::string>) return 8;
  else if constexpr (std::is_same_v<T, uint64_t>) return 10;
  else if constexpr (std::is_same_v<T, int64_t>) return 11;
  else if constexpr (std::is_same_v<T, double>) return 12;
}

class Output {
 public:
  explicit Output(const std::string& path) : file_(path) {}

  template <class T>
  void put(const T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
      put(uint64_t(value.size()));
      file_.write(value.data(), value.size());
    } else if constexpr (std::is_same_v<T, bool>) {
      put(uint8_t(value));
    } else if constexpr (IsVector<T>::value) {
      using Item = typename T::value_type;
      put(type_id<Item>());
      put(uint64_t(value.size()));
      for (const auto& item : value) put<Item>(item);
    } else {
      static_assert(std::is_arithmetic_v<T>);
      file_.write(&value, sizeof value);
    }
  }
  void bytes(const void* data, size_t n) { file_.write(data, n); }
  void pad(uint64_t alignment) {
    while (file_.size() % alignment != 0) put(uint8_t(0));
  }
  void commit() { file_.commit(); }

 private:
  AtomicFile file_;
};

}  // namespace

void Gguf::write(const std::string& path) const {
  Output out(path);
  out.bytes("GGUF", 4);
  out.put(uint32_t(3));
  out.put(uint64_t(tensors_.size()));
  out.put(uint64_t(keys_.size()));
  for (const Key& key : keys_) {
    out.put(key.name);
    std::visit([&](const auto& value) {
      out.put(type_id<std::decay_t<decltype(value)>>());
      out.put(value);
    }, key.value);
  }

  uint64_t offset = 0;
  for (const Entry& e : tensors_) {
    const Tensor& x = e.tensor;
    out.put(e.name);
    out.put(uint32_t(x.rank()));
    for (int axis = x.rank(); axis-- > 0;) out.put(x.dim(axis));        // innermost first
    out.put(uint32_t(x.dtype()));
    out.put(offset);
    offset += (uint64_t(x.bytes()) + alignment_ - 1) / alignment_ * alignment_;
  }
  if (!tensors_.empty()) out.pad(alignment_);
  for (const Entry& e : tensors_) {
    out.bytes(e.tensor.raw(), size_t(e.tensor.bytes()));
    out.pad(alignment_);
  }
  out.commit();
}

}  // namespace kvt
