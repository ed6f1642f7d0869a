#include "core/kernels.h"

namespace leash {

// One table from each compilation of kernels_impl.cpp.
namespace generic {
extern const Kernels kTable;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kTable;
}
namespace avx512 {
extern const Kernels kTable;
}
#endif

const Kernels& kernels_for(InstructionSet isa) {
#if defined(__x86_64__)
  if (isa == InstructionSet::kAvx512) return avx512::kTable;
  if (isa == InstructionSet::kAvx2) return avx2::kTable;
#endif
  static_cast<void>(isa);
  return generic::kTable;
}

}  // namespace leash
