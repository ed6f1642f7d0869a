"""All chunks of a run come to one step, against workers that push to them in any order.

A worker here does what one does under bsp: it pushes a step to every chunk, in an order of its own,
and begins the next step when all of these pushes are answered.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leash.ps.errors import ShardLostError
from leash.ps.shard.alignment import Alignment
from leash.ps.shard.data_desk import DataDesk
from leash.ps.wire.messages import Push
from leash.ps.wire.shard_messages import Align, Release
from support.sockless import CHUNKS, SocklessServer, hand

WORKERS = (1, 2, 3)


class Crowd:
    """Some shards, and workers that push to them. What is sent to a shard that is held waits."""

    def __init__(self, shards: int, workers: Iterable[int] = WORKERS) -> None:
        self.server = SocklessServer("bsp", workers=3, shards=shards)
        self.server.start()
        self.steps = dict.fromkeys(workers, 0)  # of those that take part: what they have completed
        for worker in set(WORKERS) - set(self.steps):
            self.leave(worker)
        self.pushed: dict[int, set[int]] = {worker: set() for worker in self.steps}
        self.server.sent.clear()

    def push(self, worker: int, chunk: int) -> None:
        """This worker pushes its step to this chunk, unless it has, or the shard is held."""
        plane = self.plane_of(chunk)
        if worker not in self.steps or chunk in self.pushed[worker] or plane.is_held:
            return
        assert plane.model is not None
        self.pushed[worker].add(chunk)
        kind = plane.model.chunk(chunk)
        push = Push(
            worker, self.server.incarnation(worker), self.steps[worker] + 1, chunk, kind.dtype, 1
        )
        hand(plane, push, bytes(kind.nbytes))
        self._take_answers()

    def push_all(self) -> None:
        """Every worker pushes what is left of its step, where it can."""
        for chunk in range(CHUNKS):
            for worker in WORKERS:
                self.push(worker, chunk)

    def leave(self, worker: int) -> None:
        self.steps.pop(worker, None)
        self.server.members.leave(self.server.members.workers[worker], "failed")
        self.server.shards.leave(self.server.members.workers[worker], "failed")
        if self.steps:
            self._take_answers()

    def _take_answers(self) -> None:
        for worker, step in self.steps.items():
            if self.server.answered(worker)[-1:] == [step + 1]:
                self.steps[worker] += 1
                self.pushed[worker].clear()

    def plane_of(self, chunk: int) -> DataDesk:
        return next(plane for plane in self.server.planes if chunk in self.chunks_of(plane))

    @staticmethod
    def chunks_of(plane: DataDesk) -> list[int]:
        assert plane.model is not None
        return [chunk.index for chunk in plane.model.own]

    def clocks(self) -> Iterator[int]:
        """How many steps of all workers each chunk has."""
        for plane in self.server.planes:
            assert plane.model is not None
            yield from map(plane.model.shard.minimum, self.chunks_of(plane))


pushes = st.tuples(st.sampled_from(WORKERS), st.integers(0, CHUNKS - 1))


@settings(max_examples=150, deadline=None)
@given(
    shards=st.sampled_from([1, 2, 3, 4, 6]),
    before=st.lists(pushes, max_size=60),
    more=st.integers(0, 2),
    meanwhile=st.lists(pushes, max_size=60),
    leaving=st.none() | st.integers(0, 60),
    after=st.lists(pushes, max_size=30),
)
def test_all_chunks_come_to_one_step_and_none_gets_beyond_it(
    shards: int, before: list[tuple[int, int]], more: int, meanwhile: list[tuple[int, int]],
    leaving: int | None, after: list[tuple[int, int]],
) -> None:  # fmt: skip
    crowd = Crowd(shards)
    for push in before:
        crowd.push(*push)
    asked = min(crowd.clocks()) + more
    held = False
    for number, push in enumerate(meanwhile):
        if number == leaving:
            crowd.leave(3)
        held = crowd.server.shards.align(asked)
        assert held == all_held_at_one_step(crowd, asked)
        crowd.push(*push)
    # Whoever is left goes on, and so a common step comes within some rounds, however it stood.
    for _ in range(more + 4):
        if not (held := crowd.server.shards.align(asked)):
            crowd.push_all()
    assert held
    assert all_held_at_one_step(crowd, asked)
    (step,) = set(crowd.clocks())
    for push in after:
        crowd.push(*push)
        assert set(crowd.clocks()) == {step}
    crowd.server.shards.go_on()
    for _ in range(2):
        crowd.push_all()
    assert min(crowd.clocks()) > step


def all_held_at_one_step(crowd: Crowd, asked: int) -> bool:
    """Looked at from outside: no shard takes messages, and all chunks are at one step that does."""
    steps = set(crowd.clocks())
    held = [plane.is_held for plane in crowd.server.planes if crowd.chunks_of(plane)]
    return all(held) and len(steps) == 1 and min(steps) >= asked


@settings(max_examples=60, deadline=None)
@given(before=st.lists(pushes, max_size=60), meanwhile=st.lists(pushes, max_size=60))
def test_a_shard_that_is_held_has_all_of_its_chunks_at_one_step(
    before: list[tuple[int, int]], meanwhile: list[tuple[int, int]]
) -> None:
    """Also while others are not there yet, and without a question in between."""
    crowd = Crowd(2)
    for push in before:
        crowd.push(*push)
    asked = max(crowd.clocks())
    crowd.server.shards.align(asked)
    for push in meanwhile:
        crowd.push(*push)
        for plane in crowd.server.planes:
            assert plane.model is not None
            if plane.is_held:
                steps = [plane.model.shard.minimum(chunk) for chunk in crowd.chunks_of(plane)]
                assert set(steps) == {asked}


@pytest.mark.parametrize("shards", [1, 3, 6])
def test_chunks_that_stand_at_one_step_are_held_at_once(shards: int) -> None:
    crowd = Crowd(shards)
    for _ in range(5):
        crowd.push_all()
    crowd.push(1, 2)  # it has begun the next one, which the others have not
    assert crowd.server.shards.align()
    crowd.push_all()
    assert set(crowd.clocks()) == {5}


def test_who_asks_again_while_they_are_held_hears_the_same() -> None:
    crowd = Crowd(3)
    crowd.push_all()
    for _ in range(3):
        assert crowd.server.shards.align()
        assert crowd.server.shards.align(1)
    assert set(crowd.clocks()) == {1}
    assert not crowd.server.shards.align(2)  # a later one than that: the shards go on to it
    crowd.push_all()
    assert crowd.server.shards.align(2)
    assert set(crowd.clocks()) == {2}


def test_a_worker_that_leaves_in_mid_step_leaves_a_common_step_to_the_others() -> None:
    crowd = Crowd(2)
    crowd.push_all()
    for chunk in (0, 1):
        for worker in WORKERS:
            crowd.push(worker, chunk)
    assert not crowd.server.shards.align()
    crowd.leave(3)
    for _ in range(2):
        crowd.push_all()
    assert crowd.server.shards.align()
    assert len(set(crowd.clocks())) == 1


def test_whoever_has_no_chunks_is_there_already() -> None:
    crowd = Crowd(6)
    empty = [plane for plane in crowd.server.planes if not crowd.chunks_of(plane)]
    assert len(empty) == 2
    for plane in empty:
        assert plane.align(7) == 7
        assert plane.is_held
        plane.go_on()
        assert not plane.is_held
    assert Alignment().begin(None, 3) == 3


def test_who_asks_for_nothing_holds_nothing() -> None:
    crowd = Crowd(1)
    assert not crowd.server.plane.is_held
    crowd.push_all()
    assert not crowd.server.plane.is_held
    assert not Alignment().is_reached(crowd.server.plane.model)


def test_every_shard_is_asked_for_the_step_and_released() -> None:
    crowd = Crowd(3)
    crowd.push_all()
    crowd.server.far.told.clear()
    assert crowd.server.shards.align(1)
    assert crowd.server.far.told == [Align(1)]
    crowd.server.shards.go_on()
    assert crowd.server.far.told == [Align(1), Release()]


def test_a_shard_that_is_lost_meanwhile_is_told_of_and_the_others_are_released() -> None:
    crowd = Crowd(3)
    crowd.push_all()
    assert crowd.server.shards.align()
    crowd.server.far.all[1].lose("killed by SIGKILL")
    with pytest.raises(ShardLostError, match="shard 2"):
        crowd.server.shards.align()
    crowd.server.shards.go_on()
    planes: list[Any] = [crowd.server.plane, crowd.server.far.all[0].plane]
    assert [plane.is_held for plane in planes] == [False, False]
