// What goes over a worker's data connections, what an answer means, and what goes again after a
// connection was lost.

#include "core/step_engine/step_engine.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/codecs/encode.h"
#include "core/step_engine/rounding_seed.h"
#include "tests/support/allocations.h"
#include "tests/support/payloads.h"
#include "tests/support/step_worker.h"

using namespace leash;
using namespace leash::tests;

namespace {

std::vector<std::uint64_t> attaches_of(const std::vector<Message>& sent) {
  std::vector<std::uint64_t> numbers;
  for (const Message& message : sent) numbers.push_back(message.attach);
  return numbers;
}

std::vector<std::byte> region(const std::byte* from, std::size_t nbytes) {
  return {from, from + nbytes};
}

// A worker whose chunks 0 to 3 are parameters in f32 and f64, and buffers in f32.
std::vector<StepChunk> mixed_chunks() {
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

StepSettings with_codec(WireCodec codec, std::size_t values) {
  StepSettings settings;
  settings.encoding = {.codec = codec, .int8_block = 64, .topk_ratio = 0.25};
  settings.chunks = {parameters_at(0, values, 0), parameters_at(4 * values, values, 1)};
  return settings;
}

void fill_random(const StepWorker& worker, std::byte* slab, unsigned seed) {
  std::mt19937 dice(seed);
  std::normal_distribution<float> normal;
  for (std::uint32_t chunk = 0; chunk < worker.chunks.size(); ++chunk) {
    float* const values = worker.values(slab, chunk);
    std::generate_n(values, worker.chunks[chunk].values, [&] { return normal(dice); });
  }
}

}  // namespace

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

TEST_CASE("in a segment one message names up to 16 chunks of one codec that became ready at once") {
  StepSettings settings;
  settings.chunks = chunks_of_16(20);
  StepWorker worker(settings);
  worker.attach();
  worker.begin_in_slab(1);
  const std::vector<Message> sent = worker.send();
  REQUIRE(sent.size() == 2);
  CHECK_FALSE(sent[0].payload.has_value());
  CHECK(sent[0].push().slab == 1);
  CHECK(sent[0].push().chunk == 19);
  CHECK(sent[0].push().chunks == 16);
  CHECK(sent[1].push().chunk == 3);
  CHECK(sent[1].push().chunks == 4);
  CHECK(worker.answer_in_segment(1, 19, 3) == Received::kTaken);
  CHECK_FALSE(worker.engine.awaits_last(0));
  CHECK(worker.answer_in_segment(1, 16, 13) == Received::kTaken);
  CHECK(worker.engine.awaits_last(0));
  CHECK(worker.answer_in_segment(1, 4, 2) == Received::kTaken);  // not in flight together
  CHECK(worker.answer_in_segment(1, 3, 4) == Received::kTaken);
  CHECK(worker.engine.is_done());

  worker.engine.begin(2, 5, {.gradients = worker.slab(1), .parameters = worker.slab(1)}, 0);
  worker.engine.ready(18, {});
  worker.engine.ready(9, {});
  CHECK(worker.send_pushes() == Pushed{{19, 2}, {17, 9}});
}

TEST_CASE("in a segment a run ends where the codec changes, and around a slot without gradient") {
  StepSettings settings;
  settings.chunks = mixed_chunks();
  StepWorker worker(settings);
  worker.attach();
  worker.begin_in_slab(1, 0);
  CHECK(worker.send_pushes() == Pushed{{3, 1}, {2, 1}, {1, 2}});

  StepWorker lacks;
  lacks.attach();
  lacks.engine.begin(1, 5, {.gradients = lacks.slab(0), .parameters = lacks.slab(0)}, 0);
  lacks.engine.ready(0, [](std::uint32_t slot) { return slot == 2; });
  CHECK(lacks.send_pushes() == Pushed{{3, 1}, {2, 1}, {1, 2}});
}

TEST_CASE("no answer counts in a segment before that to the newest attach") {
  StepWorker worker;
  worker.attach();
  worker.begin_in_slab(1);
  CHECK(worker.send_pushes() == Pushed{{3, 4}});
  for (std::uint64_t number = 2; number <= 3; ++number) {
    worker.engine.lost(0);
    worker.engine.connected(0);
    const std::vector<Message> sent = worker.send(0, 0);
    CHECK(attaches_of(sent) == std::vector<std::uint64_t>{number, 0});
    CHECK(sent[1].push().chunk == 3);
  }
  CHECK(worker.answer_in_segment(1, 3, 4) == Received::kTaken);
  CHECK_FALSE(worker.engine.attached(0, 2));
  CHECK(worker.answer_in_segment(1, 3, 4) == Received::kTaken);
  CHECK_FALSE(worker.engine.is_idle(0));
  CHECK_FALSE(worker.engine.attached(0, 3));  // it is no answer to attach()
  CHECK(worker.answer_in_segment(1, 3, 4) == Received::kTaken);
  CHECK(worker.engine.is_done());
}

TEST_CASE("a step that is broken off meanwhile does not have answers count any sooner") {
  StepWorker worker;
  worker.attach();
  worker.begin_in_slab(1);
  worker.send();
  worker.engine.connected(0);
  worker.engine.forget();
  CHECK(attaches_of(worker.send()) == std::vector<std::uint64_t>{2});
  worker.begin_in_slab(2);
  worker.send();
  worker.answer_in_segment(2, 3, 4);
  CHECK_FALSE(worker.engine.is_done());
  worker.engine.attached(0, 2);
  worker.answer_in_segment(2, 3, 4);
  CHECK(worker.engine.is_done());
}

TEST_CASE("an attach that was lost is asked again with a new number, and may be given up") {
  StepWorker worker;
  worker.engine.attach();
  CHECK_FALSE(worker.engine.is_idle(0));
  CHECK(attaches_of(worker.send()) == std::vector<std::uint64_t>{1});
  CHECK(worker.engine.awaits_last(0));
  worker.engine.connected(0);
  CHECK(attaches_of(worker.send(0, 0)) == std::vector<std::uint64_t>{2});
  CHECK_FALSE(worker.engine.attached(0, 1));
  CHECK_FALSE(worker.engine.is_idle(0));
  CHECK(worker.engine.attached(0, 2));
  CHECK(worker.engine.is_idle(0));

  worker.engine.attach();
  worker.send();
  worker.engine.forget();
  worker.engine.connected(0);
  worker.begin(1);
  CHECK(worker.send_pushes() == Pushed{{3, 1}, {2, 1}, {1, 1}, {0, 1}});
  CHECK_FALSE(worker.engine.is_attached());
  worker.answer(1, 3, 2.0f);
  CHECK(worker.values(worker.parameters.get(), 3)[0] == 2.0f);
}

TEST_CASE(
    "a shard that was attached over a lost connection is asked again while others are awaited") {
  StepSettings settings;
  settings.first_chunks = {0, 2};
  StepWorker worker(settings);
  worker.engine.attach();
  CHECK(attaches_of(worker.send(0)) == std::vector<std::uint64_t>{1});
  CHECK(attaches_of(worker.send(1)) == std::vector<std::uint64_t>{1});
  CHECK(worker.engine.attached(0, 1));
  worker.engine.connected(0);
  CHECK(worker.engine.attached(1, 1));
  worker.engine.keep_attached();
  worker.begin_in_slab(1);
  const std::vector<Message> sent = worker.send(0);
  REQUIRE(sent.size() == 2);
  CHECK(sent[0].attach == 2);
  CHECK_FALSE(worker.engine.attached(0, 2));  // it answers no attach() any more
  worker.answer_in_segment(1, 1, 2);
  CHECK(worker.engine.is_idle(0));

  StepWorker gives_up(settings);
  gives_up.engine.attach();
  gives_up.send(0);
  gives_up.engine.attached(0, 1);
  gives_up.engine.forget();
  gives_up.engine.connected(0);
  CHECK(gives_up.send(0).empty());
}

TEST_CASE(
    "a shard's refusal counts as long as the memory is offered, and not once that is given up") {
  StepWorker worker;
  worker.engine.attach();
  worker.send();
  CHECK(worker.fail("bad_segment", 0, 0) == Received::kRefused);
  worker.engine.forget();
  CHECK(worker.fail("bad_segment", 0, 0) == Received::kTaken);
  worker.attach();
  CHECK(worker.fail("bad_segment", 1, 0) == Received::kRefused);
}

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

TEST_CASE("memory outside the slabs is copied to the first slab, and answers back from there") {
  StepSettings settings;
  settings.window = 1;
  settings.chunks = mixed_chunks();
  StepWorker worker(settings);
  worker.attach();
  std::memset(worker.gradients.get(), 1, 224);
  worker.begin(1);
  CHECK(worker.engine.rewrites());
  CHECK(worker.engine.copies_answers());
  for (const auto& [chunk, chunks] : Pushed{{3, 1}, {2, 1}, {1, 2}}) {
    const std::vector<Message> sent = worker.send();
    REQUIRE(sent.size() == 1);
    CHECK(sent[0].push().chunk == chunk);
    CHECK(sent[0].push().slab == 0);
    const std::size_t begin = worker.chunks[chunk + 1 - chunks].start;
    const std::size_t end = worker.chunks[chunk].stop();
    CHECK(region(worker.slab(0) + begin, end - begin) ==
          region(worker.gradients.get() + begin, end - begin));
    std::memset(worker.slab(0) + begin, 2, end - begin);
    worker.answer_in_segment(1, chunk, chunks);
    CHECK(region(worker.parameters.get() + begin, end - begin) ==
          region(worker.slab(0) + begin, end - begin));
  }
  CHECK(worker.engine.is_done());
}

TEST_CASE("answers in the slab that was pushed are copied only if they are wanted elsewhere") {
  StepWorker worker;
  worker.attach();
  worker.begin_in_slab(1);
  CHECK_FALSE(worker.engine.rewrites());
  CHECK_FALSE(worker.engine.copies_answers());
  worker.engine.begin(1, 5, {.gradients = worker.slab(1), .parameters = worker.slab(0)}, 0);
  worker.engine.ready(0, {});
  CHECK_FALSE(worker.engine.rewrites());
  CHECK(worker.engine.copies_answers());
  CHECK(worker.send().front().push().slab == 1);
  std::memset(worker.slab(1), 3, 256);
  worker.answer_in_segment(1, 3, 2);
  CHECK(worker.values(worker.slab(0), 1)[0] == 0.0f);
  CHECK(region(worker.slab(0) + 128, 128) == region(worker.slab(1) + 128, 128));
}

TEST_CASE("a payload has no place in a segment") {
  StepWorker worker;
  worker.attach();
  worker.begin_in_slab(1);
  worker.send();
  CHECK(worker.answer(1, 3, 1.0f) == Received::kRefused);
  CHECK(worker.engine.refusal().text == "chunk 3: expected the parameters in the segment");
}

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

TEST_CASE("steps ask for no memory once the first has been through") {
  for (const bool shares : {false, true}) {
    StepSettings settings;
    settings.chunks = chunks_of_16(40);
    StepWorker worker(settings);
    if (shares) worker.attach();
    const std::vector<std::byte> payload = bytes_of(Values(16));
    const auto step = [&](std::uint64_t number) {
      worker.engine.begin(number, 5, {.gradients = worker.slab(0), .parameters = worker.slab(0)},
                          0);
      worker.engine.ready(20, {});
      worker.engine.ready(0, {});
      std::uint32_t answered = 40;
      while (!worker.engine.is_done()) {
        while (worker.engine.next(0, 1000)) continue;
        --answered;
        const HeaderBytes header(StepWorker::params(number, answered));
        worker.engine.receive(0, header.bytes(), shares ? 0 : 1, payload);
      }
      worker.engine.finish();
    };
    step(1);
    step(2);
    CHECK(allocations_of([&] { step(3); }) == 0);
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
