#include "bindings/owning_step_engine.h"

#include <stdexcept>

namespace py = pybind11;

namespace leash::bindings {
namespace {

// A memoryview of single bytes, which owns the object.
py::object bytes_view(const py::object& object) {
  py::object view = py::memoryview(object);
  if (view.attr("itemsize").cast<int>() == 1 && view.attr("ndim").cast<int>() == 1) return view;
  return view.attr("cast")("B");
}

StepMemory memory_of(const BufferView& view, std::pair<std::size_t, std::size_t> slabs,
                     std::optional<std::size_t> outbox, std::optional<std::size_t> states) {
  return {.data = view.data(),
          .nbytes = view.nbytes(),
          .slabs = {slabs.first, slabs.second},
          .outbox = outbox,
          .states = states};
}

// Calls use(), without the GIL if there is much to do.
template <typename Use>
auto maybe_without_gil(bool releases, Use&& use) {
  std::optional<py::gil_scoped_release> without_gil;
  if (releases) without_gil.emplace();
  return use();
}

std::span<const std::byte> span_of(const BufferView& view) { return {view.data(), view.nbytes()}; }

// What ZeroMQ may still read of an engine that is gone.
struct Leftover {
  lane::Loan* loan;
  std::map<const std::byte*, py::object> objects;
};

// Guarded by the GIL. Never destroyed: the interpreter may be gone then.
std::vector<Leftover>& leftovers() {
  static auto& all = *new std::vector<Leftover>();
  return all;
}

void let_go_of_leftovers() {
  auto& all = leftovers();
  for (std::size_t i = 0; i < all.size();) {
    if (all[i].loan->is_out()) {
      ++i;
      continue;
    }
    all[i].loan->end();
    const Leftover gone = std::move(all[i]);  // to let go of objects may call Python code
    all.erase(all.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

}  // namespace

OwningStepEngine::OwningStepEngine(std::vector<StepChunk> chunks, const StepMember& member,
                                   const EncodingSettings& encoding, const py::buffer& memory,
                                   std::pair<std::size_t, std::size_t> slabs,
                                   std::optional<std::size_t> outbox,
                                   std::optional<std::size_t> states, const py::buffer& residual)
    : memory_(memory, Access::kWrite, "memory"),
      residual_(residual, Access::kWrite, "residual"),
      memory_bytes_(bytes_view(memory)),
      engine_(std::move(chunks), member, encoding, memory_of(memory_, slabs, outbox, states),
              residual_.nbytes() == 0 ? nullptr : residual_.data()) {
  if (residual_.nbytes() != 0 && residual_.nbytes() < engine_.slab_nbytes()) {
    throw std::invalid_argument("residual: expected the size of a slab");
  }
  let_go_of_leftovers();
}

OwningStepEngine::~OwningStepEngine() {
  let_go();
  lent_[memory_.data()] = memory_bytes_;
  leftovers().push_back({loan_, std::move(lent_)});
  let_go_of_leftovers();
}

void OwningStepEngine::require_turn() const {
  if (is_busy_) throw std::logic_error("a step engine belongs to one thread at a time");
}

void OwningStepEngine::fill(Buffer& buffer, const py::object& object, Access access,
                            const char* name) {
  buffer.view =
      std::make_unique<BufferView>(py::reinterpret_borrow<py::buffer>(object), access, name);
  if (buffer.view->nbytes() < engine_.slab_nbytes()) {
    throw std::invalid_argument(std::string(name) + ": expected the " +
                                std::to_string(engine_.slab_nbytes()) + " bytes of a slab, got " +
                                std::to_string(buffer.view->nbytes()));
  }
}

void OwningStepEngine::begin(std::uint64_t step, std::uint32_t samples, const py::buffer& gradients,
                             const py::buffer& parameters, py::object absent,
                             const std::optional<py::buffer>& held, std::uint64_t table) {
  forget();
  fill(gradients_, gradients, Access::kRead, "gradients");
  gradients_.bytes = bytes_view(gradients);
  fill(parameters_, parameters, Access::kWrite, "parameters");
  if (held) {
    fill(held_, *held, Access::kRead, "held");
  } else {
    held_.view.reset();
  }
  absent_ = std::move(absent);
  engine_.begin(step, samples,
                {.gradients = gradients_.view->data(),
                 .parameters = parameters_.view->data(),
                 .held = held ? held_.view->data() : nullptr},
                table);
}

void OwningStepEngine::pull(const Headers& headers, const py::buffer& parameters) {
  forget();
  fill(parameters_, parameters, Access::kWrite, "parameters");
  engine_.pull({headers.begin(), headers.end()}, parameters_.view->data());
}

void OwningStepEngine::tell(const Headers& headers, const py::buffer& values,
                            std::uint64_t number) {
  forget();
  fill(values_, values, Access::kRead, "values");
  values_.bytes = bytes_view(values);
  engine_.tell({headers.begin(), headers.end()}, number);
}

StepEnd OwningStepEngine::finish() {
  require_turn();
  const StepEnd end = engine_.finish();
  let_go();
  return end;
}

void OwningStepEngine::forget() {
  require_turn();
  engine_.forget();
  let_go();
}

void OwningStepEngine::let_go() {
  if (loan_->is_out()) {
    keep_lent(gradients_);
    keep_lent(values_);
  } else {
    lent_.clear();
  }
  for (Buffer* buffer : {&gradients_, &parameters_, &held_, &values_}) {
    buffer->view.reset();
    buffer->bytes = {};
  }
  absent_ = {};
}

void OwningStepEngine::keep_lent(Buffer& buffer) {
  if (!buffer.view) return;
  const std::byte* const begin = buffer.view->data();
  const bool is_own = begin >= memory_.data() && begin < memory_.data() + memory_.nbytes();
  if (!is_own) lent_.try_emplace(begin, buffer.bytes);
}

std::span<const std::byte> OwningStepEngine::bytes_of(const PayloadPlace& place) const {
  const std::byte* begin = nullptr;
  switch (place.source) {
    case PayloadSource::kGradients:
      begin = gradients_.view->data();
      break;
    case PayloadSource::kMemory:
      begin = memory_.data();
      break;
    case PayloadSource::kValues:
      begin = values_.view->data();
      break;
    case PayloadSource::kOptions:
      begin = reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(options_.ptr()));
      break;
    case PayloadSource::kNone:
      return {};
  }
  return {begin + place.offset, place.nbytes};
}

py::bytes OwningStepEngine::attach_header(std::size_t shard, std::uint64_t number) {
  return write_attach_(shard, number);
}

std::byte* OwningStepEngine::memory(std::size_t place, std::size_t nbytes) const {
  if (place > memory_.nbytes() || memory_.nbytes() - place < nbytes) {
    throw std::invalid_argument("memory: expected " + std::to_string(nbytes) + " bytes there");
  }
  return memory_.data() + place;
}

void OwningStepEngine::set_options(std::uint64_t number, const py::bytes& header,
                                   const py::bytes& payload) {
  require_turn();
  options_ = payload;
  engine_.set_options(number, header, py::len(payload));
}

void OwningStepEngine::ready(std::uint32_t first_ready) {
  require_turn();
  if (!absent_ || absent_.is_none() || py::len(absent_) == 0) {
    engine_.ready(first_ready, {});
    return;
  }
  const Turn turn(is_busy_);
  engine_.ready(first_ready, [this](std::uint32_t slot) { return absent_.contains(slot); });
}

void OwningStepEngine::attach(AttachWriter write) {
  require_turn();
  write_attach_ = std::move(write);
  engine_.attach();
}

void OwningStepEngine::rejoin(std::uint64_t incarnation, std::uint64_t table, AttachWriter write) {
  require_turn();
  write_attach_ = std::move(write);
  engine_.rejoin(incarnation, table);
}

py::object OwningStepEngine::payload_of(const PayloadPlace& place) {
  const auto slice_of = [&](const py::object& bytes) {
    const auto begin = static_cast<py::ssize_t>(place.offset);
    PyObject* const slice =
        PySequence_GetSlice(bytes.ptr(), begin, begin + static_cast<py::ssize_t>(place.nbytes));
    if (slice == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(slice);
  };
  switch (place.source) {
    case PayloadSource::kGradients:
      return slice_of(gradients_.bytes);
    case PayloadSource::kMemory:
      return slice_of(memory_bytes_);
    case PayloadSource::kValues:
      return slice_of(values_.bytes);
    case PayloadSource::kOptions:
      return options_;
    case PayloadSource::kNone:
      break;
  }
  return py::none();
}

MaybeMessage OwningStepEngine::next(std::size_t shard, std::size_t most) {
  require_turn();
  const Turn turn(is_busy_);
  const std::optional<Outgoing> outgoing =
      maybe_without_gil(engine_.rewrites(), [&] { return engine_.next(shard, most); });
  if (!outgoing) return py::none();
  if (outgoing->attach_number != 0) {
    return py::make_tuple(write_attach_(shard, outgoing->attach_number), py::none());
  }
  const std::span<const std::byte> header = outgoing->header;
  return py::make_tuple(py::bytes(reinterpret_cast<const char*>(header.data()), header.size()),
                        payload_of(outgoing->payload));
}

std::optional<StepNotice> OwningStepEngine::receive(std::size_t shard, const Frames& frames) {
  require_turn();
  const std::size_t payloads = py::len(frames) - 1;
  const BufferView header(py::reinterpret_borrow<py::buffer>(frames[0]), Access::kRead, "header");
  std::optional<BufferView> payload;
  if (payloads != 0) {
    payload.emplace(py::reinterpret_borrow<py::buffer>(frames[1]), Access::kRead, "payload");
  }
  const Turn turn(is_busy_);
  const Received received = maybe_without_gil(payloads != 0 || engine_.copies_answers(), [&] {
    return engine_.receive(shard, span_of(header), payloads,
                           payload ? span_of(*payload) : std::span<const std::byte>());
  });
  return notice_of(received);
}

std::optional<StepNotice> OwningStepEngine::notice_of(Received received) const {
  switch (received) {
    case Received::kLook:
      return StepNotice{"look"};
    case Received::kRefused:
      return StepNotice{"refused", engine_.refusal()};
    case Received::kOther:
      return StepNotice{"other"};
    case Received::kTaken:
      break;
  }
  return std::nullopt;
}

}  // namespace leash::bindings
