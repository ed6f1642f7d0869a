#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include "bindings/register.h"
#include "core/shard/push.h"
#include "core/shard/stats.h"

namespace py = pybind11;

namespace leash::bindings {

void register_results(py::module_& m) {
  py::native_enum<Outcome>(m, "Outcome", "enum.Enum", "What became of a push.")
      .value("APPLIED", Outcome::kApplied)
      .value("DROPPED", Outcome::kDropped)
      .value("DUPLICATE", Outcome::kDuplicate)
      .value("GAP", Outcome::kGap)
      .value("NOT_LIVE", Outcome::kNotLive)
      .value("UNINITIALIZED", Outcome::kUninitialized)
      .value("NONFINITE", Outcome::kNonfinite)
      .finalize();

  py::class_<Reply>(m, "Reply", R"(An answer that may go out now.

If has_payload, the parameters of that version are written where the push wanted them. lag: the
worker's, now. staleness: that of the push that is answered. dropped: that push was too stale to be
applied.)")
      .def_readonly("chunk", &Reply::chunk)
      .def_readonly("worker", &Reply::worker)
      .def_readonly("step", &Reply::step)
      .def_readonly("version", &Reply::version)
      .def_readonly("lag", &Reply::lag)
      .def_readonly("staleness", &Reply::staleness)
      .def_readonly("dropped", &Reply::dropped)
      .def_readonly("has_payload", &Reply::has_payload);

  py::class_<PushResult>(m, "PushResult", R"(The result of a push.

clock: the worker's on this chunk after the call; 0 if it is not live. nonfinite_index: the place of
the first NaN or infinity that was, or would have come to be, in the chunk.)")
      .def_readonly("outcome", &PushResult::outcome)
      .def_readonly("replies", &PushResult::replies)
      .def_readonly("clock", &PushResult::clock)
      .def_readonly("nonfinite_index", &PushResult::nonfinite_index);

  py::class_<Overflow>(m, "Overflow", R"(A mean of finite gradients of which a block was left out.

index: the place in the chunk of the first value that would not have been finite.)")
      .def_readonly("chunk", &Overflow::chunk)
      .def_readonly("step", &Overflow::step)
      .def_readonly("index", &Overflow::index);

  py::class_<ShardStats>(m, "ShardStats", "Counts since the shard was made.")
      .def_readonly("applied", &ShardStats::applied, "pushes for which a clock ticked")
      .def_readonly("updates", &ShardStats::updates, "updates of all chunks together")
      .def_readonly("duplicates", &ShardStats::duplicates)
      .def_readonly("gaps", &ShardStats::gaps)
      .def_readonly("nonfinite", &ShardStats::nonfinite, "pushes with a NaN or an infinity")
      .def_readonly("dropped", &ShardStats::dropped, "pushes that were too stale to be applied")
      .def_readonly("max_lag", &ShardStats::max_lag, "over the answers that let a worker go on")
      .def_readonly("max_staleness", &ShardStats::max_staleness,
                    "of the pushes that were not dropped")
      .def_readonly("staleness_sum", &ShardStats::staleness_sum)
      .def_readonly("staleness_count", &ShardStats::staleness_count)
      .def_property_readonly("mean_staleness", &ShardStats::mean_staleness);
}

}  // namespace leash::bindings
