#include "core/kernels/kernels.h"

namespace leash {

// Each compilation of kernels_table.cpp defines one.
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
bool apply_step(const KernelsFor<T>& kernels, const OptimizerStep<T>& step,
                const UpdateRange<T>& range) {
  if (const auto* sgd = std::get_if<SgdStep<T>>(&step)) return kernels.sgd(range, *sgd);
  if (const auto* adam = std::get_if<AdamStep<T>>(&step)) return kernels.adam(range, *adam);
  if (const auto* adagrad = std::get_if<AdagradStep<T>>(&step)) {
    return kernels.adagrad(range, *adagrad);
  }
  return kernels.running_average(range, std::get<RunningAverageStep<T>>(step));
}

template bool apply_step(const KernelsFor<float>&, const OptimizerStep<float>&,
                         const UpdateRange<float>&);
template bool apply_step(const KernelsFor<double>&, const OptimizerStep<double>&,
                         const UpdateRange<double>&);

const Kernels& kernels_for(InstructionSet isa) {
#if defined(__x86_64__)
  if (isa == InstructionSet::kAvx512) return avx512::kTable;
  if (isa == InstructionSet::kAvx2) return avx2::kTable;
#endif
  static_cast<void>(isa);
  return generic::kTable;
}

}  // namespace leash
