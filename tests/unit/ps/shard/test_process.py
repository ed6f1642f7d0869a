"""A shard beside the coordinator: what its loop does with messages that it fails at."""

import dataclasses
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

from leash.ps.options.server import ServerOptions
from leash.ps.shard.process import ShardServer
from leash.ps.wire.frames import TO_COORDINATOR, TO_SHARD
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Message
from leash.ps.wire.shard_link import Link
from leash.ps.wire.shard_messages import (
    Begin,
    Counts,
    CountUp,
    Done,
    Failed,
    Fetch,
    Leave,
    Release,
    Reserve,
    Serve,
    Stop,
)

LAYOUT = Layout([Slot("w", "f32", (4,))])


class Coordinator:
    """The other end of a shard's link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.counts: Counts | None = None

    def ask(self, message: Message, payload: bytes | None = None) -> Message:
        self.link.send(message, payload)
        while True:
            answer, _ = self.link.receive()
            if not isinstance(answer, Counts):
                return answer
            self.counts = answer


@contextmanager
def serving() -> Iterator[tuple[Coordinator, ShardServer]]:
    near, far = socket.socketpair()
    link = Link(near, TO_COORDINATOR, 5.0)
    config = ServerOptions(bind="tcp://127.0.0.1:0", workers=1, shards=2)
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


def fail(*_: Any) -> NoReturn:
    raise AssertionError("a defect")


def test_a_request_that_it_fails_at_is_answered_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as (coordinator, _):
        for _ in range(3):  # there is no model yet
            answer = coordinator.ask(Fetch(0, ""))
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
        monkeypatch.setitem(server._handlers, type(told), fail)
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
