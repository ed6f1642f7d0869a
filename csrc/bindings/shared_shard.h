// A Shard as Python sees it: any thread may call it, and it keeps the buffers alive that it needs.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/buffer_view.h"
#include "bindings/counted_buffer.h"
#include "core/shard/shard.h"

namespace leash::bindings {

// Every call checks its arguments, then releases the GIL, then takes the lock; at its end it
// releases the lock, then takes the GIL again. So no thread waits for one of the two while it holds
// the other: that would stop every Python thread for the length of a push, or forever.
class SharedShard {
 public:
  SharedShard(const std::vector<ChunkSpec>& specs, const ShardOptions& options)
      : shard_(specs, options) {}
  ~SharedShard();

  SharedShard(const SharedShard&) = delete;
  SharedShard& operator=(const SharedShard&) = delete;

  // Returns use(shard), which runs without the GIL and with the lock.
  template <typename Use>
  auto locked(Use&& use) {
    pybind11::gil_scoped_release without_gil;
    return locked_without_gil(std::forward<Use>(use));
  }

  // The same, for a caller that has let go of the GIL.
  template <typename Use>
  auto locked_without_gil(Use&& use) {
    std::lock_guard lock(mutex_);
    return std::forward<Use>(use)(shard_);
  }

  // Calls use(shard) in the same way, and then drops the references that the shard has given back.
  template <typename Use>
  void locked_then_drop(Use&& use) {
    std::vector<void*> freed;
    locked([&](Shard& shard) {
      std::forward<Use>(use)(shard);
      shard.take_freed(freed);
    });
    drop_references(freed);
  }

  // These do what the Shard's functions of the same names do, with buffers checked for the chunk.
  PushResult push(std::uint32_t chunk, std::uint32_t worker, std::uint64_t step,
                  std::uint64_t samples, const std::optional<pybind11::buffer>& payload,
                  bool wants_payload, Codec codec, const std::optional<pybind11::buffer>& answer,
                  double now_s, const std::string& absent);
  PullResult pull(std::uint32_t chunk, std::optional<std::uint32_t> worker,
                  const pybind11::buffer& out, Codec codec);
  std::vector<Reply> leave(std::uint32_t worker);
  std::vector<Reply> set_rule(const Rule& rule);
  std::vector<Reply> give_up_rounds();
  void unpark(std::uint32_t chunk, std::uint32_t worker);

  // The bytes of an argument. Throws ValueError unless they are as many as the chunk has.
  BufferView view(std::uint32_t chunk, const pybind11::buffer& object, Access access) const;

 private:
  Buffer* make_buffer(std::uint32_t chunk, const pybind11::buffer& object, Codec codec,
                      Access access) const;

  Shard shard_;
  std::mutex mutex_;
};

}  // namespace leash::bindings
