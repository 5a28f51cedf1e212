// std::variant whose copies may run out of memory.
//
// The one of GCC 12 takes a variant of strings, vectors and numbers for one that always holds a value. When the copy of such a value throws, it
// therefore destroys what was never made (libstdc++ <variant>: _Copy_ctor_base sets the index last, _M_reset does not look at it). Here the value is
// copied before there is a variant, and moved in, which cannot fail.
#pragma once
#include <utility>
#include <variant>

namespace kvt {

template <class... Ts>
struct Variant : std::variant<Ts...> {
  using Base = std::variant<Ts...>;
  using Base::Base;
  using Base::operator=;
  Variant() = default;
  Variant(Variant&&) = default;
  Variant& operator=(Variant&&) = default;
  Variant(const Variant& other) : Base(copy(other)) {}
  Variant& operator=(const Variant& other) { return *this = Variant(other); }

 private:
  static Base copy(const Base& other) {
    return std::visit([]<class T>(const T& value) -> Base {
      T copied = value;
      return Base(std::in_place_type<T>, std::move(copied));
    }, other);
  }
};

}  // namespace kvt
