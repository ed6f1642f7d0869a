// A shard, and the memory of what its workers push.
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/shard/shard.h"
#include "tests/support/payloads.h"

namespace leash::tests {

inline ShardOptions options_of(const Rule& rule) {
  return {.optimizer = SgdOptions{.lr = 1.0}, .rule = rule, .nonfinite = Nonfinite::kRaise};
}

inline ChunkSpec parameters(std::size_t values) {
  return {.values = values, .dtype = Dtype::kF32, .kind = ChunkKind::kParameter};
}

// Who was answered, and which of its steps.
using Answered = std::vector<std::pair<std::uint32_t, std::uint64_t>>;

inline Answered answered(const std::vector<Reply>& replies) {
  Answered answers;
  for (const Reply& reply : replies) answers.emplace_back(reply.worker, reply.step);
  return answers;
}

// Workers 1 to `workers` at clock 0, and every value 0. A push's memory goes as soon as the shard
// gives it back, so that a sanitizer sees any later use of it.
class Team {
 public:
  Team(const ShardOptions& options, const std::vector<ChunkSpec>& specs, std::uint32_t workers)
      : shard(specs, options) {
    for (std::uint32_t chunk = 0; chunk < specs.size(); ++chunk) {
      shard.init(chunk, std::vector<std::byte>(specs[chunk].nbytes()).data());
    }
    for (std::uint32_t worker = 1; worker <= workers; ++worker) shard.join(worker, 0);
  }
  Team(const ShardOptions& options, std::uint32_t workers)
      : Team(options, {parameters(5)}, workers) {}

  // The push of a payload that is answered in place.
  PushResult push_payload(std::uint32_t chunk, std::uint32_t worker, std::uint64_t step,
                          Codec codec, const std::vector<std::byte>& payload,
                          std::uint64_t samples = 1, PieceBits absent = {}) {
    const ChunkSpec& spec = shard.spec(chunk);
    messages_.push_back({.bytes = std::make_unique<std::byte[]>(payload.size())});
    Message& message = messages_.back();
    std::memcpy(message.bytes.get(), payload.data(), payload.size());
    const Encoded encoded =
        parse(codec, message.bytes.get(), payload.size(), spec.values, size_of(spec.dtype));
    Push push{.chunk = chunk,
              .worker = worker,
              .step = step,
              .samples = samples,
              .gradient = {encoded, &message},
              .answer = {message.bytes.get(), codec, &message},
              .wants_payload = true,
              .absent = absent};
    const bool is_elsewhere = codec == Codec::kInt8 || codec == Codec::kTopk;
    if (is_elsewhere) {
      message.elsewhere = std::make_unique<std::byte[]>(spec.nbytes());
      push.answer = {message.elsewhere.get(), Codec::kRaw, &message};
    }
    PushResult result;
    shard.push(push, result);
    take_freed();
    return result;
  }

  // The push of f32 values, all of them the same.
  PushResult push(std::uint32_t worker, std::uint64_t step, float value, std::uint32_t chunk = 0,
                  std::uint64_t samples = 1) {
    const std::vector<float> values(shard.spec(chunk).values, value);
    return push_payload(chunk, worker, step, Codec::kRaw, bytes_of(values), samples);
  }

  // The same to chunk 0, with slots for which there is no gradient.
  PushResult push_some(std::uint32_t worker, std::uint64_t step, float value, PieceBits absent) {
    const std::vector<float> values(shard.spec(0).values, value);
    return push_payload(0, worker, step, Codec::kRaw, bytes_of(values), 1, absent);
  }

  std::vector<float> values(std::uint32_t chunk = 0) {
    std::vector<float> out(shard.spec(chunk).values);
    shard.pull(chunk, std::nullopt, {reinterpret_cast<std::byte*>(out.data())});
    return out;
  }
  float value(std::uint32_t chunk = 0) { return values(chunk).front(); }

  // What lets others go on, beside a push.
  std::vector<Reply> pull(std::uint32_t worker, std::uint32_t chunk = 0) {
    std::vector<float> out(shard.spec(chunk).values);
    auto result = shard.pull(chunk, worker, {reinterpret_cast<std::byte*>(out.data())});
    take_freed();
    return result.replies;
  }
  std::vector<Reply> leave(std::uint32_t worker) {
    auto replies = shard.leave(worker);
    take_freed();
    return replies;
  }
  std::vector<Reply> set_rule(const Rule& rule) {
    auto replies = shard.set_rule(rule);
    take_freed();
    return replies;
  }

  // Takes what the shard gives back: nothing twice, and nothing that is not a push's.
  void take_freed() {
    shard.take_freed(freed_);
    for (void* owner : freed_) {
      auto* const message = static_cast<Message*>(owner);
      REQUIRE(message->bytes != nullptr);
      message->bytes.reset();
      message->elsewhere.reset();
    }
  }

  // Of how many pushes the shard still needs the memory.
  std::size_t held() const {
    std::size_t count = 0;
    for (const Message& message : messages_) count += message.bytes != nullptr ? 1 : 0;
    return count;
  }

  Shard shard;

 private:
  struct Message {
    std::unique_ptr<std::byte[]> bytes;
    std::unique_ptr<std::byte[]> elsewhere = {};  // for the answer
  };

  std::deque<Message> messages_;
  std::vector<void*> freed_;
};

}  // namespace leash::tests
