// Why a message is refused. leash.ps.errors has an exception for each code.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace leash {

namespace codes {
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
       {kBadHeader, kBadFrames, kBadPayload, kBadSegment, kUnknownChunk, kNotReady, kEvicted,
        kResync, kNonfinite, kTooMany, kMissingOptions, kSuperseded, kStopping}) {
    if (code == name) return code;
  }
  return {};
}
}  // namespace codes

// A request that has changed nothing (but see kNonfinite), and gets an `error`.
class Refused : public std::exception {
 public:
  // code: one of `codes`. clock: the newest step that was taken, with kResync.
  Refused(std::string_view code, std::string text, std::uint64_t clock = 0)
      : code_(code), text_(std::move(text)), clock_(clock) {}

  std::string_view code() const { return code_; }
  const std::string& text() const { return text_; }
  std::uint64_t clock() const { return clock_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string_view code_;
  std::string text_;
  std::uint64_t clock_;
};

}  // namespace leash
