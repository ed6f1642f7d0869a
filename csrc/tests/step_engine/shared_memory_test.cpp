// What a worker names instead of sending it, in memory that its shards have mapped, and when their
// answers count there.

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/step_engine/step_engine.h"
#include "tests/support/step_worker.h"

using namespace leash;
using namespace leash::tests;

namespace {

std::vector<std::uint64_t> attaches_of(const std::vector<Message>& sent) {
  std::vector<std::uint64_t> numbers;
  for (const Message& message : sent) numbers.push_back(message.attach);
  return numbers;
}

}  // namespace

TEST_CASE("in a segment one message names up to 16 chunks of one codec that became ready at once") {
  StepSettings settings;
  settings.chunks = chunks_of_16(20);
  StepWorker worker(settings);
  worker.attach();
  worker.begin_in_slab(1);
  const std::vector<Message> sent = worker.send();
  REQUIRE(sent.size() == 2);
  CHECK_FALSE(sent[0].payload.has_value());
  CHECK(sent[0].push().slab == 1);
  CHECK(sent[0].push().chunk == 19);
  CHECK(sent[0].push().chunks == 16);
  CHECK(sent[1].push().chunk == 3);
  CHECK(sent[1].push().chunks == 4);
  CHECK(worker.answer_in_segment(1, 19, 3) == Received::kTaken);
  CHECK_FALSE(worker.engine.awaits_last(0));
  CHECK(worker.answer_in_segment(1, 16, 13) == Received::kTaken);
  CHECK(worker.engine.awaits_last(0));
  CHECK(worker.answer_in_segment(1, 4, 2) == Received::kTaken);  // not in flight together
  CHECK(worker.answer_in_segment(1, 3, 4) == Received::kTaken);
  CHECK(worker.engine.is_done());

  worker.engine.begin(2, 5, {.gradients = worker.slab(1), .parameters = worker.slab(1)}, 0);
  worker.engine.ready(18, {});
  worker.engine.ready(9, {});
  CHECK(worker.send_pushes() == Pushed{{19, 2}, {17, 9}});
}

TEST_CASE("in a segment a run ends where the codec changes, and around a slot without gradient") {
  StepSettings settings;
  settings.chunks = mixed_chunks();
  StepWorker worker(settings);
  worker.attach();
  worker.begin_in_slab(1, 0);
  CHECK(worker.send_pushes() == Pushed{{3, 1}, {2, 1}, {1, 2}});

  StepWorker lacks;
  lacks.attach();
  lacks.engine.begin(1, 5, {.gradients = lacks.slab(0), .parameters = lacks.slab(0)}, 0);
  lacks.engine.ready(0, [](std::uint32_t slot) { return slot == 2; });
  CHECK(lacks.send_pushes() == Pushed{{3, 1}, {2, 1}, {1, 2}});
}

TEST_CASE("no answer counts in a segment before that to the newest attach") {
  StepWorker worker;
  worker.attach();
  worker.begin_in_slab(1);
  CHECK(worker.send_pushes() == Pushed{{3, 4}});
  for (std::uint64_t number = 2; number <= 3; ++number) {
    worker.engine.lost(0);
    worker.engine.connected(0);
    const std::vector<Message> sent = worker.send(0, 0);
    CHECK(attaches_of(sent) == std::vector<std::uint64_t>{number, 0});
    CHECK(sent[1].push().chunk == 3);
  }
  CHECK(worker.answer_in_segment(1, 3, 4) == Received::kTaken);
  CHECK_FALSE(worker.engine.attached(0, 2));
  CHECK(worker.answer_in_segment(1, 3, 4) == Received::kTaken);
  CHECK_FALSE(worker.engine.is_idle(0));
  CHECK_FALSE(worker.engine.attached(0, 3));  // it is no answer to attach()
  CHECK(worker.answer_in_segment(1, 3, 4) == Received::kTaken);
  CHECK(worker.engine.is_done());
}

TEST_CASE(
    "a run goes again whole, and is answered whole, though a part of it was answered before") {
  StepWorker worker;
  worker.attach();
  worker.begin_in_slab(1);
  CHECK(worker.send_pushes() == Pushed{{3, 4}});
  CHECK(worker.answer_in_segment(1, 3, 1) == Received::kTaken);  // before the loss is heard of
  worker.engine.lost(0);
  worker.engine.connected(0);
  const std::vector<Message> sent = worker.send(0, 0);
  REQUIRE(sent.size() == 2);
  CHECK(sent[1].push().chunks == 4);
  worker.engine.attached(0, 2);
  CHECK(worker.answer_in_segment(2, 3, 4) == Received::kTaken);  // of another step
  CHECK_FALSE(worker.engine.is_done());
  CHECK(worker.answer_in_segment(1, 3, 2) == Received::kTaken);
  CHECK_FALSE(worker.engine.is_done());
  CHECK(worker.answer_in_segment(1, 3, 4) == Received::kTaken);
  CHECK(worker.engine.is_done());
}

TEST_CASE("a step that is broken off meanwhile does not have answers count any sooner") {
  StepWorker worker;
  worker.attach();
  worker.begin_in_slab(1);
  worker.send();
  worker.engine.connected(0);
  worker.engine.forget();
  CHECK(attaches_of(worker.send()) == std::vector<std::uint64_t>{2});
  worker.begin_in_slab(2);
  worker.send();
  worker.answer_in_segment(2, 3, 4);
  CHECK_FALSE(worker.engine.is_done());
  worker.engine.attached(0, 2);
  worker.answer_in_segment(2, 3, 4);
  CHECK(worker.engine.is_done());
}

