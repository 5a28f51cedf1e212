#include "engine/safetensors.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "engine/atomic_file.h"
#include "engine/json.h"

namespace kvt {

namespace {

struct TypeInfo {
  const char* name;
  uint64_t bytes;                       // of one element
  std::optional<DType> dtype;           // none: this engine has no such tensors
};
constexpr TypeInfo types[] = {
    {"BOOL", 1, {}}, {"U8", 1, {}}, {"I8", 1, DType::I8}, {"U16", 2, {}}, {"I16", 2, DType::I16}, {"U32", 4, {}}, {"I32", 4, DType::I32},
    {"U64", 8, {}}, {"I64", 8, DType::I64}, {"F16", 2, DType::F16}, {"BF16", 2, DType::BF16}, {"F32", 4, DType::F32}, {"F64", 8, DType::F64},
};

const TypeInfo* find_type(std::string_view name) {
  const auto at = std::find_if(std::begin(types), std::end(types), [&](const TypeInfo& t) { return t.name == name; });
  return at == std::end(types) ? nullptr : at;
}

struct Record { uint64_t begin, end; Safetensors::Entry entry; };

// One member of the header. `data_size` bounds its bytes.
Record read_record(const std::string& name, const Json& json, uint64_t data_size, const std::string& file) {
  const auto expect = [&](bool ok, const auto&... parts) { if (!ok) fail("'", file, "': tensor '", name, "': ", parts...); };
  const Json *type = json.find("dtype"), *shape = json.find("shape"), *offsets = json.find("data_offsets");
  const auto* members = std::get_if<Json::Object>(&json.value);
  expect(members && members->size() == 3 && type && shape && offsets, "expected exactly dtype, shape and data_offsets");
  const auto* type_name = std::get_if<std::string>(&type->value);
  const TypeInfo* info = type_name ? find_type(*type_name) : nullptr;
  expect(info, "unknown dtype ", type->dump());

  Record r;
  r.entry.name = name;
  r.entry.type = info->name;
  const auto* extents = std::get_if<Json::Array>(&shape->value);
  expect(extents && extents->size() <= size_t(Shape::max_rank), "shape ", shape->dump(), ", expected at most ", Shape::max_rank, " extents");
  uint64_t bytes = info->bytes;
  for (const Json& extent : *extents) {
    const auto* n = std::get_if<int64_t>(&extent.value);
    expect(n && *n >= 0, "extent ", extent.dump());
    expect(!__builtin_mul_overflow(bytes, uint64_t(*n), &bytes) && bytes <= uint64_t(1) << 62, "shape ", shape->dump(), " has too many elements");
    r.entry.shape.push_back(*n);
  }

  const auto* range = std::get_if<Json::Array>(&offsets->value);
  const auto* begin = range && range->size() == 2 ? std::get_if<int64_t>(&(*range)[0].value) : nullptr;
  const auto* end = begin ? std::get_if<int64_t>(&(*range)[1].value) : nullptr;
  expect(begin && end && *begin >= 0 && *begin <= *end, "data_offsets ", offsets->dump(), ", expected [begin, end]");
  expect(uint64_t(*end) <= data_size, "its bytes end at ", *end, ", beyond the data's ", data_size, ": the file is truncated or damaged");
  expect(uint64_t(*end - *begin) == bytes, *end - *begin, " bytes at ", *begin, " for ", info->name, " ", r.entry.shape, ", which has ", bytes);
  r.begin = uint64_t(*begin);
  r.end = uint64_t(*end);
  return r;
}

}  // namespace

Safetensors Safetensors::open(const std::string& path) { return parse(Storage::map_file(path), path); }

Safetensors Safetensors::parse(const Storage& bytes, const std::string& name) {
  const auto expect = [&](bool ok, const auto&... parts) { if (!ok) fail("'", name, "': ", parts...); };
  Safetensors file;
  file.path_ = name;
  uint64_t header = 0;
  expect(bytes.size() >= 8, bytes.size(), " bytes are no safetensors file");
  std::memcpy(&header, bytes.data(), 8);
  expect(header <= max_header, "a header of ", header, " bytes, expected at most ", max_header, ": no safetensors file?");
  expect(header <= bytes.size() - 8, "a header of ", header, " bytes in a file of ", bytes.size(), ": the file is truncated");
  const char* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  expect(header >= 2 && text[0] == '{', "the header does not begin with '{'");
  const Json json = Json::parse({text, header}, name);
  const uint64_t data = 8 + header, data_size = bytes.size() - data;

  std::vector<Record> records;
  for (const auto& [member, value] : std::get<Json::Object>(json.value)) {
    if (member != "__metadata__") {
      records.push_back(read_record(member, value, data_size, name));
      continue;
    }
    const auto* items = std::get_if<Json::Object>(&value.value);
    expect(items, "'__metadata__' is no object");
    for (const auto& [key, item] : *items) {
      const auto* s = std::get_if<std::string>(&item.value);
      expect(s, "'__metadata__': '", key, "' is no string");
      file.metadata_[key] = *s;
    }
  }
  // By end as well, so that empty tensors come before what begins at the same place.
  std::sort(records.begin(), records.end(), [](const Record& a, const Record& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
  uint64_t end = 0;
  for (Record& r : records) {
    Entry& e = r.entry;
    expect(r.begin == end, "tensor '", e.name, "': its bytes begin at ", r.begin, ", expected at ", end, r.begin < end ? ": an overlap" : ": a gap");
    end = r.end;
    e.offset = data + r.begin;
    e.bytes = bytes.part(e.offset, r.end - r.begin);
    file.index_.emplace(e.name, file.entries_.size());
    file.entries_.push_back(std::move(e));
  }
  expect(end == data_size, data_size - end, " bytes behind the last tensor (at offset ", data + end, ")");
  return file;
}

const Safetensors::Entry* Safetensors::find(std::string_view name) const {
  const auto at = index_.find(name);
  return at == index_.end() ? nullptr : &entries_[at->second];
}

Tensor Safetensors::tensor(std::string_view name) const {
  const Entry* e = find(name);
  require(e, "'", path_, "': tensor '", name, "' is missing");
  const TypeInfo& type = *find_type(e->type);
  require(type.dtype.has_value(), "'", path_, "': tensor '", name, "' is ", e->type, ", which this engine does not compute with");
  if (reinterpret_cast<uintptr_t>(e->bytes.data()) % type.bytes == 0) return Tensor(e->shape, *type.dtype, e->bytes);
  const Storage copy = Storage::allocate_owned(e->bytes.size());       // a header of odd length, or smaller elements before it
  std::memcpy(copy.data(), e->bytes.data(), e->bytes.size());
  return Tensor(e->shape, *type.dtype, copy);
}

void Safetensors::add(const std::string& name, const Tensor& tensor) {
  require(!name.empty() && name != "__metadata__", "safetensors: a tensor cannot be called '", name, "'");
  const auto type = std::find_if(std::begin(types), std::end(types), [&](const TypeInfo& t) { return t.dtype == tensor.dtype(); });
  require(type != std::end(types), "safetensors: tensor '", name, "' is ", tensor.dtype(), ", for which the format has no type");
  require(index_.emplace(name, entries_.size()).second, "safetensors: a second tensor '", name, "'");
  entries_.push_back({name, type->name, tensor.shape(), tensor.storage(), 0});
}

void Safetensors::write(const std::string& path) const {
  // Large elements first: then all lie aligned.
  std::vector<const Entry*> order;
  for (const Entry& e : entries_) order.push_back(&e);
  std::stable_sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) { return find_type(a->type)->bytes > find_type(b->type)->bytes; });

  Json::Object header;
  if (!metadata_.empty()) {
    Json::Object items;
    for (const auto& [name, value] : metadata_) items.emplace_back(name, value);
    header.emplace_back("__metadata__", std::move(items));
  }
  int64_t end = 0;
  for (const Entry* e : order) {
    const int64_t begin = end;
    end += int64_t(e->bytes.size());
    Json::Array shape;
    for (const int64_t n : e->shape) shape.emplace_back(n);
    header.emplace_back(e->name, Json::Object{{"dtype", e->type}, {"shape", std::move(shape)}, {"data_offsets", Json::Array{begin, end}}});
  }
  std::string text = Json(std::move(header)).dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  require(text.size() <= max_header, "safetensors: '", path, "': a header of ", text.size(), " bytes, the format allows ", max_header);

  AtomicFile file(path);
  const uint64_t size = text.size();
  file.write(&size, sizeof size);
  file.write(text.data(), text.size());
  for (const Entry* e : order) file.write(e->bytes.data(), e->bytes.size());
  file.commit();
}

}  // namespace kvt
