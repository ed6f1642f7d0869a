// How a worker's requests go over its data connections, what an answer means, and what goes again
// after a connection was lost.

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "core/step_engine/step_engine.h"
#include "tests/support/allocations.h"
#include "tests/support/payloads.h"
#include "tests/support/step_worker.h"

using namespace leash;
using namespace leash::tests;

TEST_CASE("chunks go from the last to the first, each with its gradient, and come back") {
  StepWorker worker;
  fill_random(worker, worker.gradients.get(), 1);
  worker.begin(1);
  const std::vector<Message> sent = worker.send();
  REQUIRE(sent.size() == 4);
  for (std::uint32_t i = 0; i < 4; ++i) {
    const std::uint32_t chunk = 3 - i;
    const PushHeader push = sent[i].push();
    CHECK(push.worker == 3);
    CHECK(push.incarnation == 7);
    CHECK(push.step == 1);
    CHECK(push.chunk == chunk);
    CHECK(push.samples == 5);
    CHECK(push.wants_parameters);
    CHECK(sent[i].payload == region(worker.gradients.get() + 64 * chunk, 64));
  }
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) {
    CHECK_FALSE(worker.engine.is_idle(0));
    CHECK(worker.engine.awaits_last(0) == (chunk == 3));
    CHECK(worker.answer(1, chunk, 10.0f + chunk) == Received::kTaken);
    CHECK(worker.values(worker.parameters.get(), chunk)[15] == 10.0f + chunk);
  }
  CHECK(worker.engine.is_done());
  CHECK(worker.engine.finish().version == 1);
}

TEST_CASE("the window limits how many are in flight, and who only waits keeps fewer") {
  StepSettings settings;
  settings.window = 3;
  StepWorker worker(settings);
  worker.begin(1);
  CHECK(worker.send_pushes(0, 2) == Pushed{{3, 1}, {2, 1}});
  CHECK(worker.send_pushes() == Pushed{{1, 1}});
  worker.answer(1, 2, 0.0f);
  CHECK(worker.send_pushes(0, 2).empty());
  CHECK(worker.send_pushes() == Pushed{{0, 1}});
}

TEST_CASE("only chunks that are ready go, and nothing goes without a connection") {
  StepWorker worker;
  worker.engine.begin(
      1, 5, {.gradients = worker.gradients.get(), .parameters = worker.parameters.get()}, 0);
  CHECK(worker.send_pushes().empty());
  worker.engine.ready(2, {});
  worker.engine.lost(0);
  CHECK(worker.send_pushes().empty());
  CHECK_FALSE(worker.engine.is_idle(0));
  worker.engine.connected(0);
  CHECK(worker.send_pushes() == Pushed{{3, 1}, {2, 1}});
  worker.engine.ready(2, {});  // nothing new
  CHECK(worker.send_pushes().empty());
  worker.engine.ready(0, {});
  CHECK(worker.send_pushes() == Pushed{{1, 1}, {0, 1}});
}

TEST_CASE("each shard gets its own chunks, and an answer counts over its own connection only") {
  StepSettings settings;
  settings.first_chunks = {0, 1, 1};
  StepWorker worker(settings);
  worker.begin(1);
  CHECK(worker.send_pushes(0) == Pushed{{0, 1}});
  CHECK(worker.send_pushes(1).empty());
  CHECK(worker.engine.is_idle(1));
  CHECK(worker.send_pushes(2) == Pushed{{3, 1}, {2, 1}, {1, 1}});
  worker.answer(1, 0, 1.0f, 2);
  CHECK_FALSE(worker.engine.is_idle(0));
  worker.answer(1, 0, 1.0f, 0);
  CHECK(worker.engine.is_idle(0));
  CHECK_FALSE(worker.engine.is_done());
}

TEST_CASE("what has no answer goes again over a new connection, in order, before anything new") {
  StepSettings settings;
  settings.window = 3;
  StepWorker worker(settings);
  fill_random(worker, worker.gradients.get(), 2);
  worker.begin(1);
  const std::vector<Message> first = worker.send();
  worker.answer(1, 2, 0.0f);
  worker.engine.lost(0);
  CHECK(worker.send().empty());
  worker.engine.connected(0);
  const std::vector<Message> again = worker.send(0, 0);
  REQUIRE(again.size() == 2);
  CHECK(again[0].header == first[0].header);
  CHECK(again[0].payload == first[0].payload);
  CHECK(again[1].header == first[2].header);
  CHECK(worker.send_pushes() == Pushed{{0, 1}});
  CHECK(worker.send().empty());
}

TEST_CASE("an answer that came before a request went again leaves nothing to send") {
  StepWorker worker;
  worker.begin(1);
  worker.send();
  worker.engine.connected(0);
  worker.answer(1, 3, 0.0f);
  CHECK(worker.send_pushes() == Pushed{{2, 1}, {1, 1}, {0, 1}});
}

