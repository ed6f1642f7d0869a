#include <pybind11/pybind11.h>

#include "bindings/register.h"
#include "core/kernels/cpu.h"

PYBIND11_MODULE(_core, m) {
  using namespace leash::bindings;
  m.doc() =
      "The C++ core of Leash: clocks, kernels, the shard that holds the parameters, a worker's "
      "steps.";

  register_errors(m);
  register_allocator(m);
  register_build_info(m);
  register_settings(m);
  register_optimizers(m);
  register_schedule(m);
  register_staleness(m);
  register_results(m);
  register_clock(m);
  register_admission(m);
  register_kernels(m);
  register_codecs(m);
  register_headers(m);
  register_shard(m);
  register_shard_engine(m);
  register_step_engine(m);
  register_intake(m);
  register_echo(m);
  register_shard_lane(m);
  register_step_lane(m);

  leash::instruction_set();  // a LEASH_ISA that this CPU lacks is an error of the import
}
