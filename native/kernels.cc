/* The program binaries that the driver built for a module of OpenCL kernels, as bytes. TVM's own function returns them
   as text, which ends for Python at the first zero. */
#include <tvm/runtime/module.h>
#include <tvm/runtime/registry.h>

#include <string>

TVM_REGISTER_GLOBAL("opencl.program_binaries").set_body_typed([](tvm::runtime::Module module) {
  std::string binaries = module.GetFunction("opencl.GetPreCompiledPrograms")();
  tvm::runtime::TVMRetValue bytes;
  bytes = TVMByteArray{binaries.data(), binaries.size()};
  return bytes;
});
