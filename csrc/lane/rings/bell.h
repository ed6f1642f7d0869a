// What a worker sleeps on until an answer lies in one of its rings, and a server until a request
// does.
#pragma once

#include <cstddef>
#include <cstdint>

namespace leash::lane {

// A word that processes share, on which one of them sleeps; it is zero at first.
//
//   offset 0    rings   u32   how often it was rung
//          64   asleep  u32   whether somebody sleeps
class Bell {
 public:
  explicit Bell(std::byte* page) : page_(page) {}

  // Wakes whoever sleeps.
  void ring();

  // For the one who sleeps: take note of count(), say so, look whether anything has come; then
  // sleep(), unless something has, and wake_up().
  std::uint32_t count() const;
  void fall_asleep();
  // Sleeps until it has been rung since count() gave `count`, or so long at most. Returns whether
  // it was a signal that ended it.
  bool sleep(std::uint32_t count, double timeout_s);
  void wake_up();

 private:
  std::byte* const page_;
};

// Writes a byte to the pipe that a server waits for. It never waits: a pipe that is full wakes too.
void wake_by(int pipe);
// Takes out what lies in a pipe.
void empty(int pipe);

}  // namespace leash::lane
