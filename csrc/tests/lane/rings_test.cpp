// Rings between two threads, or two sides that a test plays: what comes, in which order, and what
// is done with memory that is no ring.
#include <doctest/doctest.h>
#include <poll.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "lane/engines/served_rings.h"
#include "lane/rings/bell.h"
#include "lane/rings/ring.h"

using namespace leash;
using namespace leash::lane;

namespace {

constexpr int kForMs = 10'000;
constexpr std::size_t kSizeAt = kRingWordsNbytes;  // of the first record

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Memory on a page of its own, as a segment's is.
struct Shared {
  explicit Shared(std::size_t nbytes) : words(nbytes / sizeof(std::uint64_t)) {}
  std::byte* data() { return reinterpret_cast<std::byte*>(words.data()); }
  std::vector<std::uint64_t> words;
};

struct Pipe {
  Pipe() { REQUIRE(::pipe(ends) == 0); }
  ~Pipe() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  int ends[2] = {};
};

}  // namespace

TEST_CASE("headers come out as they went in, round and round") {
  Shared ring(kRingNbytes);
  RingWriter writer(ring.data());
  RingReader reader(ring.data());
  for (int i = 0; i < 1000; ++i) {
    const std::string header(static_cast<std::size_t>(i) % (kRingHeaderNbytes + 1), 'a' + i % 26);
    REQUIRE(writer.put(bytes(header)));
    REQUIRE(reader.has_come());
    REQUIRE(reader.take() == RingReader::Taken::kHeader);
    CHECK(text(reader.header()) == header);
    CHECK(reader.take() == RingReader::Taken::kNothing);
  }
}

TEST_CASE("a ring that is full takes nothing until its reader has taken something") {
  Shared ring(kRingNbytes);
  RingWriter writer(ring.data());
  RingReader reader(ring.data());
  for (std::size_t i = 0; i < kRingRecords; ++i) REQUIRE(writer.put(bytes("a")));
  CHECK_FALSE(writer.put(bytes("b")));
  CHECK(reader.take() == RingReader::Taken::kHeader);
  CHECK(writer.put(bytes("b")));
  CHECK_FALSE(writer.put(bytes("c")));
}

TEST_CASE("who begins to read forgets what was written before, and who writes goes on behind it") {
  Shared ring(kRingNbytes);
  RingWriter first(ring.data());
  for (std::size_t i = 0; i < kRingRecords; ++i) REQUIRE(first.put(bytes("early")));
  RingReader reader(ring.data());
  CHECK(reader.take() == RingReader::Taken::kNothing);
  RingWriter second(ring.data());
  REQUIRE(second.put(bytes("late")));
  REQUIRE(reader.take() == RingReader::Taken::kHeader);
  CHECK(text(reader.header()) == "late");
}

TEST_CASE("memory that is no ring is broken, and nothing beyond a record is read") {
  Shared ring(kRingNbytes);
  RingReader reader(ring.data());
  SUBCASE("more records than there are") { ring.words[0] = kRingRecords + 1; }
  SUBCASE("fewer than were taken") { ring.words[0] = UINT64_MAX; }
  SUBCASE("a size that no record has") {
    ring.words[0] = 1;
    const auto nbytes = static_cast<std::uint16_t>(kRingHeaderNbytes + 1);
    std::memcpy(ring.data() + kSizeAt, &nbytes, sizeof(nbytes));
  }
  CHECK(reader.take() == RingReader::Taken::kBroken);
}

TEST_CASE("a reader's number that cannot be makes a ring full, and harms nobody") {
  Shared ring(kRingNbytes);
  RingWriter writer(ring.data());
  ring.words[8] = 12345;
  CHECK_FALSE(writer.put(bytes("a")));
}

TEST_CASE("who says that it sleeps is woken, once, and who does not is left alone") {
  Shared ring(kRingNbytes);
  RingWriter writer(ring.data());
  RingReader reader(ring.data());
  REQUIRE(writer.put(bytes("a")));
  CHECK_FALSE(writer.has_to_wake());
  reader.fall_asleep();
  REQUIRE(writer.put(bytes("b")));
  CHECK(writer.has_to_wake());
  CHECK_FALSE(writer.has_to_wake());
}

