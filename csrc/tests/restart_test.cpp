// A server that has died, and another one in its place: what a worker pushes again, and what a
// shard takes from it.

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "core/codecs/memory.h"
#include "tests/support/payloads.h"
#include "tests/support/step_worker.h"
#include "tests/support/team.h"

using namespace leash;
using namespace leash::tests;

namespace {

const Rule kBsp{.bound = 0, .gather = Gather::kStep};

void reconnect(StepWorker& worker, std::uint64_t incarnation) {
  worker.engine.rejoin(incarnation, 0);
  for (std::size_t shard = 0; shard < worker.engine.shards(); ++shard) {
    worker.engine.connected(shard);
  }
}

// Answers the `attach` that goes first over a new connection.
void attach_again(StepWorker& worker) {
  const std::vector<Message> first = worker.send(0, 0);
  REQUIRE(first.size() == 1);
  REQUIRE(first.front().attach != 0);
  worker.engine.attached(0, first.front().attach);
}

}  // namespace

TEST_CASE("What has no answer goes again under the new incarnation, and what has one does not") {
  StepWorker worker({.window = 2});
  worker.begin(5);
  CHECK(worker.send_pushes() == Pushed{{3, 1}, {2, 1}});
  REQUIRE(worker.answer(5, 3, 1.0F) == Received::kTaken);
  CHECK(worker.engine.settle_written() == 0);
  reconnect(worker, 8);
  CHECK(!worker.engine.is_done());
  const std::vector<Message> again = worker.send();
  REQUIRE(again.size() == 2);
  CHECK(again[0].push().chunk == 2);
  CHECK(again[1].push().chunk == 1);
  for (const Message& message : again) {
    CHECK(message.push().incarnation == 8);
    CHECK(message.push().step == 5);
    CHECK(message.push().samples == 5);
  }
  for (const std::uint32_t chunk : {2U, 1U}) worker.answer(5, chunk, 1.0F);
  CHECK(worker.send_pushes() == Pushed{{0, 1}});
  worker.answer(5, 0, 1.0F);
  CHECK(worker.engine.is_done());
  CHECK(worker.engine.newest()[3].step == 5);
}

TEST_CASE("A payload that a codec wrote goes again as it is, and error feedback counts it once") {
  StepWorker worker({.encoding = {.codec = WireCodec::kTopk, .topk_ratio = 0.25}});
  for (std::uint32_t i = 0; i < 16; ++i) worker.values(worker.gradients.get(), 1)[i] = 1.0F + i;
  worker.begin(1);
  const std::vector<Message> first = worker.send();
  const std::vector<std::byte> left(worker.residual.get(), worker.residual.get() + 256);
  worker.engine.settle_written();
  reconnect(worker, 8);
  const std::vector<Message> again = worker.send();
  REQUIRE(again.size() == first.size());
  for (std::size_t i = 0; i < first.size(); ++i) CHECK(again[i].payload == first[i].payload);
  CHECK(std::memcmp(worker.residual.get(), left.data(), left.size()) == 0);
}

TEST_CASE("Between two steps nothing goes again, and the next step has the new incarnation") {
  StepWorker worker;
  worker.begin(1);
  worker.send();
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) worker.answer(1, chunk, 1.0F);
  worker.engine.finish();
  CHECK(worker.engine.settle_written() == 0);
  reconnect(worker, 8);
  CHECK(worker.send().empty());
  worker.begin(2);
  for (const Message& message : worker.send()) CHECK(message.push().incarnation == 8);
}

TEST_CASE("In a segment, what was written is an answer, and what was being written is lost") {
  StepWorker worker({.chunks = chunks_of_16(5)});
  worker.attach();
  std::memset(worker.memory.get(), 0x3f, 5 * 64);  // not zeros
  worker.begin_in_slab(3);
  CHECK(worker.send_pushes() == Pushed{{4, 5}});
  for (std::uint32_t chunk = 0; chunk < 5; ++chunk) CHECK(worker.state(chunk) == kUntouched);
  worker.values(worker.slab(1), 1)[0] = 7.0F;
  worker.state(4) = written_state(30);
  worker.values(worker.slab(1), 2)[0] = 8.0F;
  worker.state(2) = kBeingWritten;
  CHECK(worker.engine.settle_written() == 1);
  CHECK(worker.engine.newest()[4].version == 30);
  CHECK(worker.engine.newest()[4].step == 3);
  CHECK(worker.engine.newest()[2].step == 0);
  reconnect(worker, 8);
  attach_again(worker);
  const std::vector<Message> again = worker.send();
  REQUIRE(again.size() == 3);  // chunk 3; chunk 2, which is lost; chunks 1 and 0
  CHECK(again[0].push().chunk == 3);
  CHECK(again[0].push().samples == 5);
  CHECK(again[1].push().chunk == 2);
  CHECK(again[1].push().chunks == 1);
  CHECK(again[1].push().samples == 0);
  CHECK(again[2].push().chunk == 1);
  CHECK(again[2].push().chunks == 2);
  for (std::uint32_t i = 0; i < 16; ++i) CHECK(worker.values(worker.slab(1), 2)[i] == 0.0F);
  CHECK(worker.values(worker.slab(1), 1)[0] == 7.0F);
  for (const std::uint32_t chunk : {3U, 2U, 1U, 0U}) {
    CHECK(worker.answer_in_segment(3, chunk) == Received::kTaken);
  }
  CHECK(worker.engine.is_done());
  CHECK(worker.engine.finish().version == 30);
}

