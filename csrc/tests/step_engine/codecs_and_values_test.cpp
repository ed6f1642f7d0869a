// What a worker's messages carry: gradients in their codec, slots without one, values and options.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "core/codecs/encode.h"
#include "core/step_engine/rounding_seed.h"
#include "core/step_engine/step_engine.h"
#include "tests/support/payloads.h"
#include "tests/support/step_worker.h"

using namespace leash;
using namespace leash::tests;

namespace {

StepSettings with_codec(WireCodec codec, std::size_t values) {
  StepSettings settings;
  settings.encoding = {.codec = codec, .int8_block = 64, .topk_ratio = 0.25};
  settings.chunks = {parameters_at(0, values, 0), parameters_at(4 * values, values, 1)};
  return settings;
}

}  // namespace

// Codecs

TEST_CASE("seeds of rounding are those of numpy's SeedSequence") {
  // numpy.random.SeedSequence([worker, step, chunk]).generate_state(1, numpy.uint64), numpy 2
  constexpr std::uint32_t kMost = 0xffff'ffff;
  CHECK(rounding_seed(0, 0, 0) == 0xdb2c'd7e7'b0f4'78be);
  CHECK(rounding_seed(1, 1, 0) == 0x0114'6989'46df'35ad);
  CHECK(rounding_seed(3, 70'000, 12) == 0x166b'9618'b75f'eb55);
  CHECK(rounding_seed(1, kMost, 5) == 0x030b'f756'ff2b'a639);
  CHECK(rounding_seed(1, 1ULL << 32, 5) == 0x626e'8ab4'd939'35d8);
  CHECK(rounding_seed(kMost, ~0ULL >> 1, kMost) == 0x62b0'34d4'55ca'e0ac);
  CHECK(rounding_seed(7, 123'456'789'012'345, 99) == 0xf1fc'2ec2'7071'fd92);
}

TEST_CASE("a coded chunk goes in its codec, over both transports, and keeps what was left over") {
  constexpr std::size_t kValues = 200;
  for (const bool shares : {false, true}) {
    for (const WireCodec codec :
         {WireCodec::kBf16, WireCodec::kF16, WireCodec::kInt8, WireCodec::kTopk}) {
      CAPTURE(name_of(codec));
      StepWorker worker(with_codec(codec, kValues));
      if (shares) worker.attach();
      Values rest(kValues);
      for (std::uint64_t step = 1; step <= 3; ++step) {
        fill_random(worker, worker.gradients.get(), static_cast<unsigned>(step));
        const float* const values = worker.values(worker.gradients.get(), 1);
        std::vector<std::byte> expected(2 * 4 * kValues);
        std::size_t nbytes = 2 * kValues;
        if (codec == WireCodec::kInt8) {
          nbytes = encode_int8(values, rest.data(), kValues, 64, rounding_seed(3, step, 1),
                               expected.data(), kernels_in_use());
        } else if (codec == WireCodec::kTopk) {
          nbytes = encode_topk(values, rest.data(), kValues, kValues / 4, expected.data(),
                               kernels_in_use());
        } else {
          encode_half(core_codec(codec), values, kValues, expected.data(), kernels_in_use());
        }
        expected.resize(nbytes);
        worker.begin(step);
        CHECK(worker.engine.rewrites());
        std::vector<Message> sent = worker.send();
        REQUIRE(sent.size() == 2);
        CHECK(sent[0].push().codec == codec);
        CHECK(sent[0].push().nbytes == (shares ? nbytes : 0));
        CHECK(sent[0].payload.has_value() != shares);
        const std::byte* const outbox = worker.slab(2) + 4 * kValues + 64;
        CHECK(region(outbox, nbytes) == expected);
        if (!shares) CHECK(sent[0].payload == expected);
        worker.engine.connected(0);  // it goes again as it was written, and is not written again
        sent = worker.send(0, 0);
        const Message& again = sent[shares ? 1 : 0];
        CHECK(again.push().chunk == 1);
        CHECK(region(outbox, nbytes) == expected);
        if (shares) worker.engine.attached(0, step + 1);
        if (has_residual(codec)) {
          CHECK(region(worker.residual.get() + 4 * kValues, 4 * kValues) ==
                region(reinterpret_cast<const std::byte*>(rest.data()), 4 * kValues));
        }
      }
    }
  }
}

TEST_CASE("parameters that come in half of the bytes are decoded to their place") {
  for (const WireCodec codec : {WireCodec::kBf16, WireCodec::kF16}) {
    StepWorker worker(with_codec(codec, 100));
    worker.begin(1);
    worker.send();
    Values values(100);
    for (std::size_t i = 0; i < 100; ++i) values[i] = 0.25f * static_cast<float>(i);
    ParamsHeader header = StepWorker::params(1, 1);
    header.codec = codec;
    CHECK(worker.answer(header, encoded_half(core_codec(codec), values)) == Received::kTaken);
    CHECK(std::equal(values.begin(), values.end(), worker.values(worker.parameters.get(), 1)));
  }
}

TEST_CASE("buffers and double precision travel as they are, whatever the codec") {
  StepSettings settings;
  settings.chunks = mixed_chunks();
  settings.encoding.codec = WireCodec::kTopk;
  StepWorker worker(settings);
  worker.begin(1);
  const std::vector<Message> sent = worker.send();
  CHECK(sent[0].push().codec == WireCodec::kF32);
  CHECK(sent[0].payload->size() == 32);
  CHECK(sent[1].push().codec == WireCodec::kF64);
  CHECK(sent[1].payload->size() == 32);
  CHECK(sent[2].push().codec == WireCodec::kTopk);
  CHECK(sent[2].payload->size() == 8);  // at least one value
}

TEST_CASE("what rounding left over of a slot without gradient waits until it has one") {
  StepSettings settings;
  StepChunk chunk = parameters_at(0, 100, 0);
  chunk.pieces = {{0, 0, 30}, {1, 120, 50}, {2, 320, 20}};
  settings.chunks = {chunk};
  settings.encoding = {.codec = WireCodec::kInt8, .int8_block = 64};
  StepWorker worker(settings);
  fill_random(worker, worker.residual.get(), 4);
  const std::vector<std::byte> before = region(worker.residual.get(), 400);
  Values rest(100);
  std::memcpy(rest.data(), before.data(), 400);
  std::fill_n(rest.begin() + 30, 50, 0.0f);
  fill_random(worker, worker.gradients.get(), 5);
  std::memset(worker.gradients.get() + 120, 0, 200);
  std::vector<std::byte> expected(int8_nbytes(100, 64));
  encode_int8(worker.values(worker.gradients.get(), 0), rest.data(), 100, 64,
              rounding_seed(3, 1, 0), expected.data(), kernels_in_use());
  worker.begin(1, [](std::uint32_t slot) { return slot == 1; });
  CHECK(worker.send()[0].payload == expected);
  CHECK(region(worker.residual.get() + 120, 200) ==
        std::vector<std::byte>(before.begin() + 120, before.begin() + 320));
  CHECK(std::equal(rest.begin(), rest.begin() + 30, worker.values(worker.residual.get(), 0)));
  CHECK(std::equal(rest.begin() + 80, rest.end(), worker.values(worker.residual.get(), 0) + 80));
}

// Slots without gradient

TEST_CASE("a push names the slots of its chunk that have no gradient, unless they are all") {
  StepSettings settings;
  StepChunk chunk = parameters_at(0, 20, 0);
  chunk.pieces.clear();
  for (std::uint32_t slot = 0; slot < 10; ++slot) chunk.pieces.push_back({slot, 8 * slot, 2});
  settings.chunks = {chunk, parameters_at(128, 16, 10), mixed_chunks()[3]};
  StepWorker worker(settings);
  worker.begin(
      1, [](std::uint32_t slot) { return slot == 1 || slot == 8 || slot >= 3 + 7 || slot == 3; });
  const std::vector<Message> sent = worker.send();
  REQUIRE(sent.size() == 3);
  CHECK(sent[0].push().absent.empty());  // every slot of a buffer has values
  CHECK(sent[0].payload.has_value());
  CHECK(sent[1].push().absent == std::string_view("\x01", 1));
  CHECK_FALSE(sent[1].payload.has_value());
  CHECK(sent[1].push().has == 0);
  CHECK(sent[2].push().absent == std::string_view("\x0a\x01", 2));
  CHECK(sent[2].payload.has_value());
  worker.begin(2);
  CHECK(worker.send()[2].push().absent.empty());  // nothing is left of the step before
}

TEST_CASE("a question after slots that fails leaves nothing for a later step") {
  StepWorker worker;
  const auto fails = [](std::uint32_t slot) -> bool {
    if (slot == 2) throw std::runtime_error("no answer");
    return true;
  };
  CHECK_THROWS_AS(worker.begin(1, fails), std::runtime_error);
  worker.engine.begin(
      2, 5, {.gradients = worker.gradients.get(), .parameters = worker.parameters.get()}, 0);
  worker.engine.ready(2, {});
  worker.engine.ready(0, [](std::uint32_t slot) { return slot == 0; });
  const std::vector<Message> sent = worker.send();
  REQUIRE(sent.size() == 4);
  for (std::size_t i = 0; i < 4; ++i) CHECK(sent[i].push().absent.empty() == (i != 3));
}

TEST_CASE("more slots than a push can name are refused only if some have no gradient") {
  constexpr std::uint32_t kSlots = 8 * kMaxAbsentNbytes + 1;
  StepSettings settings;
  StepChunk chunk = parameters_at(0, kSlots, 0);
  chunk.pieces.clear();
  for (std::uint32_t slot = 0; slot < kSlots; ++slot) chunk.pieces.push_back({slot, 4 * slot, 1});
  settings.chunks = {chunk};
  StepWorker worker(settings);
  worker.begin(1, [](std::uint32_t) { return false; });
  CHECK(worker.send_pushes() == Pushed{{0, 1}});
  CHECK_THROWS_WITH_AS(worker.begin(1, [](std::uint32_t slot) { return slot == kSlots - 1; }),
                       "chunk 0 has parts of 24577 parameters, of which some have no gradient: a "
                       "push can name 24576; start the server with a smaller --chunk-kib",
                       std::invalid_argument);
}

TEST_CASE("a chunk without any gradient that nobody has changed is taken from what is held") {
  StepWorker worker;
  std::memset(worker.held.get(), 4, 256);
  const auto begin = [&](std::uint64_t step) {
    worker.engine.begin(step, 5,
                        {.gradients = worker.gradients.get(),
                         .parameters = worker.parameters.get(),
                         .held = worker.held.get()},
                        0);
    worker.engine.ready(0, [](std::uint32_t slot) { return slot == 1; });
  };
  begin(1);
  CHECK(worker.send()[2].push().has == 1);  // version 0 and 1 more
  worker.answer(1, 1, 5.0f);
  CHECK(worker.values(worker.parameters.get(), 1)[0] == 5.0f);
  begin(7);
  CHECK(worker.send()[2].push().has == 2);
  ParamsHeader unchanged = StepWorker::params(7, 1);
  unchanged.unchanged = true;
  CHECK(worker.answer(unchanged) == Received::kTaken);
  CHECK(region(worker.parameters.get() + 64, 64) == region(worker.held.get() + 64, 64));
  CHECK(worker.values(worker.parameters.get(), 0)[0] == 0.0f);

  worker.begin(8);  // without what is held, nothing can be unchanged
  worker.send();
  unchanged.step = 8;
  CHECK(worker.answer(unchanged) == Received::kRefused);
}

// Values and options

TEST_CASE(
    "a second answer to an init answers no pull, and one to a pull no init: none has a number") {
  StepWorker worker;
  worker.engine.tell({"a", "b", "c", "d"}, 0);
  worker.send();
  CHECK(worker.answer(StepWorker::params(0, 1), bytes_of(Values(16))) == Received::kTaken);
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) {
    CHECK_FALSE(worker.engine.is_done());
    worker.say_ok({.worker = 3, .step = 0, .chunk = chunk, .taken = true});
  }
  worker.engine.pull({"a", "b", "c", "d"}, worker.parameters.get());
  worker.send();
  CHECK(worker.say_ok({.worker = 3, .step = 0, .chunk = 1, .taken = false}) == Received::kTaken);
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) {
    CHECK_FALSE(worker.engine.is_done());
    worker.answer(StepWorker::params(0, chunk), bytes_of(Values(16, 2.0f)));
  }
  CHECK(worker.engine.is_done());
  CHECK(worker.values(worker.parameters.get(), 1)[7] == 2.0f);
}

TEST_CASE("options go before the pushes, again over a new connection, and have numbers") {
  StepWorker worker;
  worker.engine.begin(
      1, 5, {.gradients = worker.gradients.get(), .parameters = worker.parameters.get()}, 4);
  worker.engine.set_options(4, "header", 9);
  worker.engine.ready(3, {});
  std::vector<Message> sent = worker.send();
  REQUIRE(sent.size() == 2);
  CHECK(sent[0].header == region(reinterpret_cast<const std::byte*>("header"), 6));
  CHECK(sent[0].payload->size() == 9);
  CHECK(sent[1].push().table == 4);
  worker.engine.connected(0);
  sent = worker.send(0, 0);
  REQUIRE(sent.size() == 2);
  CHECK(sent[0].header.size() == 6);
  worker.engine.options_set(0, 3);
  worker.answer(1, 3, 0.0f);
  CHECK_FALSE(worker.engine.is_idle(0));
  worker.engine.options_set(0, 4);
  CHECK(worker.engine.is_idle(0));
  worker.engine.options_set(0, 4);
  worker.engine.connected(0);
  CHECK(worker.send().empty());
}

TEST_CASE("a pull fills a slab, each chunk in its codec, and tells the largest version") {
  StepSettings settings;
  settings.window = 3;
  StepWorker worker(settings);
  worker.attach();  // what is pulled never comes through a segment
  worker.engine.pull({"a", "b", "c", "d"}, worker.parameters.get());
  std::vector<Message> sent = worker.send();
  REQUIRE(sent.size() == 3);
  CHECK(sent[1].header == region(reinterpret_cast<const std::byte*>("b"), 1));
  CHECK_FALSE(sent[1].payload.has_value());
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) {
    ParamsHeader header = StepWorker::params(0, chunk);
    header.version = 9 - chunk;
    CHECK(worker.answer(header, bytes_of(Values(16, 1.0f + chunk))) == Received::kTaken);
    worker.send();
    CHECK(worker.values(worker.parameters.get(), chunk)[7] == 1.0f + chunk);
  }
  CHECK(worker.engine.is_done());
  CHECK(worker.engine.version() == 9);
}

TEST_CASE("what is told to all shards carries its values, and only its own answer settles it") {
  StepWorker worker;
  fill_random(worker, worker.parameters.get(), 3);
  worker.engine.tell({"a", "b", "c", "d"}, 6);
  const std::vector<Message> sent = worker.send();
  REQUIRE(sent.size() == 4);
  CHECK(sent[2].payload == region(worker.parameters.get() + 128, 64));
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) {
    CHECK_FALSE(worker.engine.is_done());
    worker.say_ok({.worker = 3, .step = 0, .chunk = chunk, .taken = true, .number = 5});
    CHECK_FALSE(worker.engine.is_done());
    worker.say_ok({.worker = 3, .step = 0, .chunk = chunk, .taken = false, .number = 6});
  }
  CHECK(worker.engine.is_done());
  // A second answer to what was published answers neither what is published next, nor a pull.
  worker.engine.tell({"a", "b", "c", "d"}, 7);
  worker.send();
  worker.say_ok({.worker = 3, .step = 0, .chunk = 0, .taken = true, .number = 6});
  worker.engine.pull({"a", "b", "c", "d"}, worker.parameters.get());
  worker.send();
  CHECK(worker.say_ok({.worker = 3, .step = 0, .chunk = 0, .taken = true, .number = 7}) ==
        Received::kTaken);
  CHECK_FALSE(worker.engine.awaits_last(0));
}
