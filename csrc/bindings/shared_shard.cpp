#include "bindings/shared_shard.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/codecs/codec.h"
#include "core/optimizer/chunk_values.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

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
  const Access access = in_place ? Access::kWrite : Access::kRead;
  const HeldReference gradient(payload ? make_buffer(chunk, *payload, codec, access) : nullptr);
  const HeldReference other(
      wants_payload && answer ? make_buffer(chunk, *answer, Codec::kRaw, Access::kWrite) : nullptr);
  Push push{chunk, worker, step, samples, {}, {}, wants_payload, now_s};
  if (in_place) push.answer = {gradient.get()->data(), codec, owner_of(gradient.get())};
  if (other.get() != nullptr) push.answer = {other.get()->data(), Codec::kRaw, other.share()};
  std::vector<std::uint8_t> bits(absent.begin(), absent.end());
  if (!payload) bits.assign(std::max<std::size_t>(1, (spec.piece_lengths.size() + 7) / 8), 0xff);
  push.absent = bits;

  PushResult result;
  locked_then_drop([&](Shard& shard) {
    if (gradient.get() != nullptr) {
      push.gradient.encoded = of_chunk(chunk, [&] {
        return parse(codec, gradient.get()->data(), gradient.get()->nbytes(), spec.values,
                     size_of(spec.dtype));
      });
      // From here on the shard says how long the memory must live. That holds even if push()
      // throws: the shard may still point to it then, so it must not be freed.
      push.gradient.owner = gradient.share();
    }
    shard.push(push, result);
  });
  return result;
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

std::vector<Reply> SharedShard::give_up_rounds() {
  std::vector<Reply> replies;
  locked_then_drop([&](Shard& shard) { replies = shard.give_up_rounds(); });
  return replies;
}

void SharedShard::unpark(std::uint32_t chunk, std::uint32_t worker) {
  locked_then_drop([&](Shard& shard) { shard.unpark(chunk, worker); });
}

BufferView SharedShard::view(std::uint32_t chunk, const py::buffer& object, Access access) const {
  return BufferView(object, access, shard_.spec(chunk).nbytes(), chunk_name(chunk));
}

// Checks the size of a raw payload. parse() checks that of any other.
Buffer* SharedShard::make_buffer(std::uint32_t chunk, const py::buffer& object, Codec codec,
                                 Access access) const {
  if (codec != Codec::kRaw) return new PythonBuffer(object, access, chunk_name(chunk));
  return new PythonBuffer(object, access, shard_.spec(chunk).nbytes(), chunk_name(chunk));
}

}  // namespace leash::bindings
