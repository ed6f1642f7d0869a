#include "core/kernels/kernels.h"

#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/array_view.h"
#include "bindings/buffer_view.h"
#include "bindings/choices.h"
#include "bindings/register.h"
#include "core/optimizer/optimizer_step.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

std::size_t first_nonfinite(const std::string& isa, const std::string& dtype,
                            const py::buffer& payload, std::size_t n) {
  const Dtype type = value_in(kDtypes, "dtype", dtype);
  const BufferView view(payload, Access::kRead, n * size_of(type), "payload");
  return with_dtype(type, [&]<typename T>() {
    return kernels_named(isa).of<T>().first_nonfinite(view.data(), n);
  });
}

template <typename T>
void accumulate(const std::string& isa, Array<T> sum, const py::buffer& payload, double weight,
                bool first) {
  const auto n = static_cast<std::size_t>(sum.size());
  T* const values = checked_values(sum, sum.size(), "sum");
  const BufferView view(payload, Access::kRead, n * sizeof(T), "payload");
  kernels_named(isa).of<T>().accumulate(values, view.data(), n, static_cast<T>(weight), first);
}

// Calls the optimizer's kernel for one update, as a shard would.
template <typename T>
void update(const std::string& isa, Array<T> w, std::vector<Array<T>> states,
            const py::buffer& gradient, const std::optional<py::buffer>& reply,
            const OptimizerOptions& options, std::uint64_t number) {
  const std::size_t expected = state_names(options).size();
  if (states.size() != expected) {
    throw std::invalid_argument("states: expected " + std::to_string(expected) + ", got " +
                                std::to_string(states.size()));
  }
  const auto n = static_cast<std::size_t>(w.size());
  UpdateRange<T> range{.w = checked_values(w, w.size(), "w"),
                       .state = {},
                       .gradient = nullptr,
                       .reply = nullptr,
                       .n = n};
  for (std::size_t i = 0; i < expected; ++i) {
    range.state[i] = checked_values(states[i], w.size(), "states");
  }
  const BufferView from(gradient, Access::kRead, n * sizeof(T), "gradient");
  std::optional<BufferView> to;
  if (reply) to.emplace(*reply, Access::kWrite, n * sizeof(T), "reply");
  range.gradient = from.data();
  range.reply = to ? to->data() : nullptr;
  const auto step = step_of<T>(options, learning_rate(options), number, number == 1);
  apply_step(kernels_named(isa).of<T>(), step, range);
}

template <typename T>
void compensate(const std::string& isa, Array<T> w, Array<T> backup,
                std::optional<Array<T>> mean_square, const py::buffer& gradient, Array<T> corrected,
                const DelayCompensation& compensation) {
  const auto n = static_cast<std::size_t>(w.size());
  const BufferView from(gradient, Access::kRead, n * sizeof(T), "gradient");
  const CompensationRange<T> range{
      .w = checked_values(w, w.size(), "w"),
      .backup = checked_values(backup, w.size(), "backup"),
      .mean_square = mean_square ? checked_values(*mean_square, w.size(), "mean_square") : nullptr,
      .gradient = from.data(),
      .corrected = checked_values(corrected, w.size(), "corrected"),
      .n = n};
  kernels_named(isa).of<T>().compensate(range, compensation_step_of<T>(compensation, false));
}

// The class that Python sees the kernels in. A submodule would split the type stub in two.
struct KernelGroup {};

template <typename T>
void register_for(py::class_<KernelGroup>& group) {
  group
      .def_static("accumulate", accumulate<T>, py::arg("isa"), py::arg("sum").noconvert(),
                  py::arg("payload"), py::arg("weight"), py::arg("first"),
                  "sum = weight * payload if first, else sum += weight * payload.")
      .def_static("compensate", compensate<T>, py::arg("isa"), py::arg("w").noconvert(),
                  py::arg("backup").noconvert(), py::arg("mean_square").noconvert().none(true),
                  py::arg("gradient"), py::arg("corrected").noconvert(), py::arg("compensation"),
                  R"(Compensates the delay of a gradient, and writes the result to corrected.

mean_square: None, except for adaptive compensation, which changes it.)")
      .def_static("update", update<T>, py::arg("isa"), py::arg("w").noconvert(),
                  py::arg("states").noconvert(), py::arg("gradient"), py::arg("reply").none(true),
                  py::arg("options"), py::arg("number"),
                  R"(Makes one update with the optimizer of these options. reply may be gradient.

number: which update this is, from 1. states: the optimizer's buffers, in the order of
Shard.state_names(). The first update of SGD ignores what its buffer holds.)");
}

}  // namespace

void register_kernels(py::module_& m) {
  py::class_<KernelGroup> group(m, "kernels",
                                R"(The core's loops over numbers, for tests and benchmarks.

isa is one of instruction_sets(). Arrays are changed in place and never converted. Payloads are
bytes, and may be unaligned.)");
  group.def_static("first_nonfinite", first_nonfinite, py::arg("isa"), py::arg("dtype"),
                   py::arg("payload"), py::arg("n"),
                   "The index of the first NaN or infinity, n if there is none.");
  register_for<float>(group);
  register_for<double>(group);
}

}  // namespace leash::bindings
