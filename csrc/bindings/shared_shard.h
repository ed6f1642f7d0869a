// A Shard as Python sees it: safe to use from several threads, and safe in its memory.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/buffer_view.h"
#include "bindings/held.h"
#include "core/shard/shard.h"

namespace leash::bindings {

// Every call checks its arguments, releases the GIL, then takes the lock, and gives them back in
// the opposite order. Nobody waits for one of the two while holding the other: that would stop
// every Python thread for the length of a push, or for ever.
class SharedShard {
 public:
  SharedShard(const std::vector<ChunkSpec>& specs, const ShardOptions& options)
      : shard_(specs, options) {}
  ~SharedShard();

  SharedShard(const SharedShard&) = delete;
  SharedShard& operator=(const SharedShard&) = delete;

  // Calls use(shard), without the GIL and with the lock.
  template <typename Use>
  auto locked(Use&& use) {
    pybind11::gil_scoped_release without_gil;
    std::lock_guard lock(mutex_);
    return std::forward<Use>(use)(shard_);
  }

  // The same, and then lets go of the buffers that the shard needs no longer.
  template <typename Use>
  void locked_and_let_go(Use&& use) {
    std::vector<void*> freed;
    locked([&](Shard& shard) {
      std::forward<Use>(use)(shard);
      shard.take_freed(freed);
    });
    let_go(freed);
  }

  PushResult push(std::uint32_t chunk, std::uint32_t worker, std::uint64_t step,
                  std::uint64_t samples, const pybind11::buffer& payload, bool wants_payload,
                  Codec codec, const std::optional<pybind11::buffer>& answer, double now_s);
  std::vector<PushResult> push_run(std::uint32_t chunk, std::uint32_t count, std::uint32_t worker,
                                   std::uint64_t step, std::uint64_t samples,
                                   const pybind11::buffer& region, bool wants_payload,
                                   double now_s);
  PullResult pull(std::uint32_t chunk, std::optional<std::uint32_t> worker,
                  const pybind11::buffer& out, Codec codec);
  std::vector<Reply> leave(std::uint32_t worker);
  std::vector<Reply> set_rule(const Rule& rule);
  void unpark(std::uint32_t chunk, std::uint32_t worker);

  // The bytes of an argument, which must be as many as the chunk has.
  BufferView view(std::uint32_t chunk, const pybind11::buffer& object, Access access) const;

 private:
  std::unique_ptr<Held> hold(std::uint32_t chunk, const pybind11::buffer& object, Codec codec,
                             Access access) const;
  std::vector<std::size_t> offsets_of_run(std::uint32_t chunk, std::uint32_t count) const;

  Shard shard_;
  std::mutex mutex_;
};

}  // namespace leash::bindings
