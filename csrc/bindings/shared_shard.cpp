#include "bindings/shared_shard.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/codecs/codec.h"
#include "core/optimizer/chunk_values.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

using BufferPointer = std::unique_ptr<CountedBuffer>;

// Calls check(), and puts the chunk's name before the message of what it throws.
template <typename Check>
auto of_chunk(std::uint32_t chunk, Check&& check) {
  try {
    return check();
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(chunk_name(chunk) + ": " + error.what());
  }
}

}  // namespace

SharedShard::~SharedShard() {
  shard_.abandon();
  std::vector<void*> freed;
  shard_.take_freed(freed);
  drop_references(freed);
}

PushResult SharedShard::push(std::uint32_t chunk, std::uint32_t worker, std::uint64_t step,
                             std::uint64_t samples, const std::optional<py::buffer>& payload,
                             bool wants_payload, Codec codec,
                             const std::optional<py::buffer>& answer, double now_s,
                             const std::string& absent) {
  const ChunkSpec& spec = shard_.spec(chunk);
  const bool in_place = payload && wants_payload && !answer;
  of_chunk(chunk, [&] {
    check_codec(codec, spec);
    if (in_place) check_answer_codec(codec, spec);
    if (!payload && wants_payload && !answer) {
      throw std::invalid_argument("answer: expected memory, since there is no payload");
    }
  });
  BufferPointer gradient;
  if (payload) {
    gradient = count_buffer(chunk, *payload, codec, in_place ? Access::kWrite : Access::kRead);
  }
  BufferPointer other;
  if (wants_payload && answer) other = count_buffer(chunk, *answer, Codec::kRaw, Access::kWrite);
  Push push{chunk, worker, step, samples, {{}, gradient.get()}, {}, wants_payload, now_s};
  if (in_place) push.answer = {gradient->view.data(), codec, gradient.get()};
  if (other) push.answer = {other->view.data(), Codec::kRaw, other.get()};
  std::vector<std::uint8_t> bits(absent.begin(), absent.end());
  if (!payload) bits.assign(std::max<std::size_t>(1, (spec.piece_lengths.size() + 7) / 8), 0xff);
  push.absent = bits;

  PushResult result;
  locked_then_drop([&](Shard& shard) {
    if (gradient) {
      push.gradient.encoded = of_chunk(chunk, [&] {
        return parse(codec, gradient->view.data(), gradient->view.nbytes(), spec.values,
                     size_of(spec.dtype));
      });
    }
    // From here on the shard says how long the memory must live. That holds even if push() throws:
    // the shard may still point to it then, so it must not be freed.
    static_cast<void>(gradient.release());
    static_cast<void>(other.release());
    shard.push(push, result);
  });
  return result;
}

std::vector<PushResult> SharedShard::push_run(std::uint32_t chunk, std::uint32_t count,
                                              std::uint32_t worker, std::uint64_t step,
                                              std::uint64_t samples, const py::buffer& region,
                                              bool wants_payload, double now_s) {
  const std::vector<std::size_t> offsets = offsets_of_run(chunk, count);
  const std::size_t nbytes = offsets.front() + shard_.spec(chunk).nbytes();
  const std::string what =
      "chunks " + std::to_string(chunk - count + 1) + " to " + std::to_string(chunk);
  const Access access = wants_payload ? Access::kWrite : Access::kRead;
  std::vector<PushResult> results(count);
  // Each push gives its reference back once. If one of them throws, its own stays the shard's.
  auto* const buffer = new CountedBuffer{BufferView(region, access, nbytes, what), count};
  UnclaimedReferences references(buffer, count);
  locked_then_drop([&](Shard& shard) {
    for (std::uint32_t i = 0; i < count; ++i, --chunk) {
      const ChunkSpec& spec = shard.spec(chunk);
      std::byte* const data = buffer->view.data() + offsets[i];
      const Encoded encoded{Codec::kRaw, data, spec.nbytes(), spec.values};
      Push push{chunk, worker,        step, samples, {encoded, references.claim()},
                {},    wants_payload, now_s};
      if (wants_payload) push.answer = {data, Codec::kRaw, buffer};
      shard.push(push, results[i]);
    }
  });
  return results;
}

PullResult SharedShard::pull(std::uint32_t chunk, std::optional<std::uint32_t> worker,
                             const py::buffer& out, Codec codec) {
  const ChunkSpec& spec = shard_.spec(chunk);
  of_chunk(chunk, [&] { check_answer_codec(codec, spec); });
  const BufferView values(out, Access::kWrite, answer_nbytes(codec, spec), chunk_name(chunk));
  PullResult result;
  locked_then_drop(
      [&](Shard& shard) { result = shard.pull(chunk, worker, {values.data(), codec, nullptr}); });
  return result;
}

std::vector<Reply> SharedShard::leave(std::uint32_t worker) {
  std::vector<Reply> replies;
  locked_then_drop([&](Shard& shard) { replies = shard.leave(worker); });
  return replies;
}

std::vector<Reply> SharedShard::set_rule(const Rule& rule) {
  std::vector<Reply> replies;
  locked_then_drop([&](Shard& shard) { replies = shard.set_rule(rule); });
  return replies;
}

void SharedShard::unpark(std::uint32_t chunk, std::uint32_t worker) {
  locked_then_drop([&](Shard& shard) { shard.unpark(chunk, worker); });
}

BufferView SharedShard::view(std::uint32_t chunk, const py::buffer& object, Access access) const {
  return BufferView(object, access, shard_.spec(chunk).nbytes(), chunk_name(chunk));
}

// Checks the size of a raw payload. parse() checks that of any other.
std::unique_ptr<CountedBuffer> SharedShard::count_buffer(std::uint32_t chunk,
                                                         const py::buffer& object, Codec codec,
                                                         Access access) const {
  if (codec != Codec::kRaw) {
    return BufferPointer(new CountedBuffer{BufferView(object, access, chunk_name(chunk)), 1});
  }
  return BufferPointer(new CountedBuffer{view(chunk, object, access), 1});
}

// The offsets of chunk, chunk - 1, ... in a region that begins with the lowest of these chunks.
std::vector<std::size_t> SharedShard::offsets_of_run(std::uint32_t chunk,
                                                     std::uint32_t count) const {
  if (count == 0 || count > chunk + 1) {
    throw std::invalid_argument("count: expected 1 to " + std::to_string(chunk + 1) +
                                " chunks down from chunk " + std::to_string(chunk) + ", got " +
                                std::to_string(count));
  }
  static_cast<void>(shard_.spec(chunk - count + 1));  // throws if there are not so many
  std::vector<std::size_t> offsets(count);
  std::size_t offset = 0;
  for (std::uint32_t i = count; i-- > 0;) {
    offsets[i] = offset;
    offset += round_up_to_cache_line(shard_.spec(chunk - i).nbytes());
  }
  return offsets;
}

}  // namespace leash::bindings
