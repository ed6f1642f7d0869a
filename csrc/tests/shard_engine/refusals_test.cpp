// What a shard's engine refuses: by which code, in which words, and that it has changed nothing.

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "core/shard_engine/shard_engine.h"
#include "tests/support/served_pushes.h"
#include "tests/support/served_team.h"

using namespace leash;
using namespace leash::tests;

namespace {

PushHeader changed(PushHeader header, void (*change)(PushHeader&)) {
  change(header);
  return header;
}

}  // namespace

TEST_CASE("a chunk of another shard is refused, wherever its number comes up") {
  ServedTeam team(ServedOptions{.first_chunk = 2});
  CHECK(refused(team, team.header(1, 1, 1), 16) ==
        "1: unknown_chunk of 1.1.1: chunk 1: expected 2 to 5");
  CHECK(refused(team, team.header(1, 1, 6), 16) ==
        "1: unknown_chunk of 1.1.6: chunk 6: expected 2 to 5");
  PushHeader push = team.header(1, 1, 6);
  push.absent = "\x01";
  CHECK(refused(team, push) == "1: unknown_chunk of 1.1.6: chunk 6: expected 2 to 5");
  team.attach(1, "1");
  push = team.header(1, 1, 3);
  push.chunks = 3;
  CHECK(refused(team, push) == "1: unknown_chunk of 1.1.3: chunk 1: expected 2 to 5");
  CHECK(team.engine->take_counts().refusals == Counted{{"unknown_chunk", 4}});
  CHECK(team.engine->take_counts().bytes_pushed == 0);
}

TEST_CASE("a shard without chunks says so") {
  Shard shard({}, options_of(kEach));
  ShardEngine engine(shard, {.first_chunk = 7}, Nonfinite::kRaise);
  engine.admit(1, 71);
  const HeaderBytes written(ServedTeam::header(1, 1, 7));
  OwnBuffer payload(16);
  CHECK(engine.receive({"1", written.bytes(), &payload, 1.0}));
  std::vector<OutgoingAnswer> outgoing;
  engine.take_outgoing(outgoing);
  REQUIRE(outgoing.size() == 1);
  CHECK(outgoing[0].text == "chunk 7: this shard has no chunk at all");
}

TEST_CASE("a push by another key than its worker's is not taken, and is no sign of life") {
  ServedTeam team(ServedOptions{});
  team.engine->admit(1, 71, "key of 1");
  const HeaderBytes written(ServedTeam::header(1, 1, 0));
  OwnBuffer payload(16);
  std::fill_n(payload.data(), payload.nbytes(), std::byte{});
  Incoming message{"1", written.bytes(), &payload, 1.0};
  for (const std::string_view key : {"", "key of 2", "key of 11", "key of "}) {
    message.key = key;
    CHECK_FALSE(team.engine->receive(message));
  }
  CHECK(team.engine->take_heard().empty());
  CHECK(team.engine->take_counts().bytes_pushed == 0);
  message.key = "key of 1";
  CHECK(team.engine->receive(message));
  CHECK(team.engine->take_heard().size() == 1);
  CHECK(team.said().size() == 1);  // while the payload, in which the answer is, is there
}

TEST_CASE("a codec is refused that cannot carry the chunk") {
  ServedTeam team(of_all_sorts());
  PushHeader push = team.header(1, 1, 0);
  push.codec = WireCodec::kF64;
  CHECK(refused(team, push, 32) ==
        "1: bad_header of 1.1.0: chunk 0 holds f32 parameters: expected "
        "codec f32, bf16, f16, int8, topk, got 'f64'");
  push.codec = WireCodec::kBf16;
  push.chunk = 2;
  CHECK(refused(team, push, 4) ==
        "1: bad_header of 1.1.2: chunk 2 holds f64 parameters: expected codec f64, got 'bf16'");
  push.chunk = 3;
  CHECK(refused(team, push, 8) ==
        "1: bad_header of 1.1.3: chunk 3 holds f32 buffers: expected codec f32, got 'bf16'");
  team.attach(1, "1");
  push.chunks = 2;
  push.codec = WireCodec::kF32;
  CHECK(refused(team, push) ==
        "1: bad_header of 1.1.3: chunk 2 holds f64 parameters: expected codec f64, got 'f32'");
}