TEST_CASE("a second answer, one to an older step, and one to nothing are ignored") {
  StepWorker worker;
  worker.begin(1);
  worker.send();
  worker.answer(1, 3, 1.0f);
  CHECK(worker.answer(1, 3, 2.0f) == Received::kTaken);
  CHECK(worker.answer(0, 2, 2.0f) == Received::kTaken);
  ParamsHeader beyond = StepWorker::params(1, 4'000'000'000);
  CHECK(worker.answer(beyond) == Received::kTaken);
  for (const std::uint64_t chunks : {std::uint64_t{0}, std::uint64_t{4}, ~std::uint64_t{0} >> 1}) {
    ParamsHeader strange = StepWorker::params(1, 2);
    strange.chunks = chunks;
    CHECK(worker.answer(strange, bytes_of(Values(16, 2.0f))) == Received::kTaken);
  }
  CHECK(worker.values(worker.parameters.get(), 3)[0] == 1.0f);
  CHECK(worker.values(worker.parameters.get(), 2)[0] == 0.0f);
  CHECK_FALSE(worker.engine.awaits_last(0));
}

TEST_CASE("the answers to a step that was broken off are ignored") {
  StepWorker worker;
  worker.begin(1);
  worker.send();
  worker.engine.forget();
  CHECK(worker.engine.is_done());
  CHECK(worker.answer(1, 0, 1.0f) == Received::kTaken);
  CHECK(worker.values(worker.parameters.get(), 0)[0] == 0.0f);
  worker.begin(2);
  worker.send();
  CHECK(worker.answer(1, 0, 1.0f) == Received::kTaken);
  CHECK(worker.values(worker.parameters.get(), 0)[0] == 0.0f);
  CHECK_FALSE(worker.engine.awaits_last(0));
}

TEST_CASE("a step ends with the largest of its answers' numbers, and not with open answers") {
  StepWorker worker;
  worker.begin(9);
  worker.send();
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) {
    CHECK_THROWS_AS(worker.engine.finish(), std::invalid_argument);
    ParamsHeader header = StepWorker::params(9, chunk);
    header.version = 100 + chunk % 3;
    header.lag = chunk == 1 ? 3 : 0;
    header.staleness = 10 - chunk;
    worker.answer(header, bytes_of(Values(16)));
  }
  const StepEnd end = worker.engine.finish();
  CHECK(end.version == 102);
  CHECK(end.lag == 3);
  CHECK(end.staleness == 10);
  CHECK(worker.engine.version() == 102);
}

TEST_CASE("a superseded copy goes again, but not in a segment, where the newer one follows") {
  StepWorker worker;
  worker.begin(1);
  worker.send();
  CHECK(worker.fail("superseded", 0, 2) == Received::kTaken);  // of another step
  CHECK(worker.send().empty());
  CHECK(worker.fail("superseded", 1, 2) == Received::kTaken);
  CHECK(worker.send_pushes(0, 0) == Pushed{{2, 1}});

  StepWorker shares;
  shares.attach();
  shares.begin_in_slab(1);
  shares.send();
  CHECK(shares.fail("superseded", 1, 3) == Received::kLook);
  CHECK(shares.send().empty());
}

TEST_CASE("every other error comes out as it came, whatever it is about") {
  StepWorker worker;
  worker.begin(1);
  worker.send();
  CHECK(worker.fail("resync", 8, 9, "expected step 2", 1) == Received::kRefused);
  CHECK(worker.engine.refusal().code == "resync");
  CHECK(worker.engine.refusal().text == "expected step 2");
  CHECK(worker.engine.refusal().clock == 1);
  CHECK(worker.fail("missing_options", 1, 0) == Received::kLook);
}

TEST_CASE("answers of the wrong kind or form are refused, or left to who can say what is wrong") {
  StepWorker worker;
  worker.begin(1);
  worker.send();
  CHECK(worker.answer(StepWorker::params(1, 0)) == Received::kRefused);
  CHECK(worker.engine.refusal().code == "protocol");
  CHECK(worker.engine.refusal().text == "chunk 0: expected its parameters as payload");
  CHECK(worker.answer(StepWorker::params(1, 0), bytes_of(Values(15))) == Received::kOther);
  ParamsHeader coded = StepWorker::params(1, 0);
  coded.codec = WireCodec::kF64;
  CHECK(worker.answer(coded, bytes_of(Values(16))) == Received::kOther);
  coded.codec = WireCodec::kBf16;
  CHECK(worker.answer(coded, bytes_of(Values(16))) == Received::kOther);
  coded.codec = WireCodec::kInt8;
  CHECK(worker.answer(coded, bytes_of(Values(16))) == Received::kRefused);
  CHECK(worker.engine.refusal().code == "bad_payload");
  CHECK(worker.say_ok({.worker = 3, .step = 1, .chunk = 0, .taken = true}) == Received::kRefused);
  CHECK(worker.engine.refusal().text == "unexpected ok");
  const std::vector<std::byte> junk = bytes_of(Values(3));
  CHECK(worker.engine.receive(0, junk, 0, {}) == Received::kOther);
  const HeaderBytes header(StepWorker::params(1, 0));
  CHECK(worker.engine.receive(0, header.bytes(), 2, junk) == Received::kOther);
  const HeaderBytes ok(OkHeader{.worker = 3, .step = 1, .chunk = 0, .taken = true});
  CHECK(worker.engine.receive(0, ok.bytes(), 1, junk) == Received::kOther);
  CHECK(worker.values(worker.parameters.get(), 0)[0] == 0.0f);
  CHECK_FALSE(worker.engine.awaits_last(0));
}

