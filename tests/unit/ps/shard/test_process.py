"""A shard beside the coordinator: what its loop does with messages that it fails at."""

import dataclasses
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps.options.server import ServerOptions
from leash.ps.runs.chunk_states import ChunkClocks, ChunkState
from leash.ps.runs.snapshot import ChunkMoment
from leash.ps.shard.linked_shard import packed_moments, unpacked_moments
from leash.ps.shard.process import ShardServer
from leash.ps.wire.frames import TO_COORDINATOR, TO_SHARD
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Message
from leash.ps.wire.shard_link import Link
from leash.ps.wire.shard_messages import (
    PARAMETERS,
    Align,
    Begin,
    Counts,
    CountUp,
    Done,
    Failed,
    Join,
    Leave,
    Load,
    OpenSnapshot,
    Release,
    Reserve,
    Serve,
    SetClock,
    SetVersion,
    Start,
    Stop,
)
from support.peers import peers

LAYOUT = Layout([Slot("w", "f32", (4,))])
TWO_CHUNKS = Layout([Slot("w", "f32", (4,)), Slot("d", "f64", (2,))])  # the second is shard 1's


class Coordinator:
    """The other end of a shard's link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.counts: Counts | None = None

    def ask(self, message: Message, payload: bytes | None = None) -> Message:
        return self.fetch(message, payload)[0]

    def fetch(self, message: Message, payload: bytes | None = None) -> tuple[Message, Any]:
        """The answer with its payload."""
        self.link.send(message, payload)
        while True:
            answer = self.link.receive()
            if not isinstance(answer[0], Counts):
                return answer
            self.counts = answer[0]


@contextmanager
def serving() -> Iterator[tuple[Coordinator, ShardServer]]:
    near, far = socket.socketpair()
    link = Link(near, TO_COORDINATOR, 5.0)
    config = ServerOptions(bind="tcp://127.0.0.1:0", policy="bsp", workers=1, shards=2)
    server = ShardServer(Link(far, TO_SHARD, None), Begin(1, 0), config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield Coordinator(link), server
    finally:
        link.close()
        thread.join(10.0)
        far.close()
        assert not thread.is_alive()


def clocks_of(coordinator: Coordinator) -> ChunkClocks:
    """Of the shard's only chunk."""
    answer, payload = coordinator.fetch(OpenSnapshot())
    assert answer == Done(0)
    assert payload is not None
    (moment,) = unpacked_moments(payload)
    return moment.state.clocks


def fail(*_: Any) -> NoReturn:
    raise AssertionError("a defect")


def test_a_request_that_it_fails_at_is_answered_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as (coordinator, _):
        for _ in range(3):  # there is no model yet
            answer = coordinator.ask(SetVersion(0, 1))
            assert isinstance(answer, Failed)
            assert answer.code == "protocol"
        assert coordinator.ask(Serve(), LAYOUT.pack()) == Done(0)
        assert coordinator.ask(Reserve()) == Done(1)
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.name for record in failures] == ["leash.ps.shard.metrics"]  # once


@pytest.mark.parametrize("told", [Leave(1, 1, "done"), Stop("SIGTERM"), Release()], ids=repr)
def test_what_it_is_told_and_fails_at_is_counted_and_has_no_answer(
    told: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that nobody asked for would be taken for that to the next question."""
    with serving() as (coordinator, server):
        monkeypatch.setitem(server.shard._handlers, type(told), fail)
        coordinator.link.send(told)
        assert coordinator.ask(Serve(), LAYOUT.pack()) == Done(0)
        assert coordinator.ask(CountUp()) == Done(0)
        assert coordinator.counts is not None
        assert dict(coordinator.counts.refusals) == {"protocol": 1}


def test_threads_that_cannot_start_are_refused_by_their_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from leash.ps.errors import UsageError
    from leash.ps.shard import model

    def no_threads(*_: Any, **__: Any) -> NoReturn:
        raise OSError("thread 3 of 9 cannot start: Resource temporarily unavailable")

    monkeypatch.setattr(model, "Shard", no_threads)
    near, far = socket.socketpair()
    with near, far:
        config = ServerOptions(bind="tcp://127.0.0.1:0", workers=1, shards=2, threads=9)
        with pytest.raises(UsageError, match="--threads 9: thread 3 of 9 cannot start"):
            ShardServer(Link(far, TO_SHARD, None), Begin(1, 0), config)
        with pytest.raises(model.TooManyError, match="thread 3 of 9"):
            model.ServedModel(LAYOUT, 65536, dataclasses.replace(config), config.rule)


# For checkpoints.


@given(
    least=st.integers(0, 2**63 - 1),
    by_worker=st.dictionaries(st.integers(1, 2**32 - 1), st.integers(0, 2**63 - 1)),
)
def test_what_a_chunk_has_beside_its_numbers_is_read_as_it_was_packed(
    least: int, by_worker: dict[int, int]
) -> None:
    state = ChunkState(5, ChunkClocks(least, by_worker), [3, 0])
    moments = [ChunkMoment(state, has_buffers=True), ChunkMoment(state, has_buffers=False)]
    assert unpacked_moments(packed_moments(moments)) == moments


def test_a_shard_of_a_run_that_goes_on_begins_after_its_clock() -> None:
    with serving() as (coordinator, _):
        coordinator.ask(Serve(), TWO_CHUNKS.pack())
        assert coordinator.ask(SetClock(9)) == Done(0)
        coordinator.ask(Load(1, PARAMETERS), bytes(16))
        assert clocks_of(coordinator) == ChunkClocks(9, {})
        assert coordinator.ask(Reserve()) == Done(10)


def test_a_shard_that_has_come_to_its_step_takes_no_push_until_it_is_released() -> None:
    with serving() as (coordinator, server), peers(f"tcp://127.0.0.1:{server.port}") as (worker,):
        coordinator.ask(Serve(), TWO_CHUNKS.pack())
        coordinator.ask(Load(1, PARAMETERS), bytes(16))
        coordinator.ask(Join(1, 7, "worker", 1))
        coordinator.ask(Start())
        push = {
            "t": "push", "worker": 1, "incarnation": 7, "chunk": 1, "codec": "f64", "samples": 1,
        }  # fmt: skip
        assert coordinator.ask(Align(1)) == Done(0)  # it is not there yet
        assert worker.ask({**push, "step": 1}, bytes(16))[0]["t"] == "ok"
        assert coordinator.ask(Align(1)) == Done(2)
        worker.send({**push, "step": 2}, bytes(16))
        for _ in range(3):  # rounds of its loop, in which it would take the push
            coordinator.ask(CountUp())
            assert coordinator.counts is not None
            assert coordinator.counts.replies == 1
        assert clocks_of(coordinator) == ChunkClocks(1, {1: 1})
        coordinator.link.send(Release(), None)
        assert worker.receive()[0]["step"] == 2
