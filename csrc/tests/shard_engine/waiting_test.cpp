// Whom a shard's engine answers when, what it counts, and how long it needs the memory of others.

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/errors.h"
#include "core/shard_engine/shard_engine.h"
#include "tests/support/allocations.h"
#include "tests/support/payloads.h"
#include "tests/support/served_pushes.h"
#include "tests/support/served_team.h"

using namespace leash;
using namespace leash::tests;

// Duplicates

TEST_CASE("a duplicate is answered, and neither applied nor counted as a reply") {
  ServedTeam team(kEach);
  team.push(1, 1, 3.0f);
  team.push(1, 1, 3.0f);
  CHECK(team.said() ==
        Said{"1: params 1.0 version 1 lag 1 = -3 x 4", "1: params 1.0 version 1 lag 1 = -3 x 4"});
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.replies == 1);
  CHECK(counts.duplicates == 1);
  CHECK(counts.bytes_pushed == 32);
  CHECK(counts.bytes_answered == 32);
  const auto records = team.records();
  REQUIRE(records.size() == 3);
  CHECK(records[2].kind == RecordKind::kDuplicate);
  CHECK(records[2].at_s == 2.0);
}

TEST_CASE("a request that comes again while it waits takes the place of the first") {
  ServedTeam team(kMeans);
  team.push(1, 1, 3.0f);
  const auto payload = bytes_of({9.0f, 9.0f, 9.0f, 9.0f});
  team.send(team.header(1, 1), &payload, "1 again");
  CHECK(team.said() == Said{"1: superseded of 1.1.0: step 1 of chunk 0: asked again"});
  CHECK(team.engine->parked() == 1);
  team.push(2, 1, 5.0f);
  CHECK(team.said() ==
        Said{"1 again: params 1.0 version 1 = -4 x 4", "2: params 1.0 version 1 = -4 x 4"});
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.replies == 2);  // the first copy was not answered, so the second one counts
  CHECK(counts.duplicates == 1);
  CHECK(counts.refusals.empty());
}

TEST_CASE("a request that comes again over the same connection does so without a word") {
  ServedTeam team(kMeans);
  team.push(1, 1, 3.0f);
  team.push(1, 1, 9.0f);
  CHECK(team.said().empty());
  team.push(2, 1, 5.0f);
  CHECK(team.said() ==
        Said{"1: params 1.0 version 1 = -4 x 4", "2: params 1.0 version 1 = -4 x 4"});
}

TEST_CASE("a request in a segment that comes again needs the segment no longer than the first") {
  ServedTeam team(kMeans);
  team.attach(1, "1");
  for (int again = 0; again < 3; ++again) team.send(run(1, 1, 0, 1));
  CHECK(team.said().empty());
  team.push(2, 1, 4.0f);
  CHECK(team.said() == Said{"2: params 1.0 version 1 = -2 x 4", "1: params 1.0 version 1"});
  CHECK(team.alive == 1);
  team.engine->expel(1);
  CHECK(team.said().empty());
  CHECK(team.alive == 0);
}

TEST_CASE("an answer that was sent and is asked for again is not counted, though it waits") {
  ServedTeam team(ServedOptions{.rule = {.bound = 1}});
  team.push(1, 1, 1.0f);  // goes out, at a lag of 1
  team.engine->set_rule({.bound = 0}, team.now_s);
  CHECK(team.said().size() == 1);
  for (const char* route : {"1", "1 again"}) {
    const auto payload = bytes_of({1.0f, 1.0f, 1.0f, 1.0f});
    team.send(team.header(1, 1), &payload, route);
  }
  CHECK(team.said() == Said{"1: superseded of 1.1.0: step 1 of chunk 0: asked again"});
  team.push(2, 1, 1.0f);
  CHECK(team.said() ==
        Said{"1 again: params 1.0 version 2 = -2 x 4", "2: params 1.0 version 2 stale 1 = -2 x 4"});
  CHECK(team.engine->take_counts().replies == 2);
}

// Who waits

