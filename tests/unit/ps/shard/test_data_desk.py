"""The data desk without sockets: places for newcomers, pulls that others wait for, failures."""

import logging
from typing import Any

import numpy as np
import pytest

from leash.ps.options.server import ServerOptions
from leash.ps.policy import choose_rule
from leash.ps.runs.events import EventLog
from leash.ps.shard.data_desk import DataDesk
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.wire.frames import REPLIES, decode, encode
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Error, Ok, Params, Publish, Pull, Push
from support.sockless import hand

LAYOUT = Layout([Slot("w", "f32", (4,)), Slot("sums", "f64", (2,))])


class Plane:
    """A data desk whose answers are kept, with one worker that pushes."""

    def __init__(
        self, policy: str, *, shard: int = 0, shards: int = 1, bound_unit: str = "clocks"
    ) -> None:
        rule = choose_rule(policy, None, bound_unit=bound_unit)
        self.members = members = Members([1, 2], 1.0)
        self.metrics = metrics = Metrics(rule, EventLog(None), 0)
        self.answered: list[int] = []  # steps
        self.pulled: list[int] = []  # versions
        self.refused: list[str] = []  # codes
        self.errors: list[Error] = []
        self.taken: list[tuple[int, bool]] = []  # number of what was published, whether it counts
        options = ServerOptions(chunk_kib=64, shards=shards)
        self.plane = DataDesk(options, rule, members, metrics, self.send, shard)
        self.plane.make_model(LAYOUT)
        assert self.plane.model is not None
        self.model = self.plane.model
        for chunk in self.model.own:
            self.model.shard.init(chunk.index, bytes(chunk.nbytes))
        self.incarnation = members.hello(1, "pushes")[0].incarnation
        metrics.join(1, self.incarnation, "pushes", 1)
        metrics.start([1])

    def send(self, route: bytes, header: bytes, payload: object, worker: int) -> None:
        message = decode(header, REPLIES)
        if isinstance(message, Error):
            self.refused.append(message.code)
            self.errors.append(message)
        elif isinstance(message, Ok) and message.number:
            self.taken.append((message.number, message.taken))
        elif isinstance(message, Ok):
            self.answered.append(message.step)
        else:
            assert isinstance(message, Params), message
            self.pulled.append(message.version)

    def push(self, *steps: int) -> None:
        for step in steps:
            for chunk in self.model.own:
                push = Push(1, self.incarnation, step, chunk.index, chunk.dtype, 1)
                hand(self.plane, push, bytes(chunk.nbytes))

    def publish(self, number: int, value: float, incarnation: int | None = None) -> None:
        """Publishes one value for all of chunk 0."""
        msg = Publish(1, incarnation or self.incarnation, number, 0, "f32")
        hand(self.plane, msg, np.full(4, value, "f4").tobytes())

    def values(self) -> list[float]:
        """Of chunk 0."""
        out = bytearray(16)
        self.model.shard.pull(0, None, out)
        return np.frombuffer(out, "f4").tolist()


