// Why a message is refused.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "core/wire/error_codes.h"

namespace leash {

// A request that has changed nothing (but see codes::kNonfinite), and gets an `error`.
class Refused : public std::exception {
 public:
  // code: one of `codes`. clock: the newest step that was taken, with codes::kResync.
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