TEST_CASE("two threads: each header comes once, in order, and no reader sleeps for ever") {
  constexpr int kHeaders = 20'000;
  Shared ring(kRingNbytes), answers(kRingNbytes), page(kRingPageNbytes);
  Pipe pipe;
  RingReader reader(ring.data());
  RingReader confirmed(answers.data());
  Bell bell(page.data());

  std::thread serving([&] {
    RingWriter writer(answers.data());
    Bell of_peer(page.data());
    int came = 0;
    while (came < kHeaders) {
      if (reader.take() != RingReader::Taken::kHeader) {
        reader.fall_asleep();
        pollfd item{pipe.ends[0], POLLIN, 0};
        if (!reader.has_come() && ::poll(&item, 1, kForMs) != 1) break;
        reader.wake_up();
        if ((item.revents & POLLIN) != 0) empty(pipe.ends[0]);
        continue;
      }
      if (text(reader.header()) != std::to_string(came)) break;
      if (!writer.put(reader.header())) break;
      of_peer.ring();
      ++came;
    }
    CHECK(came == kHeaders);
  });

  RingWriter writer(ring.data());
  int asked = 0, answered = 0;
  bool is_in_order = true;
  int naps = 0;  // that ended without an answer in a row: a bell may be rung late for one that came
  while (answered < kHeaders && is_in_order && naps < 8) {
    // A burst, then one at a time: the other side sleeps now and then.
    const int most = answered % 1000 < 500 ? 8 : 1;
    while (asked < kHeaders && asked - answered < most) {
      is_in_order &= writer.put(bytes(std::to_string(asked)));
      if (writer.has_to_wake()) wake_by(pipe.ends[1]);
      ++asked;
    }
    const std::uint32_t count = bell.count();
    if (confirmed.take() == RingReader::Taken::kHeader) {
      is_in_order &= text(confirmed.header()) == std::to_string(answered);
      ++answered;
      naps = 0;
      continue;
    }
    bell.fall_asleep();
    if (!confirmed.has_come()) bell.sleep(count, kForMs / 1000.0);
    bell.wake_up();
    ++naps;
  }
  serving.join();
  CHECK(is_in_order);
  CHECK(answered == kHeaders);
}

TEST_CASE("a ring has a route that no socket has, until another one takes its place") {
  Shared rings(kRingsNbytes);
  Pipe pipe;
  ServedRings served;
  CHECK(served.is_empty());
  const std::string first = served.open(1, rings.data(), 0, ::dup(pipe.ends[0]), "route 1", "");
  CHECK(ServedRings::is_route(first));
  for (const char* other : {"", "route 1", "\0\1\2\3\4"}) CHECK_FALSE(ServedRings::is_route(other));
  REQUIRE(served.find(first) != nullptr);
  CHECK(served.find(first)->socket_route == "route 1");

  const std::string second = served.open(1, rings.data(), 0, ::dup(pipe.ends[0]), "route 2", "");
  CHECK(first != second);
  CHECK(served.find(first) == nullptr);
  CHECK(served.find(second)->socket_route == "route 2");
  const std::string of_other = served.open(2, rings.data(), 1, ::dup(pipe.ends[0]), "route 3", "");
  served.close(1);
  CHECK(served.find(second) == nullptr);
  CHECK(served.find(of_other)->worker == 2);
}

TEST_CASE("each shard has rings of its own in a segment") {
  Shared rings(kRingsNbytes);
  ServedRings served;
  for (std::size_t shard = 0; shard < kRingShards; ++shard) {
    Pipe pipe;
    const auto worker = static_cast<std::uint32_t>(shard + 1);
    const std::string route =
        served.open(worker, rings.data(), shard, ::dup(pipe.ends[0]), "socket", "");
    RingWriter requests(rings.data() + kRingPageNbytes + shard * 2 * kRingNbytes);
    REQUIRE(requests.put(bytes(std::to_string(shard))));
  }
  std::size_t came = 0;
  served.each([&](ServedRing& ring) {
    CHECK(ring.requests.take() == RingReader::Taken::kHeader);
    CHECK(text(ring.requests.header()) == std::to_string(ring.worker - 1));
    CHECK(ring.requests.take() == RingReader::Taken::kNothing);
    ++came;
    return true;
  });
  CHECK(came == kRingShards);
}
