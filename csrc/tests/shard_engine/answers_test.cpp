// Where a shard's engine finds gradients, and how it answers: in messages and in segments. The
// values are integers, so sums are exact.

#include <doctest/doctest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/shard_engine/shard_engine.h"
#include "tests/support/payloads.h"
#include "tests/support/served_pushes.h"
#include "tests/support/served_team.h"

using namespace leash;
using namespace leash::tests;

// A payload

TEST_CASE("parameters come back in the memory in which the gradient came") {
  ServedTeam team(kEach);
  CHECK(team.push(1, 1, 3.0f));
  CHECK(team.alive == 1);
  CHECK(team.said() == Said{"1: params 1.0 version 1 lag 1 = -3 x 4"});
  CHECK(team.push(2, 1, 1.0f));
  CHECK(team.said() == Said{"2: params 1.0 version 2 stale 1 = -4 x 4"});
}

TEST_CASE("a half comes back as a half, and f64 as f64") {
  ServedTeam team(
      ServedOptions{.specs = {parameters(4),
                              {.values = 4, .dtype = Dtype::kF64, .kind = ChunkKind::kParameter}}});
  const auto halves = encoded_half(Codec::kF16, {2.0f, 2.0f, 2.0f, 2.0f});
  team.send(with_codec(team.header(1, 1), WireCodec::kF16), halves);
  CHECK(team.said() == Said{"1: params 1.0 version 1 lag 1 f16 = -2 x 4"});
  std::vector<std::byte> doubles;
  for (int i = 0; i < 4; ++i) append(doubles, 5.0);
  team.send(with_codec(team.header(1, 1, 1), WireCodec::kF64), doubles);
  CHECK(team.said() == Said{"1: params 1.1 version 1 lag 1 f64 = -5 x 4"});
}

TEST_CASE("parameters that do not fit where their gradient lies have memory of their own") {
  ServedTeam team(kEach);
  team.send(with_codec(team.header(1, 1), WireCodec::kInt8), int8_payload(3));
  CHECK(team.alive == 0);
  CHECK(team.said() == Said{"1: params 1.0 version 1 lag 1 = -3 x 4"});
  const std::vector<std::uint32_t> two{0, 3};
  team.send(with_codec(team.header(1, 1, 1), WireCodec::kTopk), topk_payload(two, 0.0f));
  CHECK(team.said() == Said{"1: params 1.1 version 1 lag 1 = 0 x 4"});
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.bytes_pushed == 12 + 16);
  CHECK(counts.bytes_answered == 16 + 16);
}

TEST_CASE("parameters come in the codec that a push asks for, also from a mean and again") {
  for (const Rule rule : {kEach, kMeans}) {
    ServedTeam team(rule);
    PushHeader push = with_codec(team.header(1, 1), WireCodec::kInt8);
    push.answer = WireCodec::kBf16;
    team.send(push, int8_payload(3));
    team.push(2, 1, 3.0f);
    const Said said = team.said();
    CHECK(std::ranges::count_if(said, [](const std::string& line) {
            return line.starts_with("1: params 1.0") && line.find(" bf16 = -3 x 4") != line.npos;
          }) == 1);
    CHECK(team.engine->take_counts().bytes_answered == 8 + 16);
    push.answer = WireCodec::kF16;
    team.send(push, int8_payload(3));
    CHECK(team.said().front().find(" f16 = ") != std::string::npos);
  }
}

TEST_CASE("a push of nothing is answered as it asks, too") {
  ServedTeam team(kEach);
  PushHeader push = team.header(1, 1);
  push.absent = "\x01";
  push.answer = WireCodec::kBf16;
  team.send(push, nullptr, "1");
  CHECK(team.said() == Said{"1: params 1.0 lag 1 bf16 = 0 x 4"});
  CHECK(team.engine->take_counts().bytes_answered == 8);
}

TEST_CASE("a mean needs an int8 payload until it is applied, and answers from other memory") {
  ServedTeam team(kMeans);
  team.send(with_codec(team.header(1, 1), WireCodec::kInt8), int8_payload(3));
  CHECK(team.alive == 1);
  CHECK(team.said().empty());
  team.push(2, 1, 5.0f);
  CHECK(team.said() ==
        Said{"1: params 1.0 version 1 = -4 x 4", "2: params 1.0 version 1 = -4 x 4"});
}

