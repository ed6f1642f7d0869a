// Moves messages between a worker's step engine and its DEALER sockets, one for each shard, without
// Python.
//
//   StepEngine ──▸ next(shard) ──▸ DEALER        what the engine cannot do with an answer, and what
//        ▴                            │          is rare, ends a call: the driver deals with it,
//        and └─────── receive(shard) ◂────┘          calls again
//
// A shard that has mapped this worker's memory takes headers by a ring there, and answers by
// another.
//
// For the one thread that uses the sockets.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "core/step_engine/step_engine.h"
#include "lane/libzmq.h"
#include "lane/loan.h"
#include "lane/rings/bell.h"
#include "lane/rings/ring.h"

namespace leash::lane {

struct StepLaneSettings {
  long look_ms;  // who waits looks so often whether it still takes part
  // If answers have come sooner than this, one spins for the last one of a step, and does not
  // sleep.
  double spin_s;
  std::size_t copy_below_nbytes;  // a payload that is smaller is copied, and not lent
};

class StepLane {
 public:
  // Why a call has ended.
  enum class Stop : std::uint8_t {
    kDone,    // nothing is left to do; of advance(): nothing more can be done now
    kAnswer,  // an answer came that the engine leaves to others: see received() and frames
    kAttach,  // the header of an `attach` is to be written, and sent by send_header()
    kQuiet,   // no answer has come for as long as one waits, or a connection is gone
    kSignal   // a signal has come
  };
  // Where an outgoing payload lies.
  using Bytes = std::function<std::span<const std::byte>(const PayloadPlace&)>;

  // sockets: of the shards, in their order. bytes, loan: of what the engine sends.
  StepLane(const LibZmq& zmq, const std::vector<void*>& sockets, const StepLaneSettings& settings,
           Bytes bytes, Loan& loan);
  StepLane(const StepLane&) = delete;
  StepLane& operator=(const StepLane&) = delete;

  // Uses another socket for a shard.
  void replace(std::size_t shard, void* socket);

  // Sends what the windows allow, and takes the answers that have come. Never waits.
  Stop advance(StepEngine& engine);
  // Sends all requests, so many at a time to a shard, and takes each answer as it comes.
  Stop finish(StepEngine& engine, std::size_t at_once);

  void send_header(std::size_t shard, std::span<const std::byte> header);

  // Sends by a shard's ring too from now on, until its connection is lost. rings: kRingsNbytes,
  // that stay as long as the lane. pipe: what the shard is woken by.
  void use_ring(StepEngine& engine, std::size_t shard, std::byte* rings, int pipe);

  // Of the answer or the attach that has ended a call.
  std::size_t shard() const { return shard_; }
  Received received() const { return received_; }
  std::uint64_t attach_number() const { return attach_number_; }
  std::span<const std::byte> header() const { return answer_; }
  std::size_t payloads() const { return payloads_; }
  std::size_t payload_nbytes() const { return payloads_ == 0 ? 0 : payload_.nbytes(); }

  // How long finish() has waited for answers since the last call, in seconds.
  double take_waited();

 private:
  static std::span<const std::byte> bytes_of(Frame& frame) {
    return {reinterpret_cast<const std::byte*>(frame.data()), frame.nbytes()};
  }
  // These return why to stop, if anything.
  std::optional<Stop> send(StepEngine& engine, std::size_t shard, std::size_t most);
  std::optional<Stop> take(StepEngine& engine, std::size_t shard, bool& has_come);
  std::optional<Stop> take_next(StepEngine& engine);
  std::optional<Stop> spin(StepEngine& engine, std::size_t shard, bool& has_come);
  std::optional<Stop> wait_for_rings(StepEngine& engine);
  std::optional<Stop> poll_sockets(StepEngine& engine, long timeout_ms);
  std::optional<Stop> take_all(StepEngine& engine, bool& has_come);
  std::optional<Stop> take_from_ring(StepEngine& engine, std::size_t shard, bool& has_come);
  std::optional<Stop> hand_on(StepEngine& engine, std::size_t shard,
                              std::span<const std::byte> payload);
  bool send_by_ring(std::size_t shard, std::span<const std::byte> header);
  bool has_come_by_ring() const;
  bool is_quiet();
  void send_payload(std::size_t shard, const PayloadPlace& place);
  bool send_copy(std::size_t shard, std::span<const std::byte> bytes, int flags);
  bool hand_over(ZmqMessage& frame, std::size_t shard, int flags);

  const LibZmq& zmq_;
  std::vector<void*> sockets_;
  const StepLaneSettings settings_;
  const Bytes bytes_;
  Loan& loan_;
  struct Ring {
    RingWriter requests;
    RingReader answers;
    int pipe;
  };
  std::vector<std::optional<Ring>> rings_;  // by shard; the engine says which are used
  std::optional<Bell> bell_;                // that all shards ring

  Frame header_;
  Frame payload_;
  std::span<const std::byte> answer_ = {};  // the header of the newest answer
  std::size_t payloads_ = 0;
  std::size_t shard_ = 0;
  Received received_ = Received::kTaken;
  std::uint64_t attach_number_ = 0;
  double waited_s_ = 0.0;  // since take_waited()
  double newest_s_ = 0.0;  // how long the newest answer took to come
  std::chrono::steady_clock::time_point quiet_since_ = {};  // no answer has come since

  // Of the shards that finish() waits for.
  std::vector<std::size_t> busy_;
  std::vector<ZmqPollItem> items_;
};

}  // namespace leash::lane
