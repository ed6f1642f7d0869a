// How a worker's requests go through its sockets, and when its lane asks others for help.
#include "lane/engines/step_lane.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/fake_zmq.h"
#include "tests/support/payloads.h"
#include "tests/support/step_worker.h"

using namespace leash;
using namespace leash::tests;
using lane::Loan;
using lane::StepLane;
using Stop = lane::StepLane::Stop;

namespace {

std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A worker with a lane over a socket to each shard.
struct LaneWorker : StepWorker {
  explicit LaneWorker(const StepSettings& settings = {})
      : StepWorker(settings),
        sockets(engine.shards()),
        lane(
            fake_libzmq(), handles(),
            {.look_ms = 200, .spin_s = 500e-6, .copy_below_nbytes = 256 * 1024},
            [this](const PayloadPlace& place) { return bytes_of(place); }, *loan) {}
  ~LaneWorker() {
    let_messages_leave();
    CHECK_FALSE(loan->is_out());
    loan->end();
  }
  LaneWorker(const LaneWorker&) = delete;
  LaneWorker& operator=(const LaneWorker&) = delete;

  std::vector<void*> handles() {
    std::vector<void*> all;
    for (FakeSocket& socket : sockets) all.push_back(socket.handle());
    return all;
  }
  std::span<const std::byte> bytes_of(const PayloadPlace& place) const {
    const std::byte* const from =
        place.source == PayloadSource::kMemory ? memory.get() : gradients.get();
    return {from + place.offset, place.nbytes};
  }

  // A shard's answer to a chunk of a step, all of whose values are the same.
  void answer_to(std::size_t shard, std::uint64_t step, std::uint32_t chunk, float value) {
    const Values values(chunks[chunk].values, value);
    sockets[shard].incoming.push_back(
        {text(HeaderBytes(params(step, chunk)).bytes()), text(tests::bytes_of(values))});
  }
  std::vector<std::uint32_t> pushed(std::size_t shard) const {
    std::vector<std::uint32_t> chunks_sent;
    for (const FakeSocket::Frames& frames : sockets[shard].sent) {
      const auto push = read_push(std::as_bytes(std::span(frames.front())));
      REQUIRE(push.has_value());
      chunks_sent.push_back(push->chunk);
    }
    return chunks_sent;
  }

  std::vector<FakeSocket> sockets;
  Loan* const loan = Loan::make();
  StepLane lane;
};

// The same, in memory that its only shard has mapped, which takes headers by a ring.
struct RingWorker : LaneWorker {
  RingWorker() : words(kRingsNbytes / sizeof(std::uint64_t)) {
    attach();
    use_ring();
  }
  void use_ring() {
    lane.use_ring(engine, 0, rings(), /*pipe=*/-1);
    requests.emplace(rings() + kRingPageNbytes);
    answers.emplace(rings() + kRingPageNbytes + kRingNbytes);
  }
  std::byte* rings() { return reinterpret_cast<std::byte*>(words.data()); }
  // The chunks that the next message by the ring pushes: the highest, and how many.
  Pushed came_by_ring() {
    Pushed pushed_by_ring;
    while (requests->take() == lane::RingReader::Taken::kHeader) {
      const auto push = read_push(requests->header());
      REQUIRE(push.has_value());
      pushed_by_ring.emplace_back(push->chunk, push->chunks);
    }
    return pushed_by_ring;
  }
  void answer_by_ring(const ParamsHeader& header) {
    REQUIRE(answers->put(HeaderBytes(header).bytes()));
    lane::Bell(rings()).ring();
  }
  ParamsHeader params_of_all(std::uint64_t step) const {
    ParamsHeader header = params(step, 3);
    header.chunks = 4;
    return header;
  }

  std::vector<std::uint64_t> words;
  std::optional<lane::RingReader> requests;
  std::optional<lane::RingWriter> answers;
};

StepSettings two_shards() {
  StepSettings settings;
  settings.first_chunks = {0, 2};
  return settings;
}

// Chunks so large that their gradients are sent from where they lie.
StepSettings large_chunks() {
  StepSettings settings;
  settings.chunks = {parameters_at(0, 1 << 17, 0), parameters_at(1 << 19, 1 << 17, 1)};
  return settings;
}

}  // namespace

TEST_CASE("a step goes to all shards, and its answers come to their places") {
  LaneWorker worker(two_shards());
  fill_random(worker, worker.gradients.get(), 1);
  worker.begin(1);
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.pushed(0) == std::vector<std::uint32_t>{1, 0});
  CHECK(worker.pushed(1) == std::vector<std::uint32_t>{3, 2});
  CHECK(worker.sockets[1].sent[0][1] == text({worker.gradients.get() + 192, 64}));
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) worker.answer_to(chunk / 2, 1, chunk, 7.0f);
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kDone);
  CHECK(worker.engine.is_done());
  for (std::uint32_t chunk = 0; chunk < 4; ++chunk) {
    CHECK(worker.values(worker.parameters.get(), chunk)[15] == 7.0f);
  }
}

