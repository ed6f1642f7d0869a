// Pushes and payloads for the tests of a shard's engine, and chunks of each sort.
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/wire/headers.h"
#include "tests/support/payloads.h"
#include "tests/support/served_team.h"

namespace leash::tests {

inline std::vector<std::byte> int8_payload(std::int8_t value) {
  std::vector<std::byte> payload;
  append(payload, std::uint32_t{64});
  append(payload, 1.0f);
  for (int i = 0; i < 4; ++i) append(payload, value);
  return payload;
}

inline PushHeader with_codec(PushHeader header, WireCodec codec) {
  header.codec = codec;
  return header;
}

inline PushHeader run(std::uint32_t worker, std::uint64_t step, std::uint32_t last,
                      std::uint64_t chunks, std::uint32_t slab = 0) {
  PushHeader header = ServedTeam::header(worker, step, last);
  header.chunks = chunks;
  header.slab = slab;
  return header;
}

inline const std::string kAll(1, '\x01');  // the bits of all slots of a chunk with one

inline const ChunkSpec kPlain{.values = 4,
                              .dtype = Dtype::kF32,
                              .kind = ChunkKind::kParameter,
                              .piece_lengths = {4},
                              .piece_slots = {0}};
inline const ChunkSpec kTwoSlots{.values = 4,
                                 .dtype = Dtype::kF32,
                                 .kind = ChunkKind::kParameter,
                                 .piece_lengths = {1, 3},
                                 .piece_slots = {1, 2}};
inline const ChunkSpec kDoubles{.values = 2,
                                .dtype = Dtype::kF64,
                                .kind = ChunkKind::kParameter,
                                .piece_lengths = {2},
                                .piece_slots = {2}};
inline const ChunkSpec kSums{.values = 4,
                             .dtype = Dtype::kF32,
                             .kind = ChunkKind::kBuffer,
                             .piece_lengths = {4},
                             .piece_slots = {3}};

// One chunk of each sort.
inline ServedOptions of_all_sorts() { return {.specs = {kPlain, kTwoSlots, kDoubles, kSums}}; }

using Counted = std::map<std::string_view, std::uint64_t>;

// Sends what is to be refused, and gives the words for it.
inline std::string refused(ServedTeam& team, const PushHeader& header,
                           const std::vector<std::byte>* payload = nullptr,
                           const std::string& route = "1") {
  const std::size_t alive = team.alive;
  const std::size_t updates = team.shard.stats().updates;
  CHECK(team.send(header, payload, route));
  CHECK(team.alive == alive);
  CHECK(team.shard.stats().updates == updates);
  const Said said = team.said();
  REQUIRE(said.size() == 1);
  return said.front();
}

inline std::string refused(ServedTeam& team, const PushHeader& header, std::size_t nbytes) {
  const std::vector<std::byte> payload(nbytes);
  return refused(team, header, &payload);
}

}  // namespace leash::tests