TEST_CASE(
    "an answer is refused in a codec in which parameters do not travel, or lie in a segment") {
  ServedTeam team(of_all_sorts());
  PushHeader push = team.header(1, 1, 0);
  push.answer = WireCodec::kInt8;
  CHECK(refused(team, push, 16) ==
        "1: bad_header of 1.1.0: chunk 0 holds f32 parameters: expected answer f32, bf16, f16, "
        "got 'int8'");
  push.answer = WireCodec::kF64;
  CHECK(refused(team, push, 16).ends_with("got 'f64'"));
  push.chunk = 3;
  push.answer = WireCodec::kBf16;
  CHECK(refused(team, push, 16) ==
        "1: bad_header of 1.1.3: chunk 3 holds f32 buffers: expected answer f32, got 'bf16'");
  team.attach(1, "1");
  push.chunk = 0;
  CHECK(refused(team, push) ==
        "1: bad_header of 1.1.0: push_pull.answer: expected none, since parameters lie in a "
        "segment as they are");
  CHECK(team.shard.clock(0, 1) == 0);
}

TEST_CASE("a payload is refused that cannot be of this size") {
  ServedTeam team(of_all_sorts());
  PushHeader push = team.header(1, 1, 0);
  CHECK(refused(team, push, 15) ==
        "1: bad_payload of 1.1.0: chunk 0: expected 16 bytes (f32, 4 values), got 15");
  push.codec = WireCodec::kF16;
  CHECK(refused(team, push, 9) ==
        "1: bad_payload of 1.1.0: chunk 0: expected 8 bytes (f16, 4 values), got 9");
  push.codec = WireCodec::kTopk;
  CHECK(refused(team, push, 17) ==
        "1: bad_payload of 1.1.0: chunk 0: expected at most 16 bytes (topk, 4 values), got 17");
  push.codec = WireCodec::kInt8;
  CHECK(refused(team, push, 13) ==
        "1: bad_payload of 1.1.0: chunk 0: expected at most 12 bytes (int8, 4 values), got 13");
  const std::string malformed = refused(team, push, 11);
  CHECK(malformed.starts_with("1: bad_payload of 1.1.0: chunk 0: int8: "));
  CHECK(team.engine->take_counts().refusals == Counted{{"bad_payload", 5}});
  CHECK(team.shard.clock(0, 1) == 0);
}

TEST_CASE("absent slots are refused that the chunk does not have, and any of a buffer") {
  ServedTeam team(of_all_sorts());
  PushHeader push = team.header(1, 1, 1);
  push.absent = "\x04";
  CHECK(refused(team, push, 16) ==
        "1: bad_header of 1.1.1: push_pull.absent: expected bits of 2 slots, got 04");
  CHECK(refused(team, push) ==
        "1: bad_header of 1.1.1: push_pull.absent: expected bits of 2 slots, got 04");
  const std::string most(30, '\xab');
  push.absent = most;
  push.wants_parameters = false;
  CHECK(refused(team, push, 16) ==
        "1: bad_header of 1.1.1: push.absent: expected bits of 2 slots, got "
        "abababababababababababababababababababab");
  push.chunk = 3;
  push.absent = "\x01";
  CHECK(refused(team, push) ==
        "1: bad_header of 1.1.3: push.absent: expected none of a buffer, got 01");
  const std::string none(2, '\0');
  push.absent = none;
  CHECK(refused(team, push) ==
        "1: bad_frames of 1.1.3: push: expected a payload, since not all slots are absent");
}

