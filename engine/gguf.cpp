// A GGUF file in memory: look-up, building, checking. Reading is in gguf_read.cpp, writing in gguf_write.cpp.
#include "engine/gguf.h"

#include <type_traits>

#include "ops/quant.h"

namespace kvt {

void Gguf::bad_key(std::string_view key, std::string_view why) const { fail("'", path_, "': key '", key, "' ", why); }

TensorMap Gguf::tensor_map() const {
  TensorMap map;
  for (const Entry& e : tensors_) {
    const Tensor mine(e.tensor.shape(), e.tensor.dtype(), e.tensor.storage());
    mine.set_interleaved(e.tensor.interleaved());
    map.emplace(e.name, mine);
  }
  return map;
}

const Gguf::Value* Gguf::find(std::string_view key) const {
  const auto at = key_index_.find(std::string(key));
  return at == key_index_.end() ? nullptr : &keys_[at->second].value;
}

template <class T> constexpr bool is_integer = std::is_integral_v<T> && !std::is_same_v<T, bool>;

int64_t Gguf::integer(std::string_view key) const {
  const Value* value = find(key);
  if (!value) bad_key(key, "is missing");
  return std::visit([&](const auto& v) -> int64_t {
    using T = std::decay_t<decltype(v)>;
    if constexpr (is_integer<T>) {
      if constexpr (std::is_same_v<T, uint64_t>)
        if (v > uint64_t(INT64_MAX)) bad_key(key, "is too large: " + std::to_string(v));
      return int64_t(v);
    } else {
      bad_key(key, "is not an integer");
    }
  }, *value);
}
int64_t Gguf::integer(std::string_view key, int64_t fallback) const { return has(key) ? integer(key) : fallback; }

double Gguf::real(std::string_view key) const {
  const Value* value = find(key);
  if (!value) bad_key(key, "is missing");
  return std::visit([&](const auto& v) -> double {
    using T = std::decay_t<decltype(v)>;
    if constexpr (is_integer<T> || std::is_floating_point_v<T>) return double(v);
    else bad_key(key, "is not a number");
  }, *value);
}
double Gguf::real(std::string_view key, double fallback) const { return has(key) ? real(key) : fallback; }

bool Gguf::boolean(std::string_view key, bool fallback) const {
  const Value* value = find(key);
  if (!value) return fallback;
  if (const bool* b = std::get_if<bool>(value)) return *b;
  bad_key(key, "is not a boolean");
}

const std::string& Gguf::string(std::string_view key) const {
  const Value* value = find(key);
  if (!value) bad_key(key, "is missing");
  if (const std::string* s = std::get_if<std::string>(value)) return *s;
  bad_key(key, "is not a string");
}
std::string Gguf::string(std::string_view key, std::string_view fallback) const { return has(key) ? string(key) : std::string(fallback); }

template <class T>
const std::vector<T>& Gguf::array(std::string_view key) const {
  const Value* value = find(key);
  if (!value) bad_key(key, "is missing");
  if (const auto* items = std::get_if<std::vector<T>>(value)) return *items;
  bad_key(key, "is not an array of the items expected");
}
template const std::vector<uint8_t>& Gguf::array(std::string_view) const;
template const std::vector<int8_t>& Gguf::array(std::string_view) const;
template const std::vector<uint16_t>& Gguf::array(std::string_view) const;
template const std::vector<int16_t>& Gguf::array(std::string_view) const;
template const std::vector<uint32_t>& Gguf::array(std::string_view) const;
template const std::vector<int32_t>& Gguf::array(std::string_view) const;
template const std::vector<uint64_t>& Gguf::array(std::string_view) const;
template const std::vector<int64_t>& Gguf::array(std::string_view) const;
template const std::vector<float>& Gguf::array(std::string_view) const;
template const std::vector<double>& Gguf::array(std::string_view) const;
template const std::vector<bool>& Gguf::array(std::string_view) const;
template const std::vector<std::string>& Gguf::array(std::string_view) const;

Tensor Gguf::find_tensor(std::string_view name) const {
  const auto at = tensor_index_.find(std::string(name));
  return at == tensor_index_.end() ? Tensor() : tensors_[at->second].tensor;
}

Tensor Gguf::tensor(std::string_view name) const {
  const Tensor found = find_tensor(name);
  require(bool(found), "'", path_, "': tensor '", name, "' is missing");
  return found;
}

void Gguf::set(std::string key, Value value) {
  require(!key.empty() && key.size() <= max_key_length, "gguf: a key of ", key.size(), " bytes; expected 1 to ", max_key_length);
  if (key == alignment_key) {
    const uint32_t* alignment = std::get_if<uint32_t>(&value);
    require(alignment && valid_alignment(*alignment), "gguf: ", alignment_key, " must be a u32, a power of two from 8 to 1048576");
    alignment_ = *alignment;
  }
  const auto [at, is_new] = key_index_.try_emplace(key, keys_.size());
  if (is_new) keys_.push_back({std::move(key), std::move(value)});
  else keys_[at->second].value = std::move(value);
}

void Gguf::add(std::string name, const Tensor& tensor) {
  require(!name.empty() && name.size() <= max_tensor_name, "gguf: tensor name '", name, "' has ", name.size(), " bytes; expected 1 to ",
          max_tensor_name);
  require(bool(tensor), "gguf: tensor '", name, "' is none");
  require(tensor.rank() >= 1 && tensor.rank() <= 4, "gguf: tensor '", name, "' of shape ", tensor.shape(), "; expected 1 to 4 axes");
  require(tensor.size() > 0, "gguf: tensor '", name, "' of shape ", tensor.shape(), " is empty");
  require(tensor_index_.try_emplace(name, tensors_.size()).second, "gguf: a second tensor '", name, "'");
  tensors_.push_back({std::move(name), tensor, 0});
}

void Gguf::check_tensors() const {
  for (const Entry& e : tensors_) {
    const Tensor& x = e.tensor;
    const std::optional<NotFinite> bad = find_not_finite(x.dtype(), x.raw(), x.size());
    if (!bad) continue;
    const DTypeInfo& type = info(x.dtype());
    const int64_t block = bad->element / type.block;
    fail("'", path_, "': tensor '", e.name, "' (", type.name, ", ", x.shape(), "): ",
         type.block > 1 ? "scale of block " : "element ", block, " is ",
         bad->value, " at offset ", e.offset + uint64_t(block) * uint64_t(type.block_bytes));
  }
}

}  // namespace kvt
