// A worker's step engine, its memory, and the answers that a server may give it.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/step_engine/step_engine.h"
#include "tests/support/payloads.h"

namespace leash::tests {

using Values = std::vector<float>;

// A push that went, by the numbers of its chunks: the highest, and how many.
using Pushed = std::vector<std::pair<std::uint32_t, std::uint64_t>>;

// A chunk of f32 parameters that lies `start` bytes into a slab, and belongs to one slot.
inline StepChunk parameters_at(std::size_t start, std::size_t values, std::uint32_t slot) {
  return {.start = start,
          .values = values,
          .dtype = Dtype::kF32,
          .is_parameters = true,
          .pieces = {{.slot = slot, .start = start, .values = values}}};
}

// So many chunks of 16 f32 parameters, each a slot of its own.
inline std::vector<StepChunk> chunks_of_16(std::uint32_t count) {
  std::vector<StepChunk> chunks;
  for (std::uint32_t i = 0; i < count; ++i) chunks.push_back(parameters_at(64 * i, 16, i));
  return chunks;
}

// Chunks 0 to 3: parameters in f32 and f64, and buffers in f32.
inline std::vector<StepChunk> mixed_chunks() {
  std::vector<StepChunk> chunks = chunks_of_16(2);
  chunks.push_back({.start = 128,
                    .values = 4,
                    .dtype = Dtype::kF64,
                    .is_parameters = true,
                    .pieces = {{.slot = 2, .start = 128, .values = 4}}});
  chunks.push_back({.start = 192,
                    .values = 8,
                    .dtype = Dtype::kF32,
                    .is_parameters = false,
                    .pieces = {{.slot = 3, .start = 192, .values = 8}}});
  return chunks;
}

// What went: its header as it was written, and a copy of its payload.
struct Message {
  std::vector<std::byte> header;
  std::optional<std::vector<std::byte>> payload = {};
  std::uint64_t attach = 0;

  PushHeader push() const {
    const std::optional<PushHeader> read = read_push(header);
    REQUIRE(read.has_value());
    return *read;
  }
};

struct StepSettings {
  std::vector<StepChunk> chunks = chunks_of_16(4);
  std::vector<std::uint32_t> first_chunks = {0};
  std::uint32_t window = 8;
  EncodingSettings encoding = {};
};

// Worker 3 of incarnation 7. Its gradients and parameters lie in slabs outside the shared memory
// unless a test says otherwise; each is an allocation of its own, so that a sanitizer sees every
// access beyond one.
class StepWorker {
 public:
  explicit StepWorker(const StepSettings& settings = {})
      : chunks(settings.chunks),
        slab_nbytes_(chunks.back().stop()),
        states_(3 * padded(slab_nbytes_) + 64 * (chunks.size() + 4)),
        memory_nbytes_(states_ + sizeof(std::uint64_t) * chunks.size()),
        memory(std::make_unique<std::byte[]>(memory_nbytes_)),
        residual(std::make_unique<std::byte[]>(slab_nbytes_)),
        gradients(std::make_unique<std::byte[]>(slab_nbytes_)),
        parameters(std::make_unique<std::byte[]>(slab_nbytes_)),
        held(std::make_unique<std::byte[]>(slab_nbytes_)),
        engine(chunks,
               {.worker = 3,
                .incarnation = 7,
                .window = settings.window,
                .first_chunks = settings.first_chunks},
               settings.encoding,
               {.data = memory.get(),
                .nbytes = memory_nbytes_,
                .slabs = {0, padded(slab_nbytes_)},
                .outbox = 2 * padded(slab_nbytes_),
                .states = states_},
               residual.get()) {
    for (std::size_t shard = 0; shard < engine.shards(); ++shard) engine.connected(shard);
  }

  float* values(std::byte* slab, std::uint32_t chunk) const {
    return reinterpret_cast<float*>(slab + chunks[chunk].start);
  }
  std::byte* slab(std::uint32_t index) const { return memory.get() + index * padded(slab_nbytes_); }

  // What a server says of the chunk's place.
  std::uint64_t& state(std::uint32_t chunk) const {
    return reinterpret_cast<std::uint64_t*>(memory.get() + states_)[chunk];
  }

  // Opens a step of 5 samples over the slabs outside the memory, and has all chunks ready.
  void begin(std::uint64_t step, const StepEngine::IsAbsent& is_absent = {}) {
    engine.begin(step, 5, {.gradients = gradients.get(), .parameters = parameters.get()}, 0);
    engine.ready(0, is_absent);
  }
  // The same in a slab of the memory, in which answers take the gradients' place.
  void begin_in_slab(std::uint64_t step, std::uint32_t index = 1) {
    engine.begin(step, 5, {.gradients = slab(index), .parameters = slab(index)}, 0);
    engine.ready(0, {});
  }

