// What a shard's engine does with values that are not finite, and with tables of options.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "core/shard_engine/shard_engine.h"
#include "tests/support/payloads.h"
#include "tests/support/served_pushes.h"
#include "tests/support/served_team.h"

using namespace leash;
using namespace leash::tests;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kHuge = std::numeric_limits<float>::max();

}  // namespace

// Values that are not finite

TEST_CASE("a gradient that is not finite is refused on arrival, and in part applied") {
  ServedTeam team(kEach);
  const auto payload = bytes_of({1.0f, 1.0f, kInf, 1.0f});
  const std::string words =
      "1: nonfinite of 1.1.1: step 1 of worker 1: slot b would have a NaN or an infinity after its "
      "update; the block of 1,024 values with it was left out, the rest was applied";
  team.send(team.header(1, 1, 1), payload);
  CHECK(team.said() == Said{words});
  CHECK(team.shard.clock(1, 1) == 1);
  CHECK(team.alive == 0);
  team.send(team.header(1, 1, 1), payload);  // the answer was lost
  CHECK(team.said() == Said{words});
  EngineCounts counts = team.engine->take_counts();
  CHECK(counts.nonfinite_chunks == 1);
  CHECK(counts.duplicates == 0);
  CHECK(counts.replies == 0);
  CHECK(counts.bytes_pushed == 32);
  CHECK(counts.refusals.empty());
  const auto records = team.records();
  REQUIRE(records.size() == 1);
  CHECK(records[0].kind == RecordKind::kNonfinite);
  CHECK(records[0].worker == 1);
  CHECK(records[0].chunk == 1);
  CHECK(records[0].slot == 1);
  team.push(1, 2, 1.0f, 1);
  CHECK(team.said().front().starts_with("1: params 2.1"));
}

TEST_CASE("a worker that comes back may push a step that was refused as not finite") {
  ServedTeam team(kEach);
  team.push(1, 1, kInf);
  static_cast<void>(team.said());
  team.engine->expel(1);
  team.engine->leave(1, team.now_s);
  team.shard.join(1, 0);
  team.engine->admit(1, 71);
  team.push(1, 1, 2.0f);
  CHECK(team.said().front().starts_with("1: params 1.0"));
}

TEST_CASE("a gradient for a mean, or a buffer, that is not finite is not taken at all") {
  const std::string end =
      " has a NaN or an infinity in what was pushed; nothing of its chunk was taken";
  ServedTeam team(kMeans);
  team.push(1, 1, std::nanf(""));
  CHECK(team.said() == Said{"1: nonfinite of 1.1.0: step 1 of worker 1: slot a" + end});
  team.push(2, 1, 4.0f);
  CHECK(team.said() == Said{"2: params 1.0 version 1 = -4 x 4"});
  ServedTeam others(of_all_sorts());
  others.push(1, 1, kInf, 3);
  CHECK(others.said() == Said{"1: nonfinite of 1.1.3: step 1 of worker 1: slot d" + end});
  CHECK(others.engine->parked() == 0);
}

TEST_CASE("the slot is named in which the value lies") {
  ServedTeam team(of_all_sorts());
  for (const auto& [first, slot] : std::map<float, std::string>{{kInf, "b"}, {0.0f, "c"}}) {
    const std::uint32_t worker = slot == "b" ? 1 : 2;
    team.send(team.header(worker, 1, 1), bytes_of({first, 0.0f, 0.0f, kInf}));
    CHECK(team.said().front().find("slot " + slot + " would") != std::string::npos);
  }
}

TEST_CASE("where they are skipped, gradients that are not finite are answered and noted") {
  ServedTeam team(ServedOptions{.rule = kMeans, .nonfinite = Nonfinite::kSkip});
  team.push(1, 1, kInf);
  CHECK(team.said().empty());
  team.push(2, 1, 4.0f);
  CHECK(team.said() ==
        Said{"1: params 1.0 version 1 = -4 x 4", "2: params 1.0 version 1 = -4 x 4"});
  team.push(1, 1, kInf);
  CHECK(team.said() == Said{"1: params 1.0 version 1 = -4 x 4"});
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.nonfinite_chunks == 1);
  CHECK(counts.duplicates == 1);
  CHECK(counts.replies == 2);
}

