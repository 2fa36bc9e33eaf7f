// How an operator is registered with MXNet 1.9.1's library from here: the part that depends on its C++ ABI.
//
// MXNet's wheel for x86-64 was built by GCC 4.8. A newer GCC differs in two things: std::function passes a pointer by
// its address, and std::unordered_map is larger, so that what follows `dict` in NodeAttrs and Node lies elsewhere.
// Therefore functions with pointers among their arguments are declared with references, which both pass alike
// (`as_theirs`); attributes are set by the library's own instances of set_attr (`Registered`); and no operator may use
// a member behind `dict`, or make a Node. The wheel for ARM was built by GCC 10, which is like newer ones in both.
#pragma once

#include <functional>
#include <string>

#include <mxnet/op_attr_types.h>
#include <nnvm/op.h>
#include <nnvm/op_attr_types.h>

// the instances that MXNet's library has: they are called, not made anew
namespace nnvm {
extern template Op& Op::set_attr(const std::string&, const bool&, int);
extern template Op& Op::set_attr(const std::string&, const FNumVisibleOutputs&, int);
extern template Op& Op::set_attr(const std::string&, const FListInputNames&, int);
extern template Op& Op::set_attr(const std::string&, const FMutateInputs&, int);
extern template Op& Op::set_attr(const std::string&, const FInplaceOption&, int);
extern template Op& Op::set_attr(const std::string&, const FInferType&, int);
extern template Op& Op::set_attr(const std::string&, const FGradient&, int);
extern template Op& Op::set_attr(const std::string&, const mxnet::FInferShape&, int);
extern template Op& Op::set_attr(const std::string&, const mxnet::FInferStorageType&, int);
extern template Op& Op::set_attr(const std::string&, const mxnet::FComputeEx&, int);
}  // namespace nnvm

namespace mxnet_operator {

template <typename T>
T& reference(T& value) { return value; }
template <typename T>
T& reference(T*& pointer) { return *pointer; }

// A function with references among its arguments as an attribute of type `Theirs`, with pointers in their place.
template <typename Theirs, typename Result, typename... Arguments>
Theirs as_theirs(Result (*function)(Arguments...)) {
#if defined(__x86_64__)
  std::function<Result(Arguments...)> ours(function);
  static_assert(sizeof(ours) == sizeof(Theirs), "std::function is a function's address, whatever its arguments");
  return reinterpret_cast<Theirs&>(ours);
#else
  return [function](auto&&... given) { return function(reference(given)...); };
#endif
}

// An operator of MXNet's registry, and its attributes.
class Registered {
 public:
  Registered(const char* name, int inputs, int outputs)
      : op_(dmlc::Registry<nnvm::Op>::Get()->__REGISTER_OR_GET__(name)) {
    op_.set_num_inputs(inputs).set_num_outputs(outputs);
  }

  template <typename T>
  Registered& set(const char* name, const T& value) {
    nnvm::Op& (nnvm::Op::*volatile theirs)(const std::string&, const T&, int) = &nnvm::Op::set_attr<T>;
    (op_.*theirs)(name, value, 10);
    return *this;
  }

 private:
  nnvm::Op& op_;
};

}  // namespace mxnet_operator
