// TVM's runtime/metadata.h includes this header, which the wheel leaves out. The OpenCL runtime never makes a Span:
// declaring the type and its constructor is enough for the headers to compile.
#ifndef TVM_SUPPORT_SPAN_H_
#define TVM_SUPPORT_SPAN_H_

namespace tvm {
namespace support {

template <typename T, typename Value>
class Span {
 public:
  Span(T* begin, T* end) : begin_(begin), end_(end) {}
  T* begin() const { return begin_; }
  T* end() const { return end_; }

 private:
  T* begin_;
  T* end_;
};

}  // namespace support
}  // namespace tvm

#endif  // TVM_SUPPORT_SPAN_H_