TEST_CASE("an attach that was lost is asked again with a new number, and may be given up") {
  StepWorker worker;
  worker.engine.attach();
  CHECK_FALSE(worker.engine.is_idle(0));
  CHECK(attaches_of(worker.send()) == std::vector<std::uint64_t>{1});
  CHECK(worker.engine.awaits_last(0));
  worker.engine.connected(0);
  CHECK(attaches_of(worker.send(0, 0)) == std::vector<std::uint64_t>{2});
  CHECK_FALSE(worker.engine.attached(0, 1));
  CHECK_FALSE(worker.engine.is_idle(0));
  CHECK(worker.engine.attached(0, 2));
  CHECK(worker.engine.is_idle(0));

  worker.engine.attach();
  worker.send();
  worker.engine.forget();
  worker.engine.connected(0);
  worker.begin(1);
  CHECK(worker.send_pushes() == Pushed{{3, 1}, {2, 1}, {1, 1}, {0, 1}});
  CHECK_FALSE(worker.engine.is_attached());
  worker.answer(1, 3, 2.0f);
  CHECK(worker.values(worker.parameters.get(), 3)[0] == 2.0f);
}

TEST_CASE(
    "a shard that was attached over a lost connection is asked again while others are awaited") {
  StepSettings settings;
  settings.first_chunks = {0, 2};
  StepWorker worker(settings);
  worker.engine.attach();
  CHECK(attaches_of(worker.send(0)) == std::vector<std::uint64_t>{1});
  CHECK(attaches_of(worker.send(1)) == std::vector<std::uint64_t>{1});
  CHECK(worker.engine.attached(0, 1));
  worker.engine.connected(0);
  CHECK(worker.engine.attached(1, 1));
  worker.engine.keep_attached();
  worker.begin_in_slab(1);
  const std::vector<Message> sent = worker.send(0);
  REQUIRE(sent.size() == 2);
  CHECK(sent[0].attach == 2);
  CHECK_FALSE(worker.engine.attached(0, 2));  // it answers no attach() any more
  worker.answer_in_segment(1, 1, 2);
  CHECK(worker.engine.is_idle(0));

  StepWorker gives_up(settings);
  gives_up.engine.attach();
  gives_up.send(0);
  gives_up.engine.attached(0, 1);
  gives_up.engine.forget();
  gives_up.engine.connected(0);
  CHECK(gives_up.send(0).empty());
}

TEST_CASE(
    "a shard's refusal counts as long as the memory is offered, and not once that is given up") {
  StepWorker worker;
  worker.engine.attach();
  worker.send();
  CHECK(worker.fail("bad_segment", 0, 0) == Received::kRefused);
  worker.engine.forget();
  CHECK(worker.fail("bad_segment", 0, 0) == Received::kTaken);
  worker.attach();
  CHECK(worker.fail("bad_segment", 1, 0) == Received::kRefused);
}

TEST_CASE("memory outside the slabs is copied to the first slab, and answers back from there") {
  StepSettings settings;
  settings.window = 1;
  settings.chunks = mixed_chunks();
  StepWorker worker(settings);
  worker.attach();
  std::memset(worker.gradients.get(), 1, 224);
  worker.begin(1);
  CHECK(worker.engine.rewrites());
  CHECK(worker.engine.copies_answers());
  for (const auto& [chunk, chunks] : Pushed{{3, 1}, {2, 1}, {1, 2}}) {
    const std::vector<Message> sent = worker.send();
    REQUIRE(sent.size() == 1);
    CHECK(sent[0].push().chunk == chunk);
    CHECK(sent[0].push().slab == 0);
    const std::size_t begin = worker.chunks[chunk + 1 - chunks].start;
    const std::size_t end = worker.chunks[chunk].stop();
    CHECK(region(worker.slab(0) + begin, end - begin) ==
          region(worker.gradients.get() + begin, end - begin));
    std::memset(worker.slab(0) + begin, 2, end - begin);
    worker.answer_in_segment(1, chunk, chunks);
    CHECK(region(worker.parameters.get() + begin, end - begin) ==
          region(worker.slab(0) + begin, end - begin));
  }
  CHECK(worker.engine.is_done());
}

TEST_CASE("answers in the slab that was pushed are copied only if they are wanted elsewhere") {
  StepWorker worker;
  worker.attach();
  worker.begin_in_slab(1);
  CHECK_FALSE(worker.engine.rewrites());
  CHECK_FALSE(worker.engine.copies_answers());
  worker.engine.begin(1, 5, {.gradients = worker.slab(1), .parameters = worker.slab(0)}, 0);
  worker.engine.ready(0, {});
  CHECK_FALSE(worker.engine.rewrites());
  CHECK(worker.engine.copies_answers());
  CHECK(worker.send().front().push().slab == 1);
  std::memset(worker.slab(1), 3, 256);
  worker.answer_in_segment(1, 3, 2);
  CHECK(worker.values(worker.slab(0), 1)[0] == 0.0f);
  CHECK(region(worker.slab(0) + 128, 128) == region(worker.slab(1) + 128, 128));
}

TEST_CASE("a payload has no place in a segment") {
  StepWorker worker;
  worker.attach();
  worker.begin_in_slab(1);
  worker.send();
  CHECK(worker.answer(1, 3, 1.0f) == Received::kRefused);
  CHECK(worker.engine.refusal().text == "chunk 3: expected the parameters in the segment");
}
