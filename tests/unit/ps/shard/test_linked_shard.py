"""What a shard answers its coordinator and tells it unasked, without a link, a socket and time."""

import signal
from typing import Any

import msgpack
import pytest

from leash.ps.options.server import ServerOptions
from leash.ps.shard.linked_shard import (
    COUNTS_S,
    UNANSWERED,
    LinkedShard,
    settings_of,
    unpacked_settings,
)
from leash.ps.wire.frames import REPLIES, decode
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Message, Ok, Push
from leash.ps.wire.shard_messages import (
    FROM_COORDINATOR,
    PARAMETERS,
    Align,
    Asked,
    Begin,
    CountHealed,
    Counts,
    CountUp,
    Done,
    Failed,
    ForgetSnapshot,
    GiveUp,
    Happened,
    Heal,
    Hold,
    Join,
    LeastStep,
    Leave,
    Load,
    OpenSnapshot,
    ReadSnapshot,
    Release,
    Reserve,
    Serve,
    SetClock,
    SetRule,
    SetVersion,
    SkipHealed,
    Start,
    Stop,
    Unreading,
)
from support.sockless import StillClock, hand

LAYOUT = Layout([Slot("w", "f32", (4,)), Slot("d", "f64", (2,))])  # the second is shard 1's
OPTIONS = ServerOptions(policy="bsp", workers=2, shards=2, chunk_kib=64)
CHUNK = 1
# Everything that a coordinator tells, in an order in which it may.
TOLD: tuple[tuple[Message, bytes | None], ...] = (
    (Serve(), LAYOUT.pack()), (SetClock(0), None), (Load(CHUNK, PARAMETERS), bytes(16)),
    (SetVersion(CHUNK, 3), None), (Reserve(), None), (Join(1, 7, "one", 1), None), (Start(), None),
    (SetRule("asp", 0, 0, 0, "clocks"), None), (GiveUp(), None), (Hold(), None), (Align(0), None),
    (OpenSnapshot(), None), (ReadSnapshot(CHUNK, 0, 0, 16), None),
    (ForgetSnapshot(CHUNK, True), None), (CountUp(), None), (Release(), None),
    (Heal(2), None), (CountHealed(), None), (LeastStep(), None), (SkipHealed(), None),
    (Leave(1, 7, "done"), None), (Stop("SIGTERM"), None),
)  # fmt: skip


class Linked:
    """A shard, and all that it sends to workers."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.sent: list[Message] = []
        self.shard = LinkedShard(1, OPTIONS, self._send, self.clock)

    def _send(self, _: bytes, header: bytes, __: Any, ___: int) -> None:
        self.sent.append(decode(header, REPLIES))

    def ask(self, message: Message, payload: bytes | None = None) -> Message | None:
        answer = self.shard.answer(message, payload)
        return None if answer is None else answer[0]

    def begin(self) -> None:
        """Both workers take part, and training has begun."""
        self.ask(Serve(), LAYOUT.pack())
        self.ask(Load(CHUNK, PARAMETERS), bytes(16))
        for worker in (1, 2):
            self.ask(Reserve())
            self.ask(Join(worker, 6 + worker, "", 1))
        self.ask(Start())
        self.shard.advance()
        self.notices()

    def push(self, worker: int, step: int) -> None:
        push = Push(worker, 6 + worker, step, CHUNK, "f64", 1)
        hand(self.shard.data, push, bytes(16))

    def notices(self) -> list[Message]:
        return [message for message, _ in self.shard.take_notices()]


def test_each_message_has_an_answer_but_for_those_that_have_none() -> None:
    assert {type(message) for message, _ in TOLD} == set(FROM_COORDINATOR) - {Begin}
    linked = Linked()
    for message, payload in TOLD:
        answer = linked.ask(message, payload)
        assert (answer is None) == isinstance(message, UNANSWERED)
        assert answer is None or isinstance(answer, Done), (message, answer)


@pytest.mark.parametrize("told", TOLD, ids=lambda told: told[0].verb)
def test_a_message_that_it_fails_at_changes_nothing_for_those_after_it(
    told: tuple[Message, bytes | None],
) -> None:
    """Before it has a model, it cannot do many of them."""
    linked = Linked()
    answer = linked.ask(*told)
    assert (answer is None) == isinstance(told[0], UNANSWERED)
    assert answer is None or isinstance(answer, (Done, Failed))
    assert linked.ask(Serve(), LAYOUT.pack()) == Done(0)
    assert linked.ask(Reserve()) == Done(1)


def test_settings_are_read_as_they_were_packed() -> None:
    assert unpacked_settings(bytearray(settings_of(OPTIONS))) == OPTIONS


def test_counts_come_as_often_as_a_sign_of_life_is_due_and_when_all_chunks_have_values() -> None:
    linked = Linked()
    linked.shard.advance()
    (counts,) = linked.notices()
    assert isinstance(counts, Counts)
    assert not counts.initialized
    linked.ask(Serve(), LAYOUT.pack())
    linked.shard.advance()
    assert linked.notices() == []
    linked.ask(Load(CHUNK, PARAMETERS), bytes(16))
    linked.shard.advance()
    (counts,) = linked.notices()
    assert isinstance(counts, Counts)
    assert counts.initialized
    linked.clock.skip(COUNTS_S - 0.01)
    linked.shard.advance()
    assert linked.notices() == []
    linked.clock.skip(0.01)
    linked.shard.advance()
    assert len(linked.notices()) == 1


def test_counts_that_were_asked_for_come_before_the_answer_and_name_who_was_heard() -> None:
    linked = Linked()
    linked.begin()
    linked.clock.skip(0.1)
    linked.push(2, 1)
    assert linked.ask(CountUp()) == Done(0)
    (counts,) = linked.notices()
    assert isinstance(counts, Counts)
    assert (counts.heard, counts.parked) == ([2], 1)


def test_what_happens_that_the_coordinator_does_not_see_is_told_in_its_order() -> None:
    linked = Linked()
    linked.begin()
    for _ in range(2):
        linked.push(1, 1)
    linked.shard.on_signal(signal.SIGTERM)
    linked.shard.advance(unreading=[2, 1])
    told = list(linked.shard.take_notices())
    assert [message for message, _ in told] == [
        Happened("duplicate"), Unreading(2), Unreading(1), Asked(signal.SIGTERM),
    ]  # fmt: skip
    assert msgpack.unpackb(told[0][1])["worker"] == 1
    linked.shard.advance()
    assert linked.notices() == []  # each of them once


def test_it_is_held_while_it_is_told_to_and_where_all_of_its_chunks_are_at_one_step() -> None:
    linked = Linked()
    linked.begin()
    linked.ask(Hold())
    assert linked.shard.is_held
    linked.ask(Release())
    assert not linked.shard.is_held
    assert linked.ask(Align(1)) == Done(0)
    linked.push(1, 1)
    assert not linked.shard.is_held
    linked.push(2, 1)
    assert linked.shard.is_held
    assert linked.ask(Align(1)) == Done(2)
    linked.ask(Release())
    assert not linked.shard.is_held
    assert [m.step for m in linked.sent if isinstance(m, Ok)] == [1, 1]


def test_one_that_leaves_before_it_has_joined_here_is_nobody() -> None:
    linked = Linked()
    linked.begin()
    assert linked.ask(Leave(2, 5, "failed")) is None
    assert [member.worker for member in linked.shard.members.live] == [1, 2]
    assert not linked.shard.metrics.own.refusals
