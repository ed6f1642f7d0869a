// A ring of headers in memory that two processes share: one writes, the other reads.
//
//   offset 0     head    u64   how many records were written, by the writer
//          64    tail    u64   how many were taken, by the reader
//          128   asleep  u32   whether the reader is to be woken, by the reader
//          192   closed  u32   whether nobody reads any more, by the reader
//          256   records, of 256 bytes each: the header's size, a u16, and the header
//
// Record number n lies at place n modulo kRingRecords. Each side keeps its own number to itself,
// and takes nothing of what the other may write for granted: a record is copied out once, and
// checked as a header of a socket is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/wire/segment.h"

namespace leash::lane {

class RingWriter {
 public:
  // Goes on behind what was written to these kRingNbytes before.
  explicit RingWriter(std::byte* ring);

  // Whether there was room. REQUIRES: the header has at most kRingHeaderNbytes.
  bool put(std::span<const std::byte> header);
  // Whether the reader is to be woken since put(): it has seen less, and says that it sleeps. Once
  // for each time that it says so.
  bool has_to_wake();
  // Whether its reader has closed it.
  bool is_closed() const;

 private:
  std::byte* const ring_;
  std::uint64_t head_;
};

class RingReader {
 public:
  enum class Taken : std::uint8_t {
    kNothing,
    kHeader,
    kBroken  // what is written there is no ring: it is of no use any more
  };

  // Forgets what was written to these kRingNbytes before, and opens the ring.
  explicit RingReader(std::byte* ring);

  Taken take();
  // That was taken last.
  std::span<const std::byte> header() const { return {header_.data(), nbytes_}; }
  bool has_come() const;

  // Says that the writer has to wake this side; look whether anything has come since, then sleep.
  void fall_asleep();
  void wake_up();

  // Tells the writer that nobody reads here any more.
  void close();

 private:
  std::byte* const ring_;
  std::uint64_t tail_;
  std::array<std::byte, kRingHeaderNbytes> header_{};
  std::size_t nbytes_ = 0;
};

}  // namespace leash::lane