TEST_CASE("who only waits keeps few requests in flight, and who computes its window") {
  LaneWorker worker;
  worker.begin(1);
  CHECK(worker.lane.finish(worker.engine, 2) == Stop::kQuiet);
  CHECK(worker.pushed(0) == std::vector<std::uint32_t>{3, 2});
  worker.answer_to(0, 1, 3, 0.0f);
  CHECK(worker.lane.finish(worker.engine, 2) == Stop::kQuiet);
  CHECK(worker.pushed(0) == std::vector<std::uint32_t>{3, 2, 1});
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.pushed(0) == std::vector<std::uint32_t>{3, 2, 1, 0});
}

TEST_CASE("large gradients are sent from where they lie, and are on loan until they have left") {
  LaneWorker worker(large_chunks());
  worker.begin(1);
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.loan->is_out());
  CHECK(worker.pushed(0) == std::vector<std::uint32_t>{1, 0});
  let_messages_leave();
  CHECK_FALSE(worker.loan->is_out());
}

TEST_CASE("small gradients are copied") {
  LaneWorker worker;
  worker.begin(1);
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK_FALSE(worker.loan->is_out());
}

TEST_CASE("a connection that has broken takes nothing, and what was asked goes over the next one") {
  LaneWorker worker(large_chunks());
  worker.begin(1);
  worker.sockets[0].fails = EAGAIN;
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.sockets[0].sent.empty());
  CHECK_FALSE(worker.loan->is_out());
  worker.engine.lost(0);
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kQuiet);  // at once: nothing can come
  FakeSocket next;
  worker.lane.replace(0, next.handle());
  worker.engine.connected(0);
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(next.sent.size() == 2);
}

TEST_CASE("a queue that only seems full takes what is sent") {
  LaneWorker worker(large_chunks());
  worker.begin(1);
  worker.sockets[0].seems_full = true;
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.pushed(0) == std::vector<std::uint32_t>{1, 0});
}

TEST_CASE("what a full queue does not take goes once it has room, over the same connection") {
  LaneWorker worker(large_chunks());
  worker.begin(1);
  worker.sockets[0].fails = EAGAIN;
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kQuiet);
  CHECK(worker.sockets[0].sent.empty());
  worker.sockets[0].fails = 0;
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.pushed(0) == std::vector<std::uint32_t>{1, 0});
}

TEST_CASE("an attach is written by others, and goes before anything else") {
  LaneWorker worker;
  worker.engine.attach();
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kAttach);
  CHECK(worker.lane.shard() == 0);
  CHECK(worker.lane.attach_number() == 1);
  const std::string header = "attach 1";
  worker.lane.send_header(0, std::as_bytes(std::span(header)));
  CHECK(worker.sockets[0].sent == std::vector<FakeSocket::Frames>{{header}});
  worker.sockets[0].incoming.push_back({"attached"});
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kAnswer);
  CHECK(worker.lane.received() == Received::kOther);
  CHECK(text(worker.lane.header()) == "attached");
}

TEST_CASE("a refusal ends the call, and says what came") {
  LaneWorker worker;
  worker.begin(1);
  const ErrorHeader error{"nonfinite", "a NaN", 3, 1, 2, 0};
  worker.sockets[0].incoming.push_back({text(HeaderBytes(error).bytes())});
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kAnswer);
  CHECK(worker.lane.received() == Received::kRefused);
  CHECK(worker.engine.refusal().text == "a NaN");
  CHECK(worker.lane.payloads() == 0);
}

TEST_CASE("frames that no answer has are counted, and the next message begins behind them") {
  LaneWorker worker;
  worker.begin(1);
  worker.lane.advance(worker.engine);
  worker.sockets[0].incoming.push_back(
      {text(HeaderBytes(StepWorker::params(1, 3)).bytes()), std::string(64, 'a'), "more", "still"});
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kAnswer);
  CHECK(worker.lane.payloads() == 3);
  CHECK(worker.lane.payload_nbytes() == 64);
  worker.answer_to(0, 1, 2, 5.0f);
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.values(worker.parameters.get(), 2)[0] == 5.0f);
}

TEST_CASE("a signal ends the wait, and silence too") {
  LaneWorker worker(two_shards());
  worker.begin(1);
  fake_poll_error = EINTR;
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kSignal);
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kQuiet);
  CHECK(worker.lane.take_waited() >= 0.0);
  CHECK(worker.lane.take_waited() == 0.0);
}

