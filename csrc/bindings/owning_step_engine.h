// A StepEngine as Python sees it: it keeps the buffers alive that it needs.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/buffer_view.h"
#include "core/step_engine/step_engine.h"
#include "lane/loan.h"

namespace leash::bindings {

using MaybePayload = pybind11::typing::Union<pybind11::memoryview, pybind11::bytes, pybind11::none>;
using MaybeMessage =
    pybind11::typing::Optional<pybind11::typing::Tuple<pybind11::bytes, MaybePayload>>;
using Frames = pybind11::typing::List<pybind11::object>;
using Headers = std::vector<pybind11::bytes>;
using AttachWriter = pybind11::typing::Callable<pybind11::bytes(std::size_t, std::uint64_t)>;

// What receive() tells a driver of an answer that the engine does not deal with alone.
struct StepNotice {
  const char* kind = "";  // "look", "refused" or "other"
  Refusal refusal = {};   // if it is "refused"
};

// Each call holds the GIL, except while a chunk is encoded, decoded or copied. A call that another
// thread makes meanwhile, or a Python function that the engine calls, throws std::logic_error: an
// engine belongs to one thread at a time.
class OwningStepEngine {
 public:
  // memory and residual are used as long as this lives.
  OwningStepEngine(std::vector<StepChunk> chunks, const StepMember& member,
                   const EncodingSettings& encoding, const pybind11::buffer& memory,
                   std::pair<std::size_t, std::size_t> slabs, std::optional<std::size_t> outbox,
                   std::optional<std::size_t> states, const pybind11::buffer& residual);

  // Others keep what ZeroMQ still reads.
  ~OwningStepEngine();
  OwningStepEngine(const OwningStepEngine&) = delete;
  OwningStepEngine& operator=(const OwningStepEngine&) = delete;

  // These do what the StepEngine's functions of the same names do, with buffers of a slab's size,
  // which are held until another call of this group, finish() or forget().
  void begin(std::uint64_t step, std::uint32_t samples, const pybind11::buffer& gradients,
             const pybind11::buffer& parameters, pybind11::object absent,
             const std::optional<pybind11::buffer>& held, std::uint64_t table);
  void pull(const Headers& headers, const pybind11::buffer& parameters);
  void tell(const Headers& headers, const pybind11::buffer& values, std::uint64_t number);

  void set_options(std::uint64_t number, const pybind11::bytes& header,
                   const pybind11::bytes& payload);
  void ready(std::uint32_t first_ready);
  void attach(AttachWriter write);
  void rejoin(std::uint64_t incarnation, std::uint64_t table, AttachWriter write);

  // A header and a payload, or None in its place; None if nothing may go.
  MaybeMessage next(std::size_t shard, std::size_t most);
  // Both let go of the buffers of the step.
  StepEnd finish();
  void forget();
  // None if the answer was dealt with.
  std::optional<StepNotice> receive(std::size_t shard, const Frames& frames);

  // For a lane, which sends and receives without Python.
  //
  // Returns use(engine), without the GIL; meanwhile all other calls throw std::logic_error, as
  // this one does while another thread is in a call.
  template <typename Use>
  auto call_without_gil(Use&& use) {
    require_turn();
    const Turn turn(is_busy_);
    const pybind11::gil_scoped_release release;
    return use(engine_);
  }
  // Where a payload lies that next() has named. May be called without the GIL.
  std::span<const std::byte> bytes_of(const PayloadPlace& place) const;
  pybind11::bytes attach_header(std::size_t shard, std::uint64_t number);
  // So many bytes of the engine's memory. Throws std::invalid_argument if it does not have them.
  std::byte* memory(std::size_t place, std::size_t nbytes) const;
  std::optional<StepNotice> notice_of(Received received) const;
  lane::Loan& loan() { return *loan_; }

  // The engine, for calls that need no buffers. Throws std::logic_error while another thread is in
  // a call.
  StepEngine& engine() {
    require_turn();
    return engine_;
  }

 private:
  // Bytes of a Python object: to be read and written here, and to be sent from.
  struct Buffer {
    std::unique_ptr<BufferView> view;
    pybind11::object bytes;  // a memoryview of single bytes
  };
  // Keeps other threads, and what Python code this one calls, out of the engine.
  class Turn {
   public:
    explicit Turn(bool& is_busy) : is_busy_(is_busy) { is_busy_ = true; }
    ~Turn() { is_busy_ = false; }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    bool& is_busy_;
  };

  void require_turn() const;
  void let_go();
  void keep_lent(Buffer& buffer);
  void fill(Buffer& buffer, const pybind11::object& object, Access access, const char* name);
  pybind11::object payload_of(const PayloadPlace& place);

  BufferView memory_;
  BufferView residual_;
  pybind11::object memory_bytes_;
  StepEngine engine_;
  bool is_busy_ = false;  // a thread is in a call in which others may run
  Buffer gradients_;
  Buffer parameters_;
  Buffer held_;
  Buffer values_;
  pybind11::object absent_;
  pybind11::bytes options_;
  pybind11::object write_attach_;

  // Of what a lane has lent to ZeroMQ, and of that what is of no other use here: by its address, so
  // that nothing is kept twice.
  lane::Loan* const loan_ = lane::Loan::make();
  std::map<const std::byte*, pybind11::object> lent_;
};

}  // namespace leash::bindings