TEST_CASE("a push without a payload is refused, unless a segment has it or it is of nothing") {
  ServedTeam team(of_all_sorts());
  const PushHeader pull = team.header(1, 1, 1);
  CHECK(refused(team, pull) ==
        "1: bad_segment of 1.1.1: worker 1: expected a payload, or attach before");
  PushHeader push = pull;
  push.wants_parameters = false;
  CHECK(refused(team, push) ==
        "1: bad_frames of 1.1.1: push: expected a payload, since not all slots are absent");
  push.absent = "\x01";
  CHECK(refused(team, push) ==
        "1: bad_frames of 1.1.1: push: expected a payload, since not all slots are absent");
}

TEST_CASE("memory of a segment that is named beside a payload is refused") {
  ServedTeam team(kEach);
  const PushHeader good = team.header(1, 1);
  for (const PushHeader& push : {changed(good, [](PushHeader& h) { h.chunks = 2; }),
                                 changed(good, [](PushHeader& h) { h.slab = 1; }),
                                 changed(good, [](PushHeader& h) { h.nbytes = 1; })}) {
    CHECK(refused(team, push, 16) ==
          "1: bad_header of 1.1.0: push_pull: expected no chunks, slab "
          "and nbytes beside a payload");
  }
}

TEST_CASE("a segment is refused over another connection than the one that attached it") {
  ServedTeam team(kEach);
  team.attach(1, "1");
  const PushHeader push = team.header(1, 1);
  CHECK(refused(team, push, nullptr, "old") ==
        "old: superseded of 1.1.0: worker 1: attached over another connection");
  PushHeader nothing = push;
  nothing.absent = "\x01";
  CHECK(refused(team, nothing, nullptr, "old") ==
        "old: superseded of 1.1.0: worker 1: attached over another connection");
  team.attach(1, "old");
  CHECK(refused(team, push) ==
        "1: superseded of 1.1.0: worker 1: attached over another connection");
  CHECK(team.send(push, nullptr, "old"));
  CHECK(team.said() == Said{"old: params 1.0 version 1 lag 1"});
  CHECK(team.engine->take_counts().refusals.empty());
}

TEST_CASE("memory that a segment does not have is refused") {
  ServedTeam team(of_all_sorts());
  team.attach(1, "1");
  PushHeader push = team.header(1, 1, 1);
  push.slab = 2;
  CHECK(refused(team, push) == "1: bad_segment of 1.1.1: expected slab 0 or 1, got 2");
  push.absent = "\x03";
  CHECK(refused(team, push) == "1: bad_segment of 1.1.1: expected slab 0 or 1, got 2");
  push = team.header(1, 1, 1);
  push.nbytes = 8;
  CHECK(refused(team, push) ==
        "1: bad_segment of 1.1.1: expected raw values: this segment has no outbox");
  team.attach(1, "1", true);
  CHECK(refused(team, push) ==
        "1: bad_payload of 1.1.1: chunk 1: f32 lies in the slab; expected nbytes 0, got 8");
  push.codec = WireCodec::kBf16;
  push.nbytes = 9;
  CHECK(refused(team, push) ==
        "1: bad_payload of 1.1.1: chunk 1: expected 8 bytes (bf16, 4 values), got 9");
  push.nbytes = 0;
  CHECK(refused(team, push) ==
        "1: bad_payload of 1.1.1: chunk 1: expected 8 bytes (bf16, 4 values), got 0");
}

TEST_CASE("a run is refused that goes below chunk 0, or is of one chunk only by its other fields") {
  ServedTeam team(of_all_sorts());
  team.attach(1, "1", true);
  PushHeader push = team.header(1, 1, 1);
  for (const std::uint64_t chunks : {std::uint64_t{0}, std::uint64_t{3}, std::uint64_t{1} << 62}) {
    push.chunks = chunks;
    CHECK(refused(team, push) == "1: bad_header of 1.1.1: push_pull.chunks: expected 1 to 2, got " +
                                     std::to_string(chunks));
  }
  push.chunks = 2;
  push.absent = "\x01";
  CHECK(refused(team, push) == "1: bad_header of 1.1.1: push_pull.chunks: expected 1 to 1, got 2");
  push.absent = {};
  push.nbytes = 8;
  CHECK(refused(team, push) == "1: bad_header of 1.1.1: push_pull.chunks: expected 1 to 1, got 2");
}

