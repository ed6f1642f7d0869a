#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "bindings/array_view.h"
#include "bindings/buffer_view.h"
#include "bindings/names.h"
#include "bindings/register.h"
#include "core/kernels.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

const Kernels& kernels(const std::string& isa) { return kernels_for(instruction_set_named(isa)); }

std::size_t first_nonfinite(const std::string& isa, const std::string& dtype,
                            const py::buffer& payload, std::size_t n) {
  const Dtype type = value_of(kDtypes, "dtype", dtype);
  const BufferView view(payload, Access::kRead, n * size_of(type), "payload");
  return with_dtype(
      type, [&]<typename T>() { return kernels(isa).of<T>().first_nonfinite(view.data(), n); });
}

template <typename T>
void accumulate(const std::string& isa, Array<T> sum, const py::buffer& payload, double weight,
                bool first) {
  const auto n = static_cast<std::size_t>(sum.size());
  T* const values = values_of(sum, sum.size(), "sum");
  const BufferView view(payload, Access::kRead, n * sizeof(T), "payload");
  kernels(isa).of<T>().accumulate(values, view.data(), n, static_cast<T>(weight), first);
}

template <typename T>
void sgd(const std::string& isa, Array<T> w, std::optional<Array<T>> momentum,
         const py::buffer& gradient, const std::optional<py::buffer>& reply,
         const SgdOptions& options, bool first_update) {
  if (momentum.has_value() != (options.momentum != 0.0)) {
    throw std::invalid_argument("momentum: expected a buffer exactly if options.momentum is not 0");
  }
  const auto n = static_cast<std::size_t>(w.size());
  T* const values = values_of(w, w.size(), "w");
  T* const velocity = momentum ? values_of(*momentum, w.size(), "momentum") : nullptr;
  const BufferView from(gradient, Access::kRead, n * sizeof(T), "gradient");
  std::optional<BufferView> to;
  if (reply) to.emplace(*reply, Access::kWrite, n * sizeof(T), "reply");
  kernels(isa).of<T>().sgd(values, velocity, from.data(), to ? to->data() : nullptr, n, options,
                           first_update);
}

// A name to stand under: a submodule would split the type stub in two.
struct KernelGroup {};

template <typename T>
void register_for(py::class_<KernelGroup>& group) {
  group
      .def_static("accumulate", accumulate<T>, py::arg("isa"), py::arg("sum").noconvert(),
                  py::arg("payload"), py::arg("weight"), py::arg("first"),
                  "sum = weight * payload if first, else sum += weight * payload.")
      .def_static("sgd", sgd<T>, py::arg("isa"), py::arg("w").noconvert(),
                  py::arg("momentum").noconvert().none(true), py::arg("gradient"),
                  py::arg("reply").none(true), py::arg("options"), py::arg("first_update"),
                  "One step of torch.optim.SGD. reply may be gradient.");
}

}  // namespace

void register_kernels(py::module_& m) {
  py::class_<KernelGroup> group(m, "kernels", R"(The loops, for tests and benchmarks.

isa is one of instruction_sets(). Arrays are changed in place, never converted; payloads are bytes
and may be unaligned.)");
  group.def_static("first_nonfinite", first_nonfinite, py::arg("isa"), py::arg("dtype"),
                   py::arg("payload"), py::arg("n"),
                   "The index of the first NaN or infinity, n if there is none.");
  register_for<float>(group);
  register_for<double>(group);
}

}  // namespace leash::bindings