TEST_CASE("the mean goes to all, in the order in which they pushed") {
  ServedTeam team(ServedOptions{.rule = kMeans, .workers = 3});
  for (const std::uint32_t worker : {3u, 1u, 2u}) {
    CHECK(team.said().empty());
    team.push(worker, 1, static_cast<float>(worker));
  }
  CHECK(team.said() == Said{"3: params 1.0 version 1 = -2 x 4", "1: params 1.0 version 1 = -2 x 4",
                            "2: params 1.0 version 1 = -2 x 4"});
}

TEST_CASE("a new rule lets go who waits") {
  ServedTeam team(ServedOptions{.rule = {.bound = 0}});
  team.push(1, 1, 1.0f);
  CHECK(team.said().empty());
  team.engine->set_rule({.bound = 1}, ++team.now_s);
  CHECK(team.said() == Said{"1: params 1.0 version 1 lag 1 = -1 x 4"});
}

TEST_CASE("a pull lets go who waits for the one that pulls") {
  ServedTeam team(ServedOptions{.rule = {.bound = 0, .unit = BoundUnit::kVersions}});
  team.push(1, 1, 1.0f);
  CHECK(team.said().empty());
  team.engine->pull("2", 0, 2, WireCodec::kBf16, ++team.now_s);
  CHECK(team.said() ==
        Said{"2: params 0.0 version 1 bf16 = -1 x 4", "1: params 1.0 version 1 lag 1 = -1 x 4"});
  team.engine->pull("observer", 0, std::nullopt, WireCodec::kF32, ++team.now_s);
  CHECK(team.said() == Said{"observer: params 0.0 version 1 = -1 x 4"});
  CHECK_THROWS_AS(team.engine->pull("2", 4, 2, WireCodec::kF32, ++team.now_s), Refused);
}

TEST_CASE("who leaves is not answered, and is not waited for") {
  ServedTeam team(kMeans);
  team.push(1, 1, 1.0f);
  team.engine->expel(1);
  CHECK(team.engine->parked() == 0);
  team.engine->leave(1, ++team.now_s);
  CHECK(team.said().empty());
  CHECK(team.alive == 0);
  team.push(2, 1, 5.0f);
  CHECK(team.said() == Said{"2: params 1.0 version 1 = -5 x 4"});
  CHECK_THROWS_AS(team.engine->leave(1, ++team.now_s), NotLive);
}

TEST_CASE("who was expelled and has not left is waited for, but gets no answer") {
  ServedTeam team(kMeans);
  team.push(1, 1, 1.0f);
  team.engine->expel(1);
  CHECK_FALSE(team.push(1, 1, 1.0f));
  team.push(2, 1, 5.0f);
  CHECK(team.said() == Said{"2: params 1.0 version 1 = -3 x 4"});
  team.push(2, 2, 5.0f);
  CHECK(team.said().empty());
  team.engine->leave(1, ++team.now_s);
  CHECK(team.said() == Said{"2: params 2.0 version 2 = -8 x 4"});
}

TEST_CASE("a stop answers everybody who waits, as they came, and takes no more pushes") {
  ServedTeam team(ServedOptions{.rule = kMeans, .workers = 3});
  team.attach(2, "2");
  team.send(run(2, 1, 2, 2));
  team.push(1, 1, 1.0f, 0);
  team.send(run(2, 1, 0, 1));
  team.send(run(2, 1, 2, 1));
  team.engine->stop("the run is over");
  CHECK(team.said() ==
        Said{"2: stopping of 2.1.2: the run is over", "2: stopping of 2.1.1: the run is over",
             "1: stopping of 1.1.0: the run is over", "2: stopping of 2.1.0: the run is over"});
  CHECK(team.engine->parked() == 0);
  CHECK(team.shard.parked() == 0);
  team.push(3, 1, 1.0f);
  CHECK(team.said() == Said{"3: stopping of 3.1.0: the run is over"});
  CHECK(team.engine->take_counts().refusals.empty());
}

// Who takes part

