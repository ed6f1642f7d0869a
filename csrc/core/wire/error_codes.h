// The codes of an `error`. leash.ps.errors has an exception for each.
#pragma once

#include <string_view>

namespace leash::codes {

inline constexpr std::string_view kProtocol = "protocol";  // whatever has no code of its own
inline constexpr std::string_view kBadHeader = "bad_header";
inline constexpr std::string_view kBadFrames = "bad_frames";
inline constexpr std::string_view kBadPayload = "bad_payload";
inline constexpr std::string_view kBadSegment = "bad_segment";
inline constexpr std::string_view kUnknownChunk = "unknown_chunk";
inline constexpr std::string_view kNotReady = "not_ready";
inline constexpr std::string_view kEvicted = "evicted";
inline constexpr std::string_view kResync = "resync";
inline constexpr std::string_view kNonfinite = "nonfinite";
inline constexpr std::string_view kTooMany = "too_many";
inline constexpr std::string_view kMissingOptions = "missing_options";
inline constexpr std::string_view kSuperseded = "superseded";
inline constexpr std::string_view kStopping = "stopping";

// The code of this name, which lasts longer than the name may; an empty one if there is none.
constexpr std::string_view find(std::string_view name) {
  for (const std::string_view code :
       {kProtocol, kBadHeader, kBadFrames, kBadPayload, kBadSegment, kUnknownChunk, kNotReady,
        kEvicted, kResync, kNonfinite, kTooMany, kMissingOptions, kSuperseded, kStopping}) {
    if (code == name) return code;
  }
  return {};
}

}  // namespace leash::codes
