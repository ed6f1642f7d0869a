#include "bindings/shared_engine.h"

#include <algorithm>
#include <memory>
#include <span>
#include <stdexcept>

namespace py = pybind11;

namespace leash::bindings {
namespace {

std::string_view bytes_of(const BufferView& view) {
  return {reinterpret_cast<const char*>(view.data()), view.nbytes()};
}

py::bytes python_bytes(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Takes over the message's reference to its payload.
py::object payload_of(const OutgoingAnswer& message) {
  if (message.payload == nullptr) return py::none();
  if (auto* brought = dynamic_cast<PythonBuffer*>(message.payload)) {
    const HeldReference reference(brought);
    return brought->object();
  }
  return view_of(message.payload);
}

// The memory of a payload in which its answer can be written; a copy, if it is read-only.
Buffer* make_payload(const py::buffer& object) {
  const py::memoryview seen(object);
  if (!seen.attr("readonly").cast<bool>()) {
    return new PythonBuffer(object, Access::kWrite, "payload");
  }
  const BufferView view(object, Access::kRead, "payload");
  auto* const copy = new OwnBuffer(view.nbytes());
  std::copy_n(view.data(), view.nbytes(), copy->data());
  return copy;
}

}  // namespace

py::object view_of(Buffer* buffer) {
  return py::memoryview(py::cast(std::make_unique<MessageMemory>(buffer)));
}

SharedEngine::SharedEngine(SharedShard& shard, ModelMap map, Nonfinite nonfinite) : shard_(shard) {
  shard_.locked([&](Shard& core) { engine_.emplace(core, std::move(map), nonfinite); });
}

void SharedEngine::drop_idle() {
  engine_->take_idle(idle_);
  for (Buffer* buffer : idle_) delete buffer;
  idle_.clear();
}

bool SharedEngine::receive(const std::vector<py::object>& frames, double now_s,
                           std::string_view key) {
  if (frames.size() < 2 || frames.size() > 3) return false;
  const BufferView route(py::buffer{frames[0]}, Access::kRead, "route");
  const BufferView header(py::buffer{frames[1]}, Access::kRead, "header");
  const HeldReference payload(frames.size() == 3 ? make_payload(py::buffer{frames[2]}) : nullptr);
  const std::span<const std::byte> header_bytes(header.data(), header.nbytes());
  const Incoming message{bytes_of(route), header_bytes, payload.get(), now_s, key};
  return call([&] { return engine_->receive(message); });
}

void SharedEngine::attach(std::uint32_t worker, const py::buffer& route, const py::buffer& memory,
                          const py::bytes& ring_route) {
  const BufferView name(route, Access::kRead, "route");
  const HeldReference segment(new PythonBuffer(memory, Access::kWrite, "memory"));
  const std::string_view ring(ring_route);
  call([&] { engine_->attach(worker, bytes_of(name), segment.get(), ring); });
}

void SharedEngine::pull(const py::buffer& route, std::uint32_t chunk,
                        std::optional<std::uint32_t> worker, const std::string& codec,
                        double now_s) {
  const BufferView name(route, Access::kRead, "route");
  const std::optional<WireCodec> wanted = wire_codec(codec);
  if (!wanted) throw std::invalid_argument("codec: got '" + codec + "'");
  call([&] { engine_->pull(bytes_of(name), chunk, worker, *wanted, now_s); });
}

void SharedEngine::leave(std::uint32_t worker, double now_s) {
  call([&] { engine_->leave(worker, now_s); });
}

void SharedEngine::set_rule(const Rule& rule, double now_s) {
  call([&] { engine_->set_rule(rule, now_s); });
}

void SharedEngine::give_up_rounds(double now_s) {
  call([&] { engine_->give_up_rounds(now_s); });
}

void SharedEngine::stop(const std::string& reason) {
  call([&] { engine_->stop(reason); });
}

void SharedEngine::refuse_pushes(const std::string& code, const std::string& text) {
  const std::string_view known = codes::find(code);
  if (known.empty() && !code.empty()) {
    throw std::invalid_argument("code: expected one of a refusal, got '" + code + "'");
  }
  engine_->refuse_pushes(known, text);
}

void SharedEngine::expel(std::uint32_t worker) {
  engine_->expel(worker);
  drop_idle();
}

std::vector<Message> SharedEngine::take_outgoing() {
  engine_->take_outgoing(outgoing_);
  std::vector<Message> messages;
  messages.reserve(outgoing_.size());
  for (const OutgoingAnswer& message : outgoing_) {
    messages.emplace_back(message.route, python_bytes(message.written().bytes()),
                          payload_of(message), message.worker());
  }
  outgoing_.clear();
  return messages;
}

std::vector<Record> SharedEngine::take_records() {
  std::vector<Record> records;
  engine_->take_records(records);
  return records;
}

}  // namespace leash::bindings