TEST_CASE("A gradient that lies outside the segment is never lost") {
  StepWorker worker;
  worker.attach();
  worker.values(worker.gradients.get(), 2)[0] = 6.0F;
  worker.begin(3);
  worker.send();
  worker.state(2) = kBeingWritten;
  std::memset(worker.slab(0), 0x11, 256);  // torn
  CHECK(worker.engine.settle_written() == 0);
  reconnect(worker, 8);
  attach_again(worker);
  worker.send();
  CHECK(worker.values(worker.slab(0), 2)[0] == 6.0F);
}

TEST_CASE("A shard takes values of another server, and counts steps as taken that are in them") {
  Shard shard({parameters(16), parameters(16)}, options_of(kBsp));
  const Values old(16, 1.0F);
  for (const std::uint32_t chunk : {0U, 1U}) REQUIRE(shard.init(chunk, bytes_of(old).data()));
  shard.set_version(0, 9);
  Values newer(16, 5.0F);
  CHECK(!shard.heal(0, bytes_of(newer).data(), 12));
  CHECK(shard.version(0) == 12);
  CHECK(shard.version(1) == 0);
  CHECK(shard.stats().updates == 0);
  newer[3] = std::nanf("");
  CHECK(shard.heal(1, bytes_of(newer).data(), 12) == 3);
  CHECK(shard.version(1) == 0);
  for (const std::uint32_t worker : {1U, 2U}) shard.join(worker, 6);
  CHECK_THROWS_AS(shard.heal(0, bytes_of(old).data(), 13), std::invalid_argument);
  shard.skip_to(0, 7);
  for (const std::uint32_t worker : {1U, 2U}) {
    CHECK(shard.clock(0, worker) == 7);
    CHECK(shard.clock(1, worker) == 6);
  }
  Values gradient(16, 1.0F), answer(16);
  const auto push = [&](std::uint32_t chunk, std::uint32_t worker) {
    PushResult result;
    shard.push({.chunk = chunk,
                .worker = worker,
                .step = 7,
                .samples = 1,
                .gradient = {{Codec::kRaw, bytes_of(gradient).data(), 64, 16}},
                .answer = {reinterpret_cast<std::byte*>(answer.data())},
                .wants_payload = true},
               result);
    return result;
  };
  const PushResult again = push(0, 1);
  CHECK(again.outcome == Outcome::kDuplicate);
  REQUIRE(again.replies.size() == 1);  // at once: everybody has taken it
  CHECK(answer == Values(16, 5.0F));
  CHECK(push(1, 1).outcome == Outcome::kApplied);
}

TEST_CASE("A shard says of each answer that it is being written, and which version was") {
  for (const Rule& rule : {Rule{}, kBsp}) {
    Shard shard({parameters(16)}, options_of(rule));
    Values values(16, 1.0F);
    REQUIRE(shard.init(0, bytes_of(values).data()));
    shard.join(1, 0);
    std::uint64_t state = kUntouched;
    for (std::uint64_t step = 1; step <= 3; ++step) {
      Values place(16, 1.0F);
      auto* const data = reinterpret_cast<std::byte*>(place.data());
      PushResult result;
      shard.push({.chunk = 0,
                  .worker = 1,
                  .step = step,
                  .samples = 1,
                  .gradient = {{Codec::kRaw, data, 64, 16}},
                  .answer = {.data = data, .state = &state},
                  .wants_payload = true},
                 result);
      REQUIRE(result.replies.size() == 1);
      CHECK(is_written(state));
      CHECK(version_of(state) == shard.version(0));
    }
  }
}