TEST_CASE("what comes from a stranger is handed up, and changes nothing") {
  ServedTeam team(kEach);
  const PushHeader good = team.header(1, 1);
  PushHeader older = good;
  older.incarnation = 70;
  CHECK_FALSE(team.send(older, 1.0f));
  CHECK_FALSE(team.send(team.header(3, 1), 1.0f));
  const auto payload = bytes_of({1.0f});
  const HeaderBytes pushed(good);
  const HeaderBytes answer(OkHeader{1, 1, 0, true});
  for (const auto bytes : {answer.bytes(), pushed.bytes().first(9), pushed.bytes().first(0)}) {
    CHECK_FALSE(team.engine->receive({"1", bytes, nullptr, 1.0}));
  }
  CHECK(team.said().empty());
  CHECK(team.shard.version(0) == 0);
  CHECK(team.engine->take_heard().empty());
  CHECK(team.engine->take_counts().refusals.empty());
}

TEST_CASE("a worker is heard with each push, also with one that is refused") {
  ServedTeam team(kEach);
  team.push(2, 1, 1.0f);
  team.push(1, 9, 1.0f);
  team.push(1, 8, 1.0f);
  using Heard = std::vector<std::pair<std::uint32_t, double>>;
  CHECK(team.engine->take_heard() == Heard{{1, 3.0}, {2, 1.0}});
  CHECK(team.engine->take_heard().empty());
}

TEST_CASE("a new incarnation of a worker takes the place of the one before") {
  ServedTeam team(kEach);
  team.engine->admit(1, 99);
  CHECK_FALSE(team.push(1, 1, 1.0f));
  PushHeader push = team.header(1, 1);
  push.incarnation = 99;
  CHECK(team.send(push, 1.0f));
}

// Counts, records and memory

TEST_CASE("a step is noted with its last chunk, when it is pushed and when it is answered") {
  ServedTeam team(ServedOptions{.rule = {.bound = 0, .staleness_limit = 0}});
  team.push(1, 1, 1.0f, 1);
  CHECK(team.records().empty());
  PushHeader push = team.header(1, 1);
  push.samples = 32;
  team.send(push, 1.0f);
  team.push(2, 1, 1.0f);
  const auto records = team.records();
  REQUIRE(records.size() == 4);
  CHECK(records[0].kind == RecordKind::kPush);
  CHECK(records[0].samples == 32);
  CHECK(records[0].at_s == 2.0);
  CHECK(records[1].kind == RecordKind::kPush);
  CHECK(records[2].kind == RecordKind::kReply);
  CHECK(records[2].worker == 1);
  CHECK(records[2].at_s == 3.0);
  CHECK_FALSE(records[2].dropped);
  CHECK(records[3].worker == 2);
  CHECK(records[3].dropped);
  CHECK(records[3].staleness == 1);
  CHECK(team.said().size() == 2);
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.replies == 2);
  CHECK(counts.dropped == 1);
  CHECK(counts.staleness_sum == 0);
  CHECK(counts.bytes_pushed == 48);
  CHECK(counts.bytes_answered == 32);
  CHECK(team.engine->take_counts().bytes_pushed == 0);
}

TEST_CASE("the largest lag and staleness are counted, and the sum of all staleness") {
  ServedTeam team(kEach);
  for (std::uint64_t step = 1; step <= 3; ++step) team.push(1, step, 1.0f);
  team.push(2, 1, 1.0f);
  team.push(2, 2, 1.0f);
  CHECK(team.said().size() == 5);
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.max_lag == 3);
  CHECK(counts.max_staleness == 3);
  CHECK(counts.staleness_sum == 3);
}

TEST_CASE("an engine that ends lets go of all that waits and of all that was not sent") {
  ServedTeam team(kMeans);
  team.attach(1, "1");
  team.send(run(1, 1, 3, 4));
  team.push(2, 1, 1.0f, 3);
  team.push(2, 1, 1.0f, 2);
  team.send(with_codec(team.header(2, 2, 3), WireCodec::kInt8), int8_payload(1));
  CHECK(team.engine->parked() == 3);
  CHECK(team.alive == 4);
  team.engine.reset();
  CHECK(team.alive == 0);
  CHECK(team.shard.parked() == 0);
}

