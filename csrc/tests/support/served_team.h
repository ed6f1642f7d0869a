// A shard's engine, the messages that its workers send, and the memory in which they come.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/shard_engine/shard_engine.h"
#include "tests/support/payloads.h"
#include "tests/support/team.h"

namespace leash::tests {

// Memory of a message or a segment. A test sees when it goes; a sanitizer, any use of it later.
class CountedBuffer : public Buffer {
 public:
  CountedBuffer(std::size_t nbytes, std::size_t& alive)
      : memory_(std::make_unique<std::byte[]>(nbytes)), alive_(alive) {
    set_memory(memory_.get(), nbytes);
    ++alive_;
  }
  ~CountedBuffer() override { --alive_; }

 private:
  std::unique_ptr<std::byte[]> memory_;
  std::size_t& alive_;
};

// What an engine sends, each message in words: its route, its header, and the numbers with it.
using Said = std::vector<std::string>;

struct ServedOptions {
  Rule rule = {};
  Nonfinite nonfinite = Nonfinite::kRaise;
  std::uint32_t workers = 2;
  std::uint32_t first_chunk = 0;
  std::vector<ChunkSpec> specs = {};  // without any: four chunks of four f32 parameters
  bool has_values = true;
};

// Workers 1 and up at clock 0, and every value 0. Each has the incarnation 70 + its number, and
// sends over a route that is called like it.
class ServedTeam {
 public:
  explicit ServedTeam(ServedOptions options) : shard(specs_of(options), with_first(options)) {
    const auto& specs = options.specs;
    ModelMap map{.first_chunk = options.first_chunk};
    map.slab_nbytes = 64 * options.first_chunk;
    for (std::uint32_t i = 0; i < specs.size(); ++i) {
      map.starts.push_back(map.slab_nbytes);
      map.slab_nbytes += (specs[i].nbytes() + 63) / 64 * 64;
      if (!options.has_values) continue;
      shard.init(options.first_chunk + i, std::vector<std::byte>(specs[i].nbytes()).data());
    }
    for (const char* name : {"a", "b", "c", "d"}) map.slot_names.emplace_back(name);
    slab_nbytes = map.slab_nbytes;
    starts = map.starts;
    engine = std::make_unique<ShardEngine>(shard, std::move(map), options.nonfinite);
    for (std::uint32_t worker = 1; worker <= options.workers; ++worker) {
      shard.join(worker, 0);
      engine->admit(worker, 70 + worker);
    }
  }
  explicit ServedTeam(const Rule& rule) : ServedTeam(ServedOptions{.rule = rule}) {}
  ~ServedTeam() {
    if (engine != nullptr) static_cast<void>(said());
    engine.reset();
    CHECK(alive == 0);
  }

  // A push_pull of one chunk by worker 1, unless the test changes it.
  static PushHeader header(std::uint32_t worker, std::uint64_t step, std::uint32_t chunk = 0) {
    return {.worker = worker,
            .incarnation = 70 + worker,
            .step = step,
            .chunk = chunk,
            .samples = 1,
            .wants_parameters = true};
  }

  bool send(const PushHeader& header, const std::vector<std::byte>* payload,
            const std::string& route) {
    Buffer* buffer = nullptr;
    if (payload != nullptr) {
      buffer = new CountedBuffer(payload->size(), alive);
      std::memcpy(buffer->data(), payload->data(), payload->size());
    }
    const HeaderBytes written(header);
    now_s += 1.0;
    const bool taken = engine->receive({route, written.bytes(), buffer, now_s});
    engine->drop(buffer);
    empty_bin();
    return taken;
  }
  bool send(const PushHeader& header, const std::vector<std::byte>& payload) {
    return send(header, &payload, std::to_string(header.worker));
  }
  bool send(const PushHeader& header) {
    return send(header, nullptr, std::to_string(header.worker));
  }
  // A payload of f32 values, all of them the same.
  bool send(const PushHeader& header, float value) {
    return send(header, bytes_of(std::vector<float>(4, value)));
  }
  bool push(std::uint32_t worker, std::uint64_t step, float value, std::uint32_t chunk = 0) {
    return send(header(worker, step, chunk), value);
  }

  // Gives the worker a segment over this route; the test reads and writes what it returns.
  Buffer* attach(std::uint32_t worker, const std::string& route, bool has_outbox = false) {
    auto* const memory = new CountedBuffer(segment_nbytes(slab_nbytes, has_outbox), alive);
    engine->attach(worker, route, memory);
    engine->drop(memory);
    empty_bin();
    return memory;
  }
  float* slab(Buffer* memory, std::uint32_t chunk, std::size_t index = 0) const {
    const std::size_t slab_pages = (slab_nbytes + 4095) / 4096 * 4096;
    return reinterpret_cast<float*>(memory->data() + 4096 + index * slab_pages + starts[chunk]);
  }
  static void fill(float* values, float value) { std::fill_n(values, 4, value); }

