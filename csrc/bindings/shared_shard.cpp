#include "bindings/shared_shard.h"

#include <memory>
#include <string>

namespace py = pybind11;

namespace leash::bindings {
namespace {

// With the GIL and without the lock: the last reference to a buffer may run any Python code.
void let_go(const std::vector<void*>& owners) {
  for (void* owner : owners) delete static_cast<BufferView*>(owner);
}

}  // namespace

SharedShard::~SharedShard() {
  shard_.abandon();
  let_go(shard_.take_freed());
}

PushResult SharedShard::push(std::uint32_t chunk, std::uint32_t worker, std::uint64_t step,
                             std::uint64_t samples, const py::buffer& payload, bool wants_payload) {
  // From here on the shard decides how long the payload must live, even if it throws: what it may
  // still point to must not be freed.
  auto* const held = new BufferView(view(chunk, payload, Access::kWrite));
  const Push push{chunk, worker, step, samples, {held->data(), held}, wants_payload};
  auto [result, freed] = locked([&](Shard& shard) {
    auto pushed = shard.push(push);
    return std::pair(std::move(pushed), shard.take_freed());
  });
  let_go(freed);
  return std::move(result);
}

std::vector<Reply> SharedShard::leave(std::uint32_t worker) {
  auto [replies, freed] = locked([&](Shard& shard) {
    auto released = shard.leave(worker);
    return std::pair(std::move(released), shard.take_freed());
  });
  let_go(freed);
  return std::move(replies);
}

void SharedShard::unpark(std::uint32_t chunk, std::uint32_t worker) {
  let_go(locked([&](Shard& shard) {
    shard.unpark(chunk, worker);
    return shard.take_freed();
  }));
}

BufferView SharedShard::view(std::uint32_t chunk, const py::buffer& object, Access access) const {
  return BufferView(object, access, shard_.spec(chunk).nbytes(), "chunk " + std::to_string(chunk));
}

}  // namespace leash::bindings