TEST_CASE("a push that wants no parameters is told that it was taken") {
  ServedTeam team(kMeans);
  PushHeader push = team.header(1, 1);
  push.wants_parameters = false;
  team.send(push, 2.0f);
  CHECK(team.engine->parked() == 1);
  CHECK(team.said().empty());
  push.worker = 2;
  push.incarnation = 72;
  team.send(push, 2.0f);
  CHECK(team.said() == Said{"1: ok 1.0", "2: ok 1.0"});
  CHECK(team.value() == -2.0f);
  CHECK(team.engine->take_counts().bytes_answered == 0);
}

// Nothing pushed

TEST_CASE("a push of nothing is answered from memory of its own, and changes no value") {
  ServedTeam team(kEach);
  PushHeader push = team.header(1, 1, 2);
  push.absent = kAll;
  team.send(push);
  CHECK(team.said() == Said{"1: params 1.2 lag 1 = 0 x 4"});
  push.wants_parameters = false;
  push.step = 2;
  team.send(push);
  CHECK(team.said() == Said{"1: ok 2.2"});
  CHECK(team.shard.clock(2, 1) == 2);
  CHECK(team.engine->take_counts().bytes_pushed == 0);
}

TEST_CASE("parameters for a push of nothing go to the segment, if there is one") {
  ServedTeam team(kEach);
  Buffer* const memory = team.attach(1, "1");
  team.push(2, 1, 3.0f, 2);
  static_cast<void>(team.said());
  PushHeader push = team.header(1, 1, 2);
  push.absent = kAll;
  push.slab = 1;
  team.send(push);
  CHECK(team.said() == Said{"1: params 1.2 version 1 stale 1"});
  CHECK(*team.slab(memory, 2, 1) == -3.0f);
  CHECK(*team.slab(memory, 2, 0) == 0.0f);
}

TEST_CASE("slots that are absent keep their values") {
  ServedTeam team(ServedOptions{.specs = {{.values = 4,
                                           .dtype = Dtype::kF32,
                                           .kind = ChunkKind::kParameter,
                                           .piece_lengths = {1, 3},
                                           .piece_slots = {0, 1}}}});
  PushHeader push = team.header(1, 1);
  push.wants_parameters = false;
  for (const char* bits : {"\x01", "\x02", "\x03"}) {
    push.absent = bits;
    team.send(push, 2.0f);
    ++push.step;
  }
  CHECK(team.said().size() == 3);
  std::vector<float> out(4);
  team.shard.pull(0, std::nullopt, {reinterpret_cast<std::byte*>(out.data())});
  CHECK(out == std::vector{-2.0f, -2.0f, -2.0f, -2.0f});
}

// A segment

TEST_CASE("a chunk in a segment is swapped where it lies") {
  ServedTeam team(kEach);
  Buffer* const memory = team.attach(1, "1");
  team.fill(team.slab(memory, 1, 1), 3.0f);
  CHECK(team.send(run(1, 1, 1, 1, 1)));
  CHECK(team.said() == Said{"1: params 1.1 version 1 lag 1"});
  CHECK(*team.slab(memory, 1, 1) == -3.0f);
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.bytes_pushed == 16);
  CHECK(counts.bytes_answered == 16);
}

TEST_CASE("a run of chunks is pushed from the last to the first, and has one answer") {
  ServedTeam team(kEach);
  Buffer* const memory = team.attach(1, "1");
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) {
    team.fill(team.slab(memory, chunk), static_cast<float>(chunk + 1));
  }
  team.push(2, 1, 10.0f, 1);
  static_cast<void>(team.said());
  team.send(run(1, 1, 3, 4));
  CHECK(team.said() == Said{"1: params 1.3 version 1 lag 1 stale 1 chunks 4"});
  CHECK(*team.slab(memory, 3) == -4.0f);
  CHECK(*team.slab(memory, 1) == -12.0f);
  CHECK(*team.slab(memory, 0) == -1.0f);
}