class FailingEngine:
    """An engine with a defect."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def receive(self, *_: object) -> bool:
        raise KeyError("no such key")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def test_a_message_with_too_many_frames_is_answered_without_its_ids() -> None:
    own = Plane("asp")
    push = encode(Push(1, own.incarnation, 1, 0, "f32", 1))
    own.plane.receive([b"route", push, bytes(16), bytes(16)])
    (error,) = own.errors
    assert (error.code, error.worker, error.step, error.chunk) == ("bad_frames", 0, 0, 0)
    assert error.text == "push: expected at most one payload, got 2 frames after the header"


def test_a_published_copy_that_comes_late_undoes_nothing() -> None:
    own = Plane("asp")
    own.plane.join(1, own.plane.reserve())
    own.publish(1, 2.0)
    own.publish(2, 3.0)
    own.publish(1, 2.0)
    own.publish(2, 2.5)
    assert own.taken == [(1, True), (2, True), (1, False), (2, False)]
    assert (own.values(), own.refused) == ([3.0] * 4, [])
    assert own.model.shard.version(0) == 2


def test_a_process_that_says_hello_again_publishes_from_one_on() -> None:
    own = Plane("asp")
    own.plane.join(1, own.plane.reserve())
    own.publish(7, 2.0)
    before = own.incarnation
    own.incarnation = own.members.hello(1, "again")[0].incarnation
    own.publish(1, 3.0)
    own.publish(8, 4.0, incarnation=before)
    assert (own.taken, own.refused) == ([(7, True), (1, True)], ["fenced"])
    assert own.values() == [3.0] * 4


def test_published_values_that_are_not_finite_are_refused_by_the_name_of_their_slot() -> None:
    own = Plane("asp")
    own.plane.join(1, own.plane.reserve())
    own.publish(1, float("nan"))
    own.publish(1, 2.0)
    assert (own.refused, own.taken, own.values()) == (["nonfinite"], [(1, True)], [2.0] * 4)


def test_published_values_come_before_a_mean_that_is_not_complete() -> None:
    own = Plane("bsp")
    own.members.hello(2, "waits")
    for worker in (1, 2):
        own.plane.join(worker, own.plane.reserve())
    own.push(1)  # of zeros, and kept for the mean
    own.publish(1, 2.0)
    own.plane.leave(2)
    assert (own.values(), own.model.shard.version(0)) == ([2.0] * 4, 2)


@pytest.mark.parametrize(("policy", "goes_on_to"), [("asp", 50), ("ssp", 12)])
@pytest.mark.parametrize("further", [0, 2])
def test_a_newcomer_fits_in_however_far_the_others_get_meanwhile(
    policy: str, goes_on_to: int, further: int
) -> None:
    own = Plane(policy)
    own.plane.join(1, own.plane.reserve())
    own.push(*range(1, 9))
    first_step = own.plane.reserve()
    assert first_step == 9
    own.push(*range(9, goes_on_to + 1))
    own.plane.join(2, first_step + further)
    assert own.model.shard.workers() == [1, 2]
    for chunk in own.model.chunks:
        assert own.model.shard.minimum(chunk.index) == first_step + further - 1


def test_a_kept_place_makes_others_wait_and_is_given_up_for_a_later_one() -> None:
    own = Plane("ssp")  # bound 3
    own.plane.join(1, own.plane.reserve())
    own.push(*range(1, 9))
    own.answered.clear()
    assert own.plane.reserve() == 9
    own.push(9, 10, 11, 12)
    assert sorted(set(own.answered)) == [9, 10, 11]
    own.plane.join(2, 10)
    assert sorted(set(own.answered)) == [9, 10, 11, 12]


def test_an_answer_repeated_under_a_stricter_policy_counts_once() -> None:
    own = Plane("asp")
    own.plane.join(1, own.plane.reserve())
    own.plane.reserve()
    own.push(1, 2, 3)
    own.plane.set_rule(choose_rule("ssp", 1))
    own.answered.clear()
    own.push(3)
    assert (own.answered, own.plane.parked) == ([], len(own.model.own))
    own.plane.join(2, 4)
    assert set(own.answered) == {3}
    own.plane.settle()
    assert own.metrics.own.replies == 3 * len(own.model.own)


def test_a_shard_without_chunks_has_room_for_everybody() -> None:
    own = Plane("bsp", shard=1, shards=3)
    assert own.model.first_chunks == [0, 1, 1]
    assert own.plane.initialized
    for first_step in (1, 5, 3):
        assert own.plane.reserve() == 1
        own.plane.join(1, first_step)
        own.plane.leave(1)


def test_a_pull_answers_those_who_waited_for_it() -> None:
    """Under a bound in versions the worker that pulls is no longer the one with old parameters."""
    own = Plane("ssp", bound_unit="versions")  # bound 3
    other = own.members.hello(2, "pulls")[0].incarnation
    own.metrics.join(2, other, "pulls", 1)
    for worker in (1, 2):
        own.plane.join(worker, own.plane.reserve())
    own.push(1, 2, 3, 4)
    assert (sorted(set(own.answered)), own.plane.parked) == ([1, 2, 3], len(own.model.own))
    for chunk in own.model.own:
        hand(own.plane, Pull(2, other, chunk.index, chunk.dtype), route=b"2")
    assert (sorted(set(own.answered)), own.plane.parked) == ([1, 2, 3, 4], 0)
    assert own.pulled == [4] * len(own.model.own)
    own.push(5)
    assert own.answered[-1] == 5


def test_a_failure_is_refused_counted_and_logged_once_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Plane("asp")
    own.plane.join(1, own.plane.reserve())
    own.push(1)
    with monkeypatch.context() as broken:
        broken.setattr(own.plane, "_engine", FailingEngine(own.plane._engine))
        own.push(2, 3)
    chunks = len(own.model.own)
    assert own.refused == ["protocol"] * 2 * chunks
    assert own.metrics.summary()["failed_messages"] == 2 * chunks
    assert own.metrics.summary()["refused_messages"] == 2 * chunks
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.name for record in failures] == ["leash.ps.shard.metrics"]
    assert failures[0].exc_info is not None
    own.push(2)
    assert own.answered[-1] == 2