TEST_CASE("a mean that would overflow, though no gradient does, is noted for nobody") {
  ServedTeam team(kMeans);
  for (std::uint64_t step = 1; step <= 2; ++step) {
    for (const std::uint32_t worker : {1u, 2u}) team.push(worker, step, kHuge / 1.5f);
  }
  CHECK(team.said().size() == 4);
  CHECK(team.engine->take_counts().nonfinite_chunks == 1);
  const auto records = team.records();
  const auto noted = std::ranges::find(records, RecordKind::kNonfinite, &Record::kind);
  REQUIRE(noted != records.end());
  CHECK(noted->worker == 0);
  CHECK(noted->step == 2);
  CHECK(noted->slot == 0);
}

// Tables of options

TEST_CASE("a push by other options than the newest is refused, unless it was taken before") {
  ServedTeam team(kEach);
  PushHeader push = team.header(1, 1);
  push.table = 2;
  CHECK(refused(team, push, 16) ==
        "1: missing_options of 1.1.0: worker 1, step 1: goes by options 2, the newest are 0");
  team.engine->note_options(1, 2, 1);
  CHECK(team.send(push, 1.0f));
  static_cast<void>(team.said());
  push.step = 2;
  push.table = 1;
  CHECK(refused(team, push, 16) ==
        "1: missing_options of 1.2.0: worker 1, step 2: goes by options 1, the newest are 2");
  push.step = 1;
  CHECK(team.send(push, 1.0f));
  CHECK(team.said() == Said{"1: params 1.0 version 1 lag 1 = -1 x 4"});
  push.chunk = 9;
  CHECK(refused(team, push, 16) == "1: unknown_chunk of 1.1.9: chunk 9: expected 0 to 3");
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.duplicates == 1);
  CHECK(counts.refusals == Counted{{"unknown_chunk", 1}});
  team.push(2, 1, 1.0f);
  CHECK(team.said() == Said{"2: params 1.0 version 2 stale 1 = -2 x 4"});
}

TEST_CASE("a run by other options is refused if one of its chunks is new, or unknown") {
  ServedTeam team(ServedOptions{.first_chunk = 1});
  team.attach(1, "1");
  team.push(1, 1, 1.0f, 2);
  static_cast<void>(team.said());
  PushHeader push = team.header(1, 1, 2);
  push.table = 1;
  push.chunks = 2;
  CHECK(refused(team, push).starts_with("1: missing_options of 1.1.2"));
  push.chunks = 3;
  CHECK(refused(team, push) == "1: unknown_chunk of 1.1.2: chunk 0: expected 1 to 4");
  push.chunk = 1;
  CHECK(refused(team, push) == "1: unknown_chunk of 1.1.1: chunk 0: expected 1 to 4");
}

TEST_CASE("a worker that is not live is told so, whatever its options") {
  ServedTeam team(kEach);
  team.engine->leave(1, team.now_s);
  PushHeader push = team.header(1, 1);
  push.table = 1;
  CHECK(refused(team, push, 16).starts_with("1: evicted of 1.1.0"));
}

TEST_CASE("two workers with different options for a mean are noted once") {
  ServedTeam team(ServedOptions{.rule = kMeans, .workers = 3});
  const auto push = [&](std::uint32_t worker, std::uint64_t step) {
    PushHeader header = team.header(worker, step);
    header.table = std::vector<std::uint64_t>{0, 4, 1}[worker - 1];
    team.send(header, 1.0f);
  };
  const auto noted = [&] {
    auto records = team.records();
    std::erase_if(records, [](const Record& r) { return r.kind != RecordKind::kOptionsDiffer; });
    return records;
  };
  team.engine->note_options(3, 1, 5);
  team.engine->note_options(2, 4, 5);
  push(3, 1);
  push(2, 1);
  CHECK(noted().empty());
  push(1, 1);
  const auto records = noted();
  REQUIRE(records.size() == 1);
  CHECK(records[0].worker == 1);
  CHECK(records[0].other == 3);
  CHECK(records[0].step == 1);
  for (const std::uint32_t worker : {1u, 2u, 3u}) push(worker, 2);
  CHECK(noted().empty());
  CHECK(team.said().size() == 6);
}

TEST_CASE("options are forgotten with their worker") {
  ServedTeam team(kEach);
  team.engine->note_options(1, 1, 1);
  team.engine->expel(1);
  team.engine->admit(1, 71);
  team.push(1, 1, 1.0f);
  CHECK(team.said() == Said{"1: params 1.0 version 1 lag 1 = -1 x 4"});
}
