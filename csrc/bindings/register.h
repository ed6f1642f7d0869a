// Each function adds one concept of the core to the Python module, and has a file of its own.
#pragma once

#include <pybind11/pybind11.h>

namespace leash::bindings {

void register_admission(pybind11::module_& m);
void register_allocator(pybind11::module_& m);
void register_build_info(pybind11::module_& m);
void register_clock(pybind11::module_& m);
void register_codecs(pybind11::module_& m);
void register_echo(pybind11::module_& m);  // after register_intake
void register_errors(pybind11::module_& m);
void register_headers(pybind11::module_& m);
void register_intake(pybind11::module_& m);
void register_kernels(pybind11::module_& m);
void register_optimizers(pybind11::module_& m);
void register_results(pybind11::module_& m);
void register_schedule(pybind11::module_& m);
void register_settings(pybind11::module_& m);
void register_staleness(pybind11::module_& m);
void register_shard(pybind11::module_& m);
void register_shard_engine(pybind11::module_& m);
void register_shard_lane(pybind11::module_& m);
void register_step_lane(pybind11::module_& m);  // after register_step_engine
void register_step_engine(pybind11::module_& m);

}  // namespace leash::bindings
