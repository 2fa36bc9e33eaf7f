// Included before TVM's own sources: that they find no GPU, and take a processor, is told by common/inference/ in its
// own words.
#include <tvm/runtime/logging.h>

#undef LOG_WARNING
#define LOG_WARNING true ? (void)0 : ::tvm::runtime::detail::LogMessageVoidify() & LOG_INFO