TEST_CASE("a step that leaves one out is refused, with the clock to go on from") {
  ServedTeam team(kEach);
  team.push(1, 1, 1.0f);
  static_cast<void>(team.said());
  CHECK(refused(team, team.header(1, 3), 16) ==
        "1: resync of 1.3.0 clock 1: chunk 0, worker 1: expected step 2, got 3");
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.refusals == Counted{{"resync", 1}});
  CHECK(counts.bytes_pushed == 32);
}

TEST_CASE("a chunk without values is refused, and a worker that has left the shard") {
  ServedTeam team(ServedOptions{.has_values = false});
  CHECK(refused(team, team.header(1, 1), 16) ==
        "1: not_ready of 1.1.0: chunk 0 has no values yet: send init first");
  team.engine->leave(1, team.now_s);
  CHECK(refused(team, team.header(1, 1), 16) ==
        "1: evicted of 1.1.0: worker 1: not live; say hello again to go on");
}

TEST_CASE("a step is refused while the one before it has no answer") {
  ServedTeam team(kMeans);
  team.push(1, 1, 1.0f, 3);
  CHECK(refused(team, team.header(1, 2, 3), 16) ==
        "1: too_many of 1.2.3: chunk 3, worker 1: step 1 still waits for its answer, got step 2");
  CHECK(team.engine->take_counts().bytes_pushed == 16);
  team.push(1, 1, 1.0f, 2);
  team.push(2, 1, 3.0f, 3);
  CHECK(team.said() ==
        Said{"1: params 1.3 version 1 = -2 x 4", "2: params 1.3 version 1 = -2 x 4"});
}

TEST_CASE("each chunk of a run has an answer of its own, as its push went") {
  ServedTeam team(kEach);
  Buffer* const memory = team.attach(1, "1");
  team.push(1, 1, 1.0f, 3);
  team.push(1, 1, 1.0f, 0);
  team.push(1, 2, 1.0f, 0);
  static_cast<void>(team.said());
  static_cast<void>(team.engine->take_counts());
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) team.fill(team.slab(memory, chunk), 2.0f);
  PushHeader push = team.header(1, 2, 3);
  push.chunks = 4;
  team.send(push);
  CHECK(team.said() == Said{"1: resync of 1.2.2: chunk 2, worker 1: expected step 1, got 2",
                            "1: resync of 1.2.1: chunk 1, worker 1: expected step 1, got 2",
                            "1: params 2.3 version 2 lag 2", "1: params 2.0 version 2 lag 2"});
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.duplicates == 1);
  CHECK(counts.replies == 1);
  CHECK(counts.bytes_pushed == 64);
}

// Closed

TEST_CASE("pushes are refused until they may come, after all that is wrong with them") {
  ServedTeam team(of_all_sorts());
  team.attach(1, "1");
  team.engine->refuse_pushes(codes::kNotReady, "waiting for workers [2]");
  const std::string words = "1: not_ready of 1.1.0: waiting for workers [2]";
  PushHeader push = team.header(1, 1);
  CHECK(refused(team, push, 16) == words);
  CHECK(refused(team, push) == words);
  CHECK(refused(team, push, 15).starts_with("1: bad_payload"));
  push.absent = "\x01";
  CHECK(refused(team, push) == words);
  push.wants_parameters = false;
  CHECK(refused(team, push) == words);
  CHECK(team.engine->take_counts().bytes_pushed == 0);
  team.engine->refuse_pushes({}, {});
  CHECK(team.send(push));
  CHECK(team.said() == Said{"1: ok 1.0"});
}

TEST_CASE("a text is cut at the length that an error may have") {
  ServedTeam team(kEach);
  team.engine->refuse_pushes(codes::kNotReady, std::string(900, 'x'));
  CHECK(refused(team, team.header(1, 1), 16) ==
        "1: not_ready of 1.1.0: " + std::string(kMaxErrorText, 'x'));
}