  // Attaches to every shard, as is done before the first step.
  void attach() {
    engine.attach();
    for (std::size_t shard = 0; shard < engine.shards(); ++shard) {
      const std::vector<Message> sent = send(shard);
      REQUIRE(sent.size() == 1);
      REQUIRE(engine.attached(shard, sent.front().attach));
    }
    engine.keep_attached();
  }

  // All that goes to a shard now.
  std::vector<Message> send(std::size_t shard = 0, std::size_t most = 1000) {
    std::vector<Message> sent;
    while (const std::optional<Outgoing> outgoing = engine.next(shard, most)) {
      Message message{{outgoing->header.begin(), outgoing->header.end()}};
      message.attach = outgoing->attach_number;
      if (outgoing->payload.source != PayloadSource::kNone) {
        message.payload = payload_at(outgoing->payload);
      }
      sent.push_back(std::move(message));
    }
    return sent;
  }

  // The pushes among what goes to a shard now.
  Pushed send_pushes(std::size_t shard = 0, std::size_t most = 1000) {
    Pushed pushed;
    for (const Message& message : send(shard, most)) {
      if (message.attach != 0) continue;
      pushed.emplace_back(message.push().chunk, message.push().chunks);
    }
    return pushed;
  }

  Received answer(const ParamsHeader& header,
                  const std::optional<std::vector<std::byte>>& payload = {},
                  std::size_t shard = 0) {
    const HeaderBytes written(header);
    if (!payload) return engine.receive(shard, written.bytes(), 0, {});
    return engine.receive(shard, written.bytes(), 1, *payload);
  }
  // The values of a chunk after a step, all of them the same.
  Received answer(std::uint64_t step, std::uint32_t chunk, float value, std::size_t shard = 0) {
    return answer(params(step, chunk), bytes_of(Values(chunks[chunk].values, value)), shard);
  }
  Received answer_in_segment(std::uint64_t step, std::uint32_t chunk, std::uint64_t count = 1) {
    ParamsHeader header = params(step, chunk);
    header.chunks = count;
    return answer(header);
  }
  Received fail(const char* code, std::uint64_t step, std::uint32_t chunk, const char* text = "why",
                std::uint64_t clock = 0) {
    const HeaderBytes written(ErrorHeader{code, text, 3, step, chunk, clock});
    return engine.receive(0, written.bytes(), 0, {});
  }
  Received say_ok(const OkHeader& header) {
    return engine.receive(0, HeaderBytes(header).bytes(), 0, {});
  }

  static ParamsHeader params(std::uint64_t step, std::uint32_t chunk) {
    return {.worker = 3, .step = step, .chunk = chunk, .codec = WireCodec::kF32, .version = step};
  }

  const std::vector<StepChunk> chunks;

 private:
  static std::size_t padded(std::size_t nbytes) { return (nbytes + 63) / 64 * 64; }

  std::vector<std::byte> payload_at(const PayloadPlace& place) const {
    const std::byte* from = nullptr;
    if (place.source == PayloadSource::kGradients) from = gradients.get();
    if (place.source == PayloadSource::kMemory) from = memory.get();
    if (place.source == PayloadSource::kValues) from = parameters.get();
    if (from == nullptr) return std::vector<std::byte>(place.nbytes);
    return {from + place.offset, from + place.offset + place.nbytes};
  }

  std::size_t slab_nbytes_;
  std::size_t states_;
  std::size_t memory_nbytes_;

 public:
  std::unique_ptr<std::byte[]> memory;
  std::unique_ptr<std::byte[]> residual;
  std::unique_ptr<std::byte[]> gradients;
  std::unique_ptr<std::byte[]> parameters;
  std::unique_ptr<std::byte[]> held;
  StepEngine engine;
};

// Draws every value of a slab of the worker.
inline void fill_random(const StepWorker& worker, std::byte* slab, unsigned seed) {
  std::mt19937 dice(seed);
  std::normal_distribution<float> normal;
  for (std::uint32_t chunk = 0; chunk < worker.chunks.size(); ++chunk) {
    float* const values = worker.values(slab, chunk);
    std::generate_n(values, worker.chunks[chunk].values, [&] { return normal(dice); });
  }
}

// A copy of so many bytes of a slab.
inline std::vector<std::byte> region(const std::byte* from, std::size_t nbytes) {
  return {from, from + nbytes};
}

}  // namespace leash::tests
