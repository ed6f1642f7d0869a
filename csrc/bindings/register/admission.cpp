#include <pybind11/stl.h>

#include <string>

#include "bindings/choices.h"
#include "bindings/register.h"
#include "core/admission/rule.h"
#include "core/admission/simulated_chunk.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

using Limit = std::optional<std::uint64_t>;

Rule make_rule(Limit bound, Limit bound_max, const std::string& unit, const std::string& gather,
               std::uint64_t backup_workers, Limit staleness_limit) {
  const Rule rule{bound,
                  bound_max,
                  value_in(kBoundUnits, "unit", unit),
                  value_in(kGathers, "gather", gather),
                  backup_workers,
                  staleness_limit};
  validate(rule);
  return rule;
}

void register_rule(py::module_& m) {
  py::class_<Rule>(m, "Rule", R"(Who waits for whom, and which gradients count.

| policy        | rule                                          |
| ------------- | --------------------------------------------- |
| asp           | Rule()                                        |
| ssp           | Rule(bound=s), maybe with unit='versions'     |
| bsp           | Rule(bound=0, gather='step')                  |
| dssp          | Rule(bound=low, bound_max=high)               |
| backup        | Rule(gather='round', backup_workers=b)        |
| drop          | Rule(staleness_limit=r)                       |

ValueError for a rule that contradicts itself.)")
      .def(py::init(&make_rule), py::kw_only(), py::arg("bound").none(true) = py::none(),
           py::arg("bound_max").none(true) = py::none(), py::arg("unit") = "clocks",
           py::arg("gather") = "each", py::arg("backup_workers") = 0,
           py::arg("staleness_limit").none(true) = py::none(),
           R"(bound: how far a worker may be ahead of the slowest when it begins a step; None for
no limit. bound_max: makes the bound dynamic, between the two. unit: what the bound counts,
'clocks', or 'versions' of the chunk. gather: what is an update, 'each' gradient, or the mean of
those of a 'step' or of a 'round'. backup_workers: how many of the live workers a round does not
wait for. staleness_limit: a gradient that is staler is answered and not applied.)")
      .def_readonly("bound", &Rule::bound)
      .def_readonly("bound_max", &Rule::bound_max)
      .def_property_readonly("unit", [](const Rule& r) { return name_in(kBoundUnits, r.unit); })
      .def_property_readonly("gather", [](const Rule& r) { return name_in(kGathers, r.gather); })
      .def_readonly("backup_workers", &Rule::backup_workers)
      .def_readonly("staleness_limit", &Rule::staleness_limit);
}

}  // namespace

// These classes have no lock: every call is short and keeps the GIL.
void register_admission(py::module_& m) {
  register_rule(m);

  py::class_<SimulatedPush>(m, "SimulatedPush", "The result of a push to a SimulatedChunk.")
      .def_readonly("clock", &SimulatedPush::clock, "the worker's, this push included")
      .def_readonly("staleness", &SimulatedPush::staleness, "updates since the worker pulled")
      .def_readonly("dropped", &SimulatedPush::dropped, "the push was too stale to be applied")
      .def_readonly("released", &SimulatedPush::released,
                    "the workers that begin their next step now, perhaps with the one that pushed");

  py::class_<SimulatedChunk>(m, "SimulatedChunk",
                             R"(A chunk without parameters, for simulations in virtual time.

It decides with the code of a Shard, and counts versions as a Shard does whose pushes are finite,
have samples and are answered with parameters. A push takes about a microsecond, whatever the
number of workers, and a little for each worker that it releases. For a simulation:

    chunk = SimulatedChunk(Rule(bound=3))
    for worker in range(1, n + 1): chunk.join(worker, 0)
    # For the event "worker has computed its step, and the push arrives, at now_s":
    push = chunk.push(worker, now_s)
    # Each worker in push.released begins its next step at now_s; if the one that pushed is not
    # among them, it waits until another call returns it.
)")
      .def(py::init<const Rule&>(), py::arg("rule"))
      .def("join", &SimulatedChunk::join, py::arg("worker"), py::arg("clock"),
           "ValueError if the worker is live already, or if the clock is below the minimum.")
      .def("leave", &SimulatedChunk::leave, py::arg("worker"),
           "Returns the workers that waited only for it. KeyError if it is not live.")
      .def("push", &SimulatedChunk::push, py::arg("worker"), py::arg("now_s"),
           R"(The worker pushes its next step. KeyError if it is not live.

now_s must not be less than at any earlier push. A worker that waits must not push.)")
      .def("set_rule", &SimulatedChunk::set_rule, py::arg("rule"),
           "Replaces the rule; returns the workers that it lets go on.")
      .def("is_waiting", &SimulatedChunk::is_waiting, py::arg("worker"),
           "KeyError if it is not live.")
      .def_property_readonly("rule", &SimulatedChunk::rule, py::return_value_policy::copy)
      .def_property_readonly("version", &SimulatedChunk::version, "updates so far")
      .def_property_readonly("dropped", &SimulatedChunk::dropped, "pushes that were not applied")
      .def(
          "clock", [](const SimulatedChunk& c, std::uint32_t w) { return c.clock().clock(w); },
          py::arg("worker"), "KeyError if it is not live.")
      .def(
          "lag", [](const SimulatedChunk& c, std::uint32_t w) { return c.clock().lag(w); },
          py::arg("worker"), "clock(worker) - minimum().")
      .def("minimum", [](const SimulatedChunk& c) { return c.clock().minimum(); })
      .def(
          "workers", [](const SimulatedChunk& c) { return c.clock().workers(); },
          "The live workers, in ascending order.")
      .def("__len__", [](const SimulatedChunk& c) { return c.clock().size(); })
      .def(
          "__contains__",
          [](const SimulatedChunk& c, std::uint32_t w) { return c.clock().contains(w); },
          py::arg("worker"));
}

}  // namespace leash::bindings