TEST_CASE("answers are joined that are about neighbours, and over one route") {
  ServedTeam team(kMeans);
  team.attach(1, "1");
  team.attach(2, "2");
  team.send(run(1, 1, 3, 2));
  team.send(run(1, 1, 0, 1));
  CHECK(team.said().empty());
  team.send(run(2, 1, 3, 4));  // 3 and 2 let worker 1 go; 1 does not, since it was not pushed
  CHECK(team.said() == Said{"1: params 1.3 version 1", "2: params 1.3 version 1",
                            "1: params 1.2 version 1", "2: params 1.2 version 1",
                            "1: params 1.0 version 1", "2: params 1.0 version 1"});
  team.engine->leave(1, ++team.now_s);
  CHECK(team.said() == Said{"2: params 1.1 version 1"});
}

TEST_CASE("a worker that leaves lets answers go that are joined") {
  ServedTeam team(kMeans);
  team.attach(2, "2");
  team.send(run(2, 1, 3, 4));
  CHECK(team.engine->parked() == 4);
  team.engine->leave(1, ++team.now_s);
  CHECK(team.said() == Said{"2: params 1.0 version 1", "2: params 1.1 version 1",
                            "2: params 1.2 version 1", "2: params 1.3 version 1"});
}

TEST_CASE("an encoded gradient lies in the outbox, and its parameters go to the slab") {
  ServedTeam team(kEach);
  Buffer* const memory = team.attach(1, "1", true);
  const auto payload = int8_payload(7);
  std::byte* const outbox = memory->data() + 4096 + 2 * 4096 + team.starts[2] + 2 * 64;
  std::ranges::copy(payload, outbox);
  PushHeader push = with_codec(run(1, 1, 2, 1, 1), WireCodec::kInt8);
  push.nbytes = payload.size();
  team.send(push);
  CHECK(team.said() == Said{"1: params 1.2 version 1 lag 1"});
  CHECK(*team.slab(memory, 2, 1) == -7.0f);
  const EngineCounts counts = team.engine->take_counts();
  CHECK(counts.bytes_pushed == payload.size());
  CHECK(counts.bytes_answered == 16);
}

TEST_CASE("a segment stays as long as a push in it waits, also when another takes its place") {
  ServedTeam team(kMeans);
  Buffer* const first = team.attach(1, "1");
  team.fill(team.slab(first, 0), 2.0f);
  team.send(run(1, 1, 0, 1));
  team.attach(1, "1 again");
  CHECK(team.alive == 2);
  team.push(2, 1, 4.0f);
  CHECK(team.said() == Said{"2: params 1.0 version 1 = -3 x 4", "1: params 1.0 version 1"});
  CHECK(team.alive == 1);
  CHECK(team.engine->is_attached(1));
  team.engine->expel(1);
  CHECK_FALSE(team.engine->is_attached(1));
}

TEST_CASE("a segment of another size is not attached") {
  ServedTeam team(kEach);
  for (const bool has_outbox : {false, true}) {
    const std::size_t nbytes = segment_nbytes(team.slab_nbytes, has_outbox);
    for (const std::size_t wrong : {std::size_t{0}, nbytes - 1, nbytes + 1}) {
      OwnBuffer memory(wrong);
      CHECK_THROWS_WITH_AS(team.engine->attach(1, "1", &memory),
                           "memory: expected a segment of this model", std::invalid_argument);
    }
  }
  CHECK_FALSE(team.engine->is_attached(1));
}

// Parameters that the worker has

TEST_CASE("parameters that have not changed since the worker got them are not sent again") {
  ServedTeam team(kEach);
  team.push(1, 1, 3.0f);
  CHECK(team.said() == Said{"1: params 1.0 version 1 lag 1 = -3 x 4"});
  PushHeader push = team.header(1, 2);
  push.absent = kAll;
  push.has = 2;  // version 1, plus one
  team.send(push);
  CHECK(team.said() == Said{"1: params 2.0 version 1 lag 2 unchanged"});
  push.step = 3;
  team.send(push, 1.0f);
  CHECK(team.said() == Said{"1: params 3.0 version 1 lag 3 unchanged"});
  Buffer* const memory = team.attach(1, "1");
  push.step = 4;
  team.send(push);
  CHECK(team.said() == Said{"1: params 4.0 version 1 lag 4 unchanged"});
  CHECK(team.engine->take_counts().bytes_answered == 16);
  push.step = 5;
  push.has = 1;
  team.send(push);
  CHECK(team.said() == Said{"1: params 5.0 version 1 lag 5"});
  CHECK(*team.slab(memory, 0) == -3.0f);
}
