// A ShardEngine as Python sees it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/counted_buffer.h"
#include "bindings/shared_shard.h"
#include "core/shard_engine/shard_engine.h"

namespace leash::bindings {

// Memory of a message, for as long as Python needs it.
struct MessageMemory {
  explicit MessageMemory(Buffer* buffer) : memory(buffer) {}
  HeldReference memory;
};

// It as a memoryview, which takes over the caller's reference.
pybind11::object view_of(Buffer* buffer);

// Route, header, payload or None, and the worker that is answered.
using Message = std::tuple<pybind11::bytes, pybind11::bytes, pybind11::object, std::uint32_t>;

// An engine on a shard that Python shares: each call has the shard's lock, and not the GIL.
class SharedEngine {
 public:
  SharedEngine(SharedShard& shard, ModelMap map, Nonfinite nonfinite);
  ~SharedEngine() { drop_idle(); }
  SharedEngine(const SharedEngine&) = delete;
  SharedEngine& operator=(const SharedEngine&) = delete;

  bool receive(const std::vector<pybind11::object>& frames, double now_s, std::string_view key);
  void attach(std::uint32_t worker, const pybind11::buffer& route, const pybind11::buffer& memory,
              const pybind11::bytes& ring_route);
  void pull(const pybind11::buffer& route, std::uint32_t chunk, std::optional<std::uint32_t> worker,
            const std::string& codec, double now_s);
  void leave(std::uint32_t worker, double now_s);
  void set_rule(const Rule& rule, double now_s);
  void give_up_rounds(double now_s);
  void stop(const std::string& reason);
  void refuse_pushes(const std::string& code, const std::string& text);
  void expel(std::uint32_t worker);
  std::vector<Message> take_outgoing();
  std::vector<Record> take_records();

  ShardEngine& engine() { return *engine_; }

  // Returns use(), which has the shard's lock. REQUIRES: the caller has let go of the GIL.
  template <typename Use>
  auto call_without_gil(Use&& use) {
    return shard_.locked_without_gil([&](Shard&) { return use(); });
  }

  // Returns use(), which runs without the GIL and with the shard's lock; then drops what nobody
  // needs any more.
  template <typename Use>
  auto call(Use&& use) {
    const DropAfter drop_after(*this);
    return shard_.locked([&](Shard&) { return use(); });
  }

 private:
  struct DropAfter {
    explicit DropAfter(SharedEngine& of) : engine(of) {}
    ~DropAfter() { engine.drop_idle(); }
    DropAfter(const DropAfter&) = delete;
    DropAfter& operator=(const DropAfter&) = delete;
    SharedEngine& engine;
  };
  void drop_idle();

  SharedShard& shard_;
  std::optional<ShardEngine> engine_;
  std::vector<OutgoingAnswer> outgoing_;
  std::vector<Buffer*> idle_;
};

}  // namespace leash::bindings
