#include "core/kernels/kernels.h"

namespace leash {

// One table from each compilation of kernels_table.cpp.
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

template <typename T>
void advance(const KernelsFor<T>& kernels, const OptimizerStep<T>& step,
             const Stretch<T>& stretch) {
  if (const auto* sgd = std::get_if<SgdStep<T>>(&step)) {
    kernels.sgd(stretch, *sgd);
  } else if (const auto* adam = std::get_if<AdamStep<T>>(&step)) {
    kernels.adam(stretch, *adam);
  } else if (const auto* adagrad = std::get_if<AdagradStep<T>>(&step)) {
    kernels.adagrad(stretch, *adagrad);
  } else {
    kernels.sum(stretch, std::get<SumStep<T>>(step));
  }
}

template void advance(const KernelsFor<float>&, const OptimizerStep<float>&, const Stretch<float>&);
template void advance(const KernelsFor<double>&, const OptimizerStep<double>&,
                      const Stretch<double>&);

const Kernels& kernels_for(InstructionSet isa) {
#if defined(__x86_64__)
  if (isa == InstructionSet::kAvx512) return avx512::kTable;
  if (isa == InstructionSet::kAvx2) return avx2::kTable;
#endif
  static_cast<void>(isa);
  return generic::kTable;
}

}  // namespace leash
