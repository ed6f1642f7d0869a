#include "core/kernels_impl.h"

namespace leash::LEASH_KERNELS {

extern const Kernels kTable;
const Kernels kTable{
    .f32 = {first_nonfinite<float>, accumulate<float>, sgd<float>, adam<float>, adagrad<float>},
    .f64 = {first_nonfinite<double>, accumulate<double>, sgd<double>, adam<double>,
            adagrad<double>},
};

}  // namespace leash::LEASH_KERNELS