namespace {

// How a worker's gradients come to the server.
enum class Way { kMessage, kHalfMessage, kInt8Message, kSegment, kOutbox, kNothing };

// The most allocations of a push, and of all that its caller does with what comes of it, while two
// workers go on in a steady state. The first is ahead as far as the rule allows, so that it waits.
std::size_t most_allocations(const Rule& rule, Way way) {
  const bool in_segment = way == Way::kSegment || way == Way::kOutbox;
  const std::vector<std::byte> int8 = int8_payload(1);
  ServedTeam team(rule);
  for (const std::uint32_t worker : {1u, 2u}) {
    if (!in_segment) continue;
    Buffer* const memory = team.attach(worker, std::to_string(worker), way == Way::kOutbox);
    if (way == Way::kOutbox)
      std::ranges::copy(int8, reinterpret_cast<std::byte*>(team.slab(memory, 0, 2)));
  }
  std::vector<OutgoingAnswer> outgoing;
  std::vector<Record> records;
  std::vector<Buffer*> idle;
  std::size_t most = 0;
  const std::uint64_t lead = rule.bound.value_or(0);
  for (std::uint64_t turn = 1; turn <= 100 + lead; ++turn) {
    for (const std::uint32_t worker : {1u, 2u}) {
      if (worker == 2 && turn <= lead) continue;
      const std::uint64_t step = worker == 1 ? turn : turn - lead;
      PushHeader header = ServedTeam::header(worker, step);
      if (way == Way::kSegment) header = run(worker, step, 3, 4);
      if (way == Way::kHalfMessage) header.codec = WireCodec::kBf16;
      if (way == Way::kInt8Message || way == Way::kOutbox) header.codec = WireCodec::kInt8;
      if (way == Way::kOutbox) header.nbytes = int8.size();
      if (way == Way::kNothing) header.absent = kAll;
      const HeaderBytes written(header);
      const std::string route = std::to_string(worker);
      OwnBuffer* payload = nullptr;
      if (way == Way::kMessage) payload = new OwnBuffer(16);
      if (way == Way::kHalfMessage) payload = new OwnBuffer(8);
      if (way == Way::kInt8Message) payload = new OwnBuffer(int8.size());
      if (payload != nullptr) {
        std::fill_n(payload->data(), payload->nbytes(), std::byte{});
        if (way == Way::kInt8Message) std::ranges::copy(int8, payload->data());
      }
      const std::size_t before = allocations();
      REQUIRE(team.engine->receive({route, written.bytes(), payload, static_cast<double>(turn)}));
      team.engine->take_outgoing(outgoing);
      for (const OutgoingAnswer& message : outgoing) {
        CHECK_FALSE(std::holds_alternative<ErrorHeader>(message.header));
        team.engine->drop(message.payload);
      }
      team.engine->drop(payload);
      team.engine->take_records(records);
      team.engine->take_idle(idle);
      if (turn > 20) most = std::max(most, allocations() - before);
      for (Buffer* buffer : idle) delete buffer;
      idle.clear();
    }
  }
  CHECK(team.shard.stats().applied >= 200);
  return most;
}

const Rule kAllRules[] = {kEach,
                          kMeans,
                          {.bound = 1},
                          {.bound = 1, .bound_max = 3},
                          {.bound = 1, .unit = BoundUnit::kVersions},
                          {.gather = Gather::kRound, .backup_workers = 1},
                          {.staleness_limit = 1}};

}  // namespace

TEST_CASE("in a steady state the engine allocates nothing for a push, under any rule") {
  for (const Rule& rule : kAllRules) {
    for (const Way way : {Way::kMessage, Way::kHalfMessage, Way::kSegment, Way::kOutbox}) {
      CAPTURE(static_cast<int>(way));
      CHECK(most_allocations(rule, way) == 0);
    }
  }
}

TEST_CASE("an answer that fits nowhere else has a buffer and its memory, which go to the socket") {
  for (const Rule& rule : kAllRules) {
    for (const Way way : {Way::kInt8Message, Way::kNothing}) {
      CAPTURE(static_cast<int>(way));
      CHECK(most_allocations(rule, way) == 2);
    }
  }
}
