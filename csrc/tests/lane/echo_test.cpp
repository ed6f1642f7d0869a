// What an echo's worker sends, and where it puts what comes back.
#include "lane/echo.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>

#include "tests/support/fake_zmq.h"

using namespace leash::tests;
using leash::lane::EchoWorker;
using leash::lane::Loan;

namespace {

// A worker whose memory is "abcdefgh", in chunks of three.
struct EchoingMemory {
  explicit EchoingMemory(std::size_t copy_below_nbytes = 0)
      : worker(
            fake_libzmq(), socket.handle(), std::as_writable_bytes(std::span(memory)),
            {.chunk_nbytes = 3, .window = 2, .spin_s = 0.0, .copy_below_nbytes = copy_below_nbytes},
            *loan) {}
  ~EchoingMemory() {
    let_messages_leave();
    CHECK_FALSE(loan->is_out());
    loan->end();
  }
  EchoingMemory(const EchoingMemory&) = delete;
  EchoingMemory& operator=(const EchoingMemory&) = delete;

  void comes_back(const std::string& payload) { socket.incoming.push_back({"header", payload}); }
  // Goes on until no more has come.
  bool exchange() {
    fake_poll_error = EINTR;
    const bool is_done = worker.exchange();
    fake_poll_error = 0;
    return is_done;
  }

  FakeSocket socket;
  std::string memory = "abcdefgh";
  Loan* const loan = Loan::make();
  EchoWorker worker;
};

}  // namespace

TEST_CASE("an echo's worker keeps a window of chunks on their way, and copies each to its place") {
  EchoingMemory echo;
  CHECK_FALSE(echo.exchange());
  REQUIRE(echo.socket.sent.size() == 2);
  CHECK(echo.socket.sent[0].size() == 2);
  CHECK(echo.socket.sent[0][1] == "abc");
  CHECK(echo.socket.sent[1][1] == "def");
  CHECK(echo.loan->is_out());

  echo.comes_back("ABC");
  CHECK_FALSE(echo.exchange());
  REQUIRE(echo.socket.sent.size() == 3);
  CHECK(echo.socket.sent[2][1] == "gh");
  CHECK(echo.memory == "ABCdefgh");

  echo.comes_back("DEF");
  echo.comes_back("GH");
  CHECK(echo.exchange());
  CHECK(echo.memory == "ABCDEFGH");

  CHECK_FALSE(echo.exchange());  // the next one
  REQUIRE(echo.socket.sent.size() == 5);
  CHECK(echo.socket.sent[3][1] == "ABC");
}

TEST_CASE("an echo's worker lends no chunk that is short") {
  EchoingMemory echo(4);
  CHECK_FALSE(echo.exchange());
  CHECK(echo.socket.sent.size() == 2);
  CHECK_FALSE(echo.loan->is_out());
}

TEST_CASE("an echo's worker says so if what comes back is not what it has sent") {
  for (const std::string payload : {"AB", "ABCD", ""}) {
    EchoingMemory echo;
    echo.comes_back(payload);
    CHECK_THROWS_AS(echo.worker.exchange(), std::runtime_error);
  }
}
