// Compiled once for each instruction set, as kernels_impl.h explains: the table of its kernels.

#include "core/kernels/kernels.h"
#include "core/kernels/kernels_impl.h"
#include "core/kernels/optimizers/optimizers_impl.h"

namespace leash::LEASH_KERNELS {

extern const HalfKernels kHalfTable;
extern const Int8Kernels kInt8Table;
extern const TopkKernels kTopkTable;
extern const Kernels kTable;
const Kernels kTable{
    .f32 = {first_nonfinite<float>, accumulate<float>, compensate<float>, sgd<float>, adam<float>,
            adagrad<float>, running_average<float>, limit_norm<float>},
    .f64 = {first_nonfinite<double>, accumulate<double>, compensate<double>, sgd<double>,
            adam<double>, adagrad<double>, running_average<double>, limit_norm<double>},
    .half = kHalfTable,
    .int8 = kInt8Table,
    .topk = kTopkTable,
};

}  // namespace leash::LEASH_KERNELS