TEST_CASE("a socket that others have closed is an error") {
  LaneWorker worker;
  worker.begin(1);
  worker.sockets[0].fails = ENOTSOCK;
  CHECK_THROWS_WITH(worker.lane.advance(worker.engine), doctest::Contains("zmq_msg_send"));
}

TEST_CASE("a push without a payload goes by the ring, and its answer comes by it") {
  RingWorker worker;
  worker.begin_in_slab(1);
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.sockets[0].sent.empty());
  CHECK(worker.came_by_ring() == Pushed{{3, 4}});
  CHECK(worker.engine.awaits_ring_alone(0));
  worker.answer_by_ring(worker.params_of_all(1));
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kDone);
  CHECK(worker.engine.finish().version == 1);
}

TEST_CASE("who waits for a ring sleeps until it is rung for, or looks around after a while") {
  RingWorker worker;
  worker.begin_in_slab(1);
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kQuiet);
  CHECK(worker.lane.take_waited() >= 0.2);
  std::thread shard([&] { worker.answer_by_ring(worker.params_of_all(1)); });
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kDone);
  shard.join();
}

TEST_CASE("an answer by the socket counts too, while one waits for the ring") {
  RingWorker worker;
  worker.begin_in_slab(1);
  worker.sockets[0].incoming.push_back({text(HeaderBytes(worker.params_of_all(1)).bytes())});
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kDone);
}

TEST_CASE("pushes follow their options over the socket, and go by the ring afterwards") {
  RingWorker worker;
  worker.engine.begin(1, 5, {.gradients = worker.slab(1), .parameters = worker.slab(1)}, 1);
  worker.engine.set_options(1, "options", 0);
  worker.engine.ready(2, {});
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.sockets[0].sent.size() == 2);
  CHECK(worker.came_by_ring().empty());
  CHECK_FALSE(worker.engine.awaits_ring_alone(0));
  worker.engine.options_set(0, 1);
  worker.engine.ready(0, {});
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.came_by_ring() == Pushed{{1, 2}});
}

TEST_CASE("a header that is too long for a record goes by the socket") {
  StepSettings settings;
  settings.chunks = {parameters_at(0, 4096, 0)};
  settings.chunks[0].pieces.clear();
  for (std::uint32_t slot = 0; slot < 4096; ++slot) {
    settings.chunks[0].pieces.push_back({.slot = slot, .start = 4 * slot, .values = 1});
  }
  LaneWorker worker(settings);
  worker.attach();
  std::vector<std::uint64_t> words(kRingsNbytes / sizeof(std::uint64_t));
  worker.lane.use_ring(worker.engine, 0, reinterpret_cast<std::byte*>(words.data()), -1);
  worker.engine.begin(1, 5, {.gradients = worker.slab(1), .parameters = worker.slab(1)}, 0);
  worker.engine.ready(0, [](std::uint32_t slot) { return slot % 2 == 0; });
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.pushed(0) == std::vector<std::uint32_t>{0});
}

TEST_CASE("over a new connection the ring is used again once the shard says so") {
  RingWorker worker;
  worker.begin_in_slab(1);
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.came_by_ring().size() == 1);
  worker.engine.connected(0);
  CHECK(worker.lane.advance(worker.engine) == Stop::kAttach);
  worker.use_ring();  // by an answer to an earlier `attach`: it counts for nothing
  worker.requests.emplace(worker.rings() + kRingPageNbytes);
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.came_by_ring().empty());
  CHECK(worker.pushed(0) == std::vector<std::uint32_t>{3});
  static_cast<void>(worker.engine.attached(0, 2));
  worker.use_ring();
  worker.answer_by_ring(worker.params_of_all(1));
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kDone);
  worker.begin_in_slab(2);
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.came_by_ring() == Pushed{{3, 4}});
}

TEST_CASE("what a full ring does not take goes once it has room") {
  RingWorker worker;
  worker.begin_in_slab(1);
  worker.words[kRingPageNbytes / 8 + 8] = UINT64_MAX / 2;  // what the shard says it has taken
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.came_by_ring().empty());
  worker.words[kRingPageNbytes / 8 + 8] = 0;
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.came_by_ring() == Pushed{{3, 4}});
}

TEST_CASE("what a closed ring has not answered goes again over the connection") {
  RingWorker worker;
  worker.begin_in_slab(1);
  CHECK(worker.lane.advance(worker.engine) == Stop::kDone);
  CHECK(worker.came_by_ring().size() == 1);
  std::thread shard([&] {
    worker.requests->close();
    lane::Bell(worker.rings()).ring();
  });
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kQuiet);
  shard.join();
  CHECK(worker.pushed(0) == std::vector<std::uint32_t>{3});
  worker.sockets[0].incoming.push_back({text(HeaderBytes(worker.params_of_all(1)).bytes())});
  CHECK(worker.lane.finish(worker.engine, 4) == Stop::kDone);
}
