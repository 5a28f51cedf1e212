#include "tensor/tensor.h"

#include <algorithm>
#include <cstring>

namespace kvt {

void append(std::string& to, const Shape& s) {
  to += '[';
  for (int i = 0; i < s.rank(); ++i) {
    if (i) to += ", ";
    append(to, s[i]);
  }
  to += ']';
}

Tensor::Tensor(const Shape& shape, DType dtype) : Tensor(shape, dtype, Storage::allocate(size_t(byte_size(dtype, shape.numel())))) {}

Tensor::Tensor(const Shape& shape, DType dtype, Storage storage) : impl_(std::allocate_shared<Impl>(ArenaAllocator<Impl>())) {
  const int64_t size = shape.numel(), bytes = byte_size(dtype, size);
  require(int64_t(storage.size()) == bytes, "tensor: ", shape, " of ", dtype, " needs ", bytes, " bytes, got ", storage.size());
  require(shape.rank() == 0 || shape[-1] % info(dtype).block == 0, "tensor: rows of ", shape, " do not fill whole ", dtype, " blocks");
  *impl_ = {shape, dtype, size, std::move(storage), Gradient(size), {}};
}

Tensor Tensor::zeros(const Shape& shape) { return filled(shape, 0.f); }

Tensor Tensor::filled(const Shape& shape, float value) {
  Tensor t(shape);
  std::fill_n(t.data(), t.size(), value);
  return t;
}

Tensor Tensor::from(const Shape& shape, std::span<const float> values) {
  Tensor t(shape);
  require(t.size() == int64_t(values.size()), "tensor: ", values.size(), " values for shape ", shape);
  std::copy(values.begin(), values.end(), t.data());
  return t;
}

float* Tensor::data() const {
  require(impl_ != nullptr, "tensor: no tensor where numbers were expected");
  require(impl_->dtype == DType::F32, "tensor: expected F32 numbers, got ", impl_->dtype, " of shape ", impl_->shape);
  return reinterpret_cast<float*>(impl_->storage.data());
}

float Tensor::item() const {
  require(size() == 1, "tensor: expected one element, got ", shape());
  return data()[0];
}

Tensor Tensor::view(const Shape& shape) const {
  require(shape.numel() == size(), "view: ", this->shape(), " has not the elements of ", shape);
  Tensor v(shape, dtype(), storage());
  v.impl_->gradient = impl_->gradient;
  return v;
}

void Tensor::move_to(Storage storage) const {
  require(storage.size() == impl_->storage.size(), "tensor: ", impl_->storage.size(), " bytes do not move to ", storage.size());
  impl_->storage = std::move(storage);
}

Tensor Tensor::clone() const {
  Tensor copy(shape(), dtype(), Storage::allocate_owned(size_t(bytes())));
  std::memcpy(copy.raw(), raw(), size_t(bytes()));
  return copy;
}

const Tensor& Tensor::want_grad(bool on) const {
  require(!on || is_float(dtype()), "tensor: ", dtype(), " weights of shape ", shape(), " cannot be trained");
  impl_->gradient.state_->wanted = on;
  return *this;
}

Tensor Tensor::packed() const {
  Tensor found;
  found.impl_ = std::static_pointer_cast<Impl>(impl_->gradient.state_->packed.lock());
  return found;
}

Gradient::Sum Gradient::sum() const {
  Storage& g = state_->storage;
  const bool there = bool(g);
  if (!there) g = Storage::allocate_owned(size_t(state_->size) * sizeof(float));
  return {reinterpret_cast<float*>(g.data()), there};
}

float* Gradient::grad() const {
  const Sum g = sum();
  if (!g.add) std::fill_n(g.p, state_->size, 0.f);
  return g.p;
}

void Gradient::take(Storage numbers) const {
  require(numbers.size() == size_t(state_->size) * sizeof(float), "gradient: ", numbers.size(), " bytes for ", state_->size, " numbers");
  state_->storage = std::move(numbers);
}

}  // namespace kvt
