// Included before TVM's own sources, whose warnings it turns off: common/inference/ itself says that there is no GPU
// and a processor is taken.
#include <tvm/runtime/logging.h>

#undef LOG_WARNING
#define LOG_WARNING true ? (void)0 : ::tvm::runtime::detail::LogMessageVoidify() & LOG_INFO
