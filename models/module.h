// Models are plain structs. Each lists its fields once, under their GGUF names:
//
//   template <class F> void fields(F&& f) { f("attn_norm", attn_norm); f("attn_q", attn_q); … }
//
// and that one list, walked, serves loading, saving, counting, freezing, the optimizer and adapters. A field may be a
// Parameter, another module, or a vector of modules (numbered: blk.0, blk.1, …); the name "" adds nothing to the path.
#pragma once
#include <map>
#include <string>

#include "tensor/tensor.h"

namespace kvt {

// A weight: what the model expects, and, once loaded or initialised, the numbers.
struct Parameter {
  Shape shape;
  bool optional = false;
  Tensor tensor;

  Parameter() = default;
  explicit Parameter(const Shape& s, bool is_optional = false) : shape(s), optional(is_optional) {}
  operator const Tensor&() const { return tensor; }
  explicit operator bool() const { return bool(tensor); }
};

template <class T>
concept Module = requires(T& t) { t.fields([](const char*, auto&) {}); };
template <class T>
concept List = requires(T& t) { t.begin(); t.size(); t[0]; };

inline std::string join_path(const std::string& path, const std::string& name) {
  return name.empty() ? path : path.empty() ? name : path + "." + name;
}

// Calls f(path, x) for every field of type T within `module`, in order.
template <class T, class M, class F>
void each(M& module, F&& f, const std::string& path = "") {
  if constexpr (std::is_same_v<M, T>) f(path, module);
  else if constexpr (Module<M>) module.fields([&](const char* name, auto& field) { each<T>(field, f, join_path(path, name)); });
  else if constexpr (List<M>) for (size_t i = 0; i < module.size(); ++i) each<T>(module[i], f, join_path(path, std::to_string(i)));
}

// Gives every parameter of `module` its tensor from `tensors` by name. Throws an Error naming the tensor that is missing or of
// another shape; `source` (a path) stands in the message.
template <class M>
void load_parameters(M& module, const std::map<std::string, Tensor>& tensors, const std::string& source) {
  each<Parameter>(module, [&](const std::string& name, Parameter& p) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) return require(p.optional, source, ": tensor '", name, "' of shape ", p.shape, " is missing");
    require(found->second.shape() == p.shape, source, ": tensor '", name, "' has shape ", found->second.shape(), ", expected ", p.shape);
    p.tensor = found->second;
  });
}

}  // namespace kvt