  // What came up since the last call, and drops it.
  Said said() {
    Said all;
    engine->take_outgoing(outgoing_);
    for (const OutgoingAnswer& message : outgoing_) {
      all.push_back(message.route + ": " + words_of(message));
      engine->drop(message.payload);
    }
    empty_bin();
    return all;
  }

  std::vector<Record> records() {
    std::vector<Record> all;
    engine->take_records(all);
    return all;
  }

  float value(std::uint32_t chunk = 0) {
    std::vector<float> out(4);
    shard.pull(chunk, std::nullopt, {reinterpret_cast<std::byte*>(out.data())});
    return out.front();
  }

  std::size_t alive = 0;  // buffers
  Shard shard;
  std::unique_ptr<ShardEngine> engine;
  std::size_t slab_nbytes = 0;
  std::vector<std::size_t> starts;
  double now_s = 0.0;

 private:
  static std::vector<ChunkSpec>& specs_of(ServedOptions& options) {
    for (std::uint32_t slot = 0; slot < 4 && options.specs.size() < 4; ++slot) {
      options.specs.push_back({.values = 4,
                               .dtype = Dtype::kF32,
                               .kind = ChunkKind::kParameter,
                               .piece_lengths = {4},
                               .piece_slots = {slot}});
    }
    return options.specs;
  }
  static ShardOptions with_first(const ServedOptions& options) {
    ShardOptions all = options_of(options.rule);
    all.nonfinite = options.nonfinite;
    all.first_chunk = options.first_chunk;
    return all;
  }

  static std::string number(const char* name, std::uint64_t value) {
    return value == 0 ? "" : std::string(" ") + name + " " + std::to_string(value);
  }
  static std::string words_of(const ErrorHeader& error) {
    CHECK(error.text.size() <= kMaxErrorText);
    std::string words(error.code);
    words += " of " + std::to_string(error.worker) + "." + std::to_string(error.step) + "." +
             std::to_string(error.chunk) + number("clock", error.clock) + ": ";
    return words += error.text;
  }
  static std::string words_of(const OutgoingAnswer& message) {
    const HeaderBytes written = message.written();
    const Answer answer = read_answer(written.bytes());
    if (const auto* error = std::get_if<ErrorHeader>(&answer)) {
      CHECK(message.worker() == 0);
      CHECK(message.payload == nullptr);
      return words_of(*error);
    }
    if (const auto* ok = std::get_if<OkHeader>(&answer)) {
      CHECK(message.worker() == ok->worker);
      CHECK(message.payload == nullptr);
      CHECK(ok->taken);
      return "ok " + std::to_string(ok->step) + "." + std::to_string(ok->chunk);
    }
    const auto& params = std::get<ParamsHeader>(answer);
    CHECK(message.worker() == params.worker);
    std::string words = "params " + std::to_string(params.step) + "." +
                        std::to_string(params.chunk) + number("version", params.version) +
                        number("lag", params.lag) + number("stale", params.staleness);
    if (params.chunks != 1) words += number("chunks", params.chunks);
    if (params.unchanged) words += " unchanged";
    if (params.codec != WireCodec::kF32) words += " " + std::string(name_of(params.codec));
    if (message.payload != nullptr) words += " =" + values_of(*message.payload, params.codec);
    return words;
  }
  // One number for all of the values, which are integers.
  static std::string values_of(const Buffer& payload, WireCodec codec) {
    std::size_t n = payload.nbytes() / 4;
    std::vector<float> values(n);
    if (codec == WireCodec::kF64) {
      n = payload.nbytes() / 8;
      values.resize(n);
      for (std::size_t i = 0; i < n; ++i) {
        values[i] = static_cast<float>(item<double>(payload.data(), i));
      }
    } else if (core_codec(codec) == Codec::kRaw) {
      std::memcpy(values.data(), payload.data(), payload.nbytes());
    } else {
      n = payload.nbytes() / 2;
      values = decoded(parse(core_codec(codec), payload.data(), payload.nbytes(), n, 4));
    }
    for (const float value : values) CHECK(value == values.front());
    return " " + std::to_string(static_cast<int>(values.front())) + " x " + std::to_string(n);
  }

  void empty_bin() {
    engine->take_idle(idle_);
    for (Buffer* buffer : idle_) delete buffer;
    idle_.clear();
  }

  std::vector<OutgoingAnswer> outgoing_;
  std::vector<Buffer*> idle_;
};

inline const Rule kEach{};
inline const Rule kMeans{.bound = 0, .gather = Gather::kStep};

}  // namespace leash::tests

template <>
struct doctest::StringMaker<leash::tests::Said> {
  static doctest::String convert(const leash::tests::Said& said) {
    std::string all;
    for (const std::string& words : said) all += "\n    " + words;
    return all.c_str();
  }
};
