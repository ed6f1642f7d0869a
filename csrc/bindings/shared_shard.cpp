#include "bindings/shared_shard.h"

#include <stdexcept>
#include <string>

#include "core/shard/parameters.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

using HeldPointer = std::unique_ptr<Held>;

std::string name_of(std::uint32_t chunk) { return "chunk " + std::to_string(chunk); }

// Calls check(), and says of which chunk its complaint is.
template <typename Check>
auto of_chunk(std::uint32_t chunk, Check&& check) {
  try {
    return check();
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(name_of(chunk) + ": " + error.what());
  }
}

}  // namespace

SharedShard::~SharedShard() {
  shard_.abandon();
  std::vector<void*> freed;
  shard_.take_freed(freed);
  let_go(freed);
}

PushResult SharedShard::push(std::uint32_t chunk, std::uint32_t worker, std::uint64_t step,
                             std::uint64_t samples, const py::buffer& payload, bool wants_payload,
                             Codec codec, const std::optional<py::buffer>& answer, double now_s) {
  const ChunkSpec& spec = shard_.spec(chunk);
  const bool in_place = wants_payload && !answer;
  of_chunk(chunk, [&] {
    check_codec(codec, spec);
    if (in_place) check_answer_codec(codec, spec);
  });
  HeldPointer gradient = hold(chunk, payload, codec, in_place ? Access::kWrite : Access::kRead);
  HeldPointer other;
  if (wants_payload && answer) other = hold(chunk, *answer, Codec::kRaw, Access::kWrite);
  Push push{chunk, worker, step, samples, {{}, gradient.get()}, {}, wants_payload, now_s};
  if (in_place) push.answer = {gradient->view.data(), codec, gradient.get()};
  if (other) push.answer = {other->view.data(), Codec::kRaw, other.get()};

  PushResult result;
  locked_and_let_go([&](Shard& shard) {
    push.gradient.encoded = of_chunk(chunk, [&] {
      return parse(codec, gradient->view.data(), gradient->view.nbytes(), spec.values,
                   size_of(spec.dtype));
    });
    // From here on the shard decides how long the memory must live, even if it throws: what it may
    // still point to must not be freed.
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
  auto* const held = new Held{BufferView(region, access, nbytes, what), count};
  Unclaimed references(held, count);
  locked_and_let_go([&](Shard& shard) {
    for (std::uint32_t i = 0; i < count; ++i, --chunk) {
      const ChunkSpec& spec = shard.spec(chunk);
      std::byte* const data = held->view.data() + offsets[i];
      const Encoded encoded{Codec::kRaw, data, spec.nbytes(), spec.values};
      Push push{chunk, worker,        step, samples, {encoded, references.claim()},
                {},    wants_payload, now_s};
      if (wants_payload) push.answer = {data, Codec::kRaw, held};
      shard.push(push, results[i]);
    }
  });
  return results;
}

PullResult SharedShard::pull(std::uint32_t chunk, std::optional<std::uint32_t> worker,
                             const py::buffer& out, Codec codec) {
  const ChunkSpec& spec = shard_.spec(chunk);
  of_chunk(chunk, [&] { check_answer_codec(codec, spec); });
  const BufferView values(out, Access::kWrite, answer_nbytes(codec, spec), name_of(chunk));
  PullResult result;
  locked_and_let_go(
      [&](Shard& shard) { result = shard.pull(chunk, worker, {values.data(), codec, nullptr}); });
  return result;
}

std::vector<Reply> SharedShard::leave(std::uint32_t worker) {
  std::vector<Reply> replies;
  locked_and_let_go([&](Shard& shard) { replies = shard.leave(worker); });
  return replies;
}

std::vector<Reply> SharedShard::set_rule(const Rule& rule) {
  std::vector<Reply> replies;
  locked_and_let_go([&](Shard& shard) { replies = shard.set_rule(rule); });
  return replies;
}

void SharedShard::unpark(std::uint32_t chunk, std::uint32_t worker) {
  locked_and_let_go([&](Shard& shard) { shard.unpark(chunk, worker); });
}

BufferView SharedShard::view(std::uint32_t chunk, const py::buffer& object, Access access) const {
  return BufferView(object, access, shard_.spec(chunk).nbytes(), name_of(chunk));
}

// Of a payload that is not raw, parse() checks the size.
std::unique_ptr<Held> SharedShard::hold(std::uint32_t chunk, const py::buffer& object, Codec codec,
                                        Access access) const {
  if (codec != Codec::kRaw) {
    return HeldPointer(new Held{BufferView(object, access, name_of(chunk)), 1});
  }
  return HeldPointer(new Held{view(chunk, object, access), 1});
}

// Where the chunks lie in a region that begins with the last of them: chunk, chunk - 1, ...
std::vector<std::size_t> SharedShard::offsets_of_run(std::uint32_t chunk,
                                                     std::uint32_t count) const {
  if (count == 0 || count > chunk + 1) {
    throw std::invalid_argument("count: expected 1 to " + std::to_string(chunk + 1) +
                                " chunks down from chunk " + std::to_string(chunk) + ", got " +
                                std::to_string(count));
  }
  static_cast<void>(shard_.spec(chunk - count + 1));  // there are so many
  std::vector<std::size_t> offsets(count);
  std::size_t offset = 0;
  for (std::uint32_t i = count; i-- > 0;) {
    offsets[i] = offset;
    offset += round_up_to_cache_line(shard_.spec(chunk - i).nbytes());
  }
  return offsets;
}

}  // namespace leash::bindings
