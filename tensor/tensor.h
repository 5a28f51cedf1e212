// Tensor: a shared handle to shape, element type, bytes and gradient. Copying a Tensor copies the handle, never the numbers.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/storage.h"

namespace kvt {

class Tensor;

// The gradient of a tensor, apart from its numbers: all that backward needs of most inputs and results. Whoever holds this alone lets
// the numbers go.
class Gradient {
 public:
  Gradient() = default;                                        // of no tensor; wants nothing
  explicit Gradient(int64_t size) : state_(std::allocate_shared<State>(ArenaAllocator<State>())) { state_->size = size; }

  int64_t size() const { return state_->size; }
  bool wants_grad() const { return state_ && state_->wanted; }
  bool has_grad() const { return state_ && state_->storage; }
  float* grad() const;                                         // zeros at first use; always F32, as large as size()
  void drop_grad() const { state_->storage = {}; }
  // The same, but where nothing was added yet no zeros are written: the caller then has to write every number.
  struct Sum { float* p; bool add; };
  Sum sum() const;
  // Memory of size() floats that are to be the gradient, and what it is kept in now.
  void take(Storage numbers) const;
  const Storage& storage() const { return state_->storage; }

 private:
  friend class Tensor;
  struct State {
    int64_t size = 0;
    bool wanted = false;
    Storage storage;
    std::weak_ptr<void> packed;      // see Tensor::packed()
    std::function<Tensor()> recipe;
  };
  std::shared_ptr<State> state_;
};

class Tensor {
 public:
  Tensor() = default;                                          // no tensor; tests false
  explicit Tensor(const Shape& shape, DType dtype = DType::F32);   // uninitialised numbers
  Tensor(const Shape& shape, DType dtype, Storage storage);    // throws unless the storage is exactly as large

  static Tensor zeros(const Shape& shape);
  static Tensor filled(const Shape& shape, float value);
  static Tensor from(const Shape& shape, std::span<const float> values);

  explicit operator bool() const { return impl_ != nullptr; }

  const Shape& shape() const { return impl_->shape; }
  int rank() const { return impl_->shape.rank(); }
  int64_t dim(int axis) const { return impl_->shape[axis]; }
  int64_t size() const { return impl_->size; }                 // number of elements
  DType dtype() const { return impl_->dtype; }
  int64_t bytes() const { return int64_t(impl_->storage.size()); }
  const Storage& storage() const { return impl_->storage; }

  float* data() const;                                         // throws unless dtype() is F32
  std::byte* raw() const { return impl_->storage.data(); }     // the bytes, whatever the type
  std::span<float> values() const { return {data(), size_t(size())}; }
  float item() const;                                          // the only element

  // The same numbers, and the same gradient, under another shape.
  Tensor view(const Shape& shape) const;
  // A deep copy in memory of its own, without gradient.
  Tensor clone() const;

  // Gradients. A leaf (a parameter) asks for one; results of operations on it then want one too (tensor/tape.h).
  bool wants_grad() const { return impl_->gradient.wants_grad(); }
  const Tensor& want_grad(bool on = true) const;
  bool has_grad() const { return impl_->gradient.has_grad(); }
  float* grad() const { return impl_->gradient.grad(); }
  void drop_grad() const { impl_->gradient.drop_grad(); }
  Gradient gradient() const { return impl_ ? impl_->gradient : Gradient(); }

  // For what backward keeps (ops/precision.h), shared among views: the same numbers in another type, found again for as long as somebody
  // keeps them; and a way to make the numbers again from others that are kept anyway, empty where there is none.
  Tensor packed() const;
  void remember_packed(const Tensor& packed) const { impl_->gradient.state_->packed = packed.impl_; }
  const std::function<Tensor()>& recipe() const { return impl_->gradient.state_->recipe; }
  void set_recipe(std::function<Tensor()> make_again) const { impl_->gradient.state_->recipe = std::move(make_again); }

  // The same weights in the order of the kernels that decode (ops/interleave.h), if somebody had them brought into it.
  const Storage& interleaved() const { return impl_->interleaved; }
  void set_interleaved(Storage bytes) const { impl_->interleaved = std::move(bytes); }
  // Has the tensor, not its views, lie elsewhere. The new storage holds the same bytes.
  void move_to(Storage storage) const;

  bool same(const Tensor& other) const { return impl_ == other.impl_; }   // the very same tensor

 private:
  struct Impl {
    Shape shape;
    DType dtype;
    int64_t size;
    Storage storage;
    Gradient gradient;       // shared among views
    Storage interleaved = {};
  };
  std::shared_ptr<Impl> impl_;
};

}  // namespace kvt