TEST_CASE("steps ask for no memory once the first has been through") {
  // So many slots that their bits do not fit into a short string.
  StepChunk of_many_slots{.start = 0, .values = 200, .dtype = Dtype::kF32, .is_parameters = true};
  for (std::uint32_t slot = 0; slot < 200; ++slot) {
    of_many_slots.pieces.push_back({.slot = slot, .start = 4 * slot, .values = 1});
  }
  const StepEngine::IsAbsent is_absent = [](std::uint32_t slot) { return slot % 2 == 1; };
  for (const WireCodec codec :
       {WireCodec::kF32, WireCodec::kBf16, WireCodec::kInt8, WireCodec::kTopk}) {
    for (const bool shares : {false, true}) {
      for (const bool has_absent : {false, true}) {
        StepSettings settings;
        settings.encoding.codec = codec;
        settings.first_chunks = {0, 20};
        settings.chunks = {of_many_slots};
        for (std::uint32_t i = 1; i < 40; ++i) {
          settings.chunks.push_back(parameters_at(832 + 64 * i, 16, 200 + i));
        }
        StepWorker worker(settings);
        if (shares) worker.attach();
        const auto step = [&](std::uint64_t number) {
          worker.engine.begin(number, 5,
                              {.gradients = worker.slab(0), .parameters = worker.slab(0)}, 0);
          const StepEngine::IsAbsent absent = has_absent ? is_absent : StepEngine::IsAbsent();
          worker.engine.ready(20, absent);
          worker.engine.ready(0, absent);
          std::uint32_t answered = 40;
          while (!worker.engine.is_done()) {
            for (const std::size_t shard : {0u, 1u}) {
              while (worker.engine.next(shard, 1000)) continue;
            }
            --answered;
            const HeaderBytes header(StepWorker::params(number, answered));
            const std::span<const std::byte> values(worker.slab(1), answered == 0 ? 800 : 64);
            REQUIRE(worker.engine.receive(answered / 20, header.bytes(), shares ? 0 : 1,
                                          shares ? std::span<const std::byte>() : values) ==
                    Received::kTaken);
          }
          worker.engine.finish();
        };
        step(1);
        step(2);
        CHECK(allocations_of([&] { step(3); }) == 0);
      }
    }
  }
}

TEST_CASE("parts that do not fit together are refused") {
  const auto make = [](const StepSettings& settings, const StepMemory& memory,
                       std::byte* residual) {
    return StepEngine(settings.chunks,
                      {.worker = 1,
                       .incarnation = 1,
                       .window = settings.window,
                       .first_chunks = settings.first_chunks},
                      settings.encoding, memory, residual);
  };
  std::vector<std::byte> bytes(4096);
  const StepMemory memory{.data = bytes.data(), .nbytes = 512, .slabs = {0, 256}};
  const auto refuses = [&](const StepSettings& settings, const StepMemory& given,
                           std::byte* residual = nullptr) {
    CHECK_THROWS_AS(make(settings, given, residual), std::invalid_argument);
  };
  CHECK_NOTHROW(make({}, memory, nullptr));
  StepSettings settings;
  settings.first_chunks = {0, 3, 2};
  refuses(settings, memory);
  settings.first_chunks = {1};
  refuses(settings, memory);
  settings.first_chunks = {0, 5};
  refuses(settings, memory);
  settings = {};
  settings.window = 0;
  refuses(settings, memory);
  settings = {};
  settings.chunks.clear();
  refuses(settings, memory);
  refuses({}, {.data = bytes.data(), .nbytes = 511, .slabs = {0, 256}});
  settings = {};
  settings.encoding.codec = WireCodec::kInt8;
  refuses(settings, memory, bytes.data());  // no outbox
  refuses(settings, {.data = bytes.data(), .nbytes = 700, .slabs = {0, 256}, .outbox = 512},
          bytes.data());
  refuses(settings, {.data = bytes.data(), .nbytes = 4096, .slabs = {0, 256}, .outbox = 512});
  settings.encoding.int8_block = 100;
  refuses(settings, {.data = bytes.data(), .nbytes = 4096, .slabs = {0, 256}, .outbox = 512},
          bytes.data());
  StepWorker worker;
  CHECK_THROWS_AS(worker.engine.ready(0, {}), std::invalid_argument);  // no step is open
  CHECK_THROWS_AS(worker.engine.pull({"a"}, worker.parameters.get()), std::invalid_argument);
  CHECK_THROWS_AS(
      worker.engine.begin(
          1, 1, {.gradients = worker.gradients.get() + 1, .parameters = worker.parameters.get()},
          0),
      std::invalid_argument);
}
