#include "core/kernels/kernels_impl.h"

namespace leash::LEASH_KERNELS {

extern const HalfKernels kHalfTable;
extern const Int8Kernels kInt8Table;
extern const TopkKernels kTopkTable;
extern const Kernels kTable;
const Kernels kTable{
    .f32 = {first_nonfinite<float>, accumulate<float>, compensate<float>, sgd<float>, adam<float>,
            adagrad<float>, sum<float>},
    .f64 = {first_nonfinite<double>, accumulate<double>, compensate<double>, sgd<double>,
            adam<double>, adagrad<double>, sum<double>},
    .half = kHalfTable,
    .int8 = kInt8Table,
    .topk = kTopkTable,
};

}  // namespace leash::LEASH_KERNELS
