"""One connection to a server that the test plays: what is sent, and which answers count."""

import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from leash.ps.errors import (
    FrameCountError,
    HeaderError,
    LeashError,
    MissingOptionsError,
    OptionsError,
    PayloadSizeError,
    ProtocolError,
    ResyncError,
    ServerUnreachableError,
    StoppingError,
    SupersededError,
)
from leash.ps.wire.frames import DATA, decode, encode, error_message
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import (
    Attach,
    Attached,
    Beaten,
    GroupOptions,
    Message,
    Ok,
    OptionsSet,
    Params,
    Publish,
    Pull,
    PushPull,
    Welcome,
)
from leash.ps.wire.sockets import make_router
from leash.worker.client import data_driver
from leash.worker.client.data_driver import DataDriver, Line
from leash.worker.client.encoding import Encoding
from leash.worker.client.memory import SlabMemory
from leash.worker.client.step import make_engine, residual_for

LAYOUT = Layout([Slot("w", "f32", (4,))])
VALUES = np.arange(4, dtype=np.float32)
WAIT_MS = 20_000


def write_attach(_: int, number: int) -> bytes:
    return encode(Attach(1, 7, 2, 3, 4096, "00", number))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class FakeServer:
    """A ROUTER that can go away and come back at the same address."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self.port = free_port()
        self.open()

    def open(self) -> None:
        self._socket = make_router(self._context, 100, 1 << 20)
        self._socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        self._socket.bind(f"tcp://127.0.0.1:{self.port}")

    def close(self) -> None:
        self._socket.close(linger=0)

    def take(self) -> Message:
        """The next request, whose sender the next answers go to."""
        self._route, header, *_ = self._socket.recv_multipart()
        return decode(header, DATA)

    def answer(self, message: Message, *payloads: bytes) -> None:
        self._socket.send_multipart([self._route, encode(message), *payloads])


@pytest.fixture(params=["lane", "plain"], autouse=True)
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What moves the messages: C++, or pyzmq where it does not show libzmq's functions."""
    if request.param == "plain":
        monkeypatch.setattr(data_driver, "why_plain", lambda: "not found")


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


@pytest.fixture
def server(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[FakeServer]:
    made = FakeServer(context)
    yield made
    made.close()


class Worker:
    """Worker 1 of incarnation 7, whose only chunk lies in slab 1, and its connection."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], port: int) -> None:
        encoding = Encoding()
        welcome = Welcome(1, 7, 1, 65536, 4, [port], 1.0, 10.0, {})
        self.memory = SlabMemory(LAYOUT.nbytes)
        self.slab = self.memory.slabs[1]
        self.engine = make_engine(
            LAYOUT, welcome, encoding, self.memory.whole, self.memory.map,
            residual_for(encoding, LAYOUT.nbytes),
        )  # fmt: skip
        self.ended: LeashError | None = None
        self.driver = DataDriver(
            context, "127.0.0.1", welcome, self.engine, LAYOUT.cut(65536), self._check
        )
        self.line: Line = self.driver.lines[0]
        self.line.socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        self.connect()

    def _check(self) -> None:
        if self.ended is not None:
            raise self.ended

    def connect(self) -> None:
        while not self.line.connected:
            self.driver.look_after(self.line, WAIT_MS)

    def push(self, step: int, table: int = 0) -> None:
        self.engine.begin(step, 1, self.slab.data, self.slab.data, table=table)
        self.engine.ready(0)
        self.driver.send(self.line)

    def publish(self, number: int) -> None:
        self.engine.tell([encode(Publish(1, 7, number, 0, "f32"))], self.slab.data, number)
        self.driver.send(self.line)

    def pull(self) -> None:
        self.engine.pull([encode(Pull(1, 7, 0, "f32"))], self.slab.data)
        self.driver.send(self.line)

    def attach(self, server: FakeServer) -> None:
        self.engine.attach(write_attach)
        self.driver.send(self.line)
        server.take()
        server.answer(Attached(1, "00", 1))
        assert self.counts()
        self.engine.keep_attached()

    def counts(self) -> bool:
        """Takes the next message that comes; whether it leaves nothing to do."""
        assert self.driver.take(self.line, flags=0)
        return self.engine.is_idle(0)

    def close(self) -> None:
        self.driver.close()
        self.memory.close()


@pytest.fixture
def worker(context: zmq.Context[zmq.Socket[bytes]], server: FakeServer) -> Iterator[Worker]:
    made = Worker(context, server.port)
    yield made
    made.close()


def lose(server: FakeServer, worker: Worker) -> None:
    """The connection breaks and comes back, and the worker learns of it."""
    server.close()
    while worker.line.connected:
        worker.driver.look_after(worker.line)
    server.open()
    worker.connect()


def push(step: int, **more: Any) -> PushPull:
    return PushPull(1, 7, step, 0, "f32", 1, **more)


def params(step: int) -> Params:
    return Params(1, step, 0, "f32", step, 0, 0)


def test_what_has_no_answer_is_sent_again_over_a_new_connection(
    server: FakeServer, worker: Worker
) -> None:
    worker.push(1)
    assert server.take() == push(1)
    lose(server, worker)
    assert server.take() == push(1)
    server.answer(params(1), VALUES.tobytes())
    assert worker.counts()
    assert worker.slab.view(np.float32).tolist() == VALUES.tolist()


def test_in_a_segment_no_answer_counts_before_that_to_the_newest_attach(
    server: FakeServer, worker: Worker
) -> None:
    """One that does may answer an older copy, and a newer one would overwrite the next gradient."""
    worker.attach(server)
    worker.push(1)
    assert server.take() == push(1, slab=1)
    for number in (2, 3):
        lose(server, worker)
        again = server.take()
        assert isinstance(again, Attach)
        assert again.number == number
        assert server.take() == push(1, slab=1)
    for early in (params(1), Attached(1, "00", 2), params(1)):
        server.answer(early)
        assert not worker.counts()
    server.answer(Attached(1, "00", 3))
    assert not worker.counts()
    server.answer(params(1))
    assert worker.counts()


def test_a_superseded_copy_is_sent_again_but_not_in_a_segment(
    server: FakeServer, worker: Worker
) -> None:
    worker.push(1)
    server.take()
    server.answer(error_message(SupersededError("asked again"), 1, 1, 0))
    assert not worker.counts()
    worker.driver.send(worker.line)
    assert server.take() == push(1)
    server.answer(params(1), VALUES.tobytes())
    assert worker.counts()

    worker.attach(server)
    worker.push(2)
    server.take()
    server.answer(error_message(SupersededError("asked again"), 1, 2, 0))
    assert not worker.counts()
    worker.driver.send(worker.line)
    server.answer(params(2))
    assert worker.counts()
    worker.push(3)
    assert server.take() == push(3, slab=1)  # and nothing before it


def test_an_attach_that_was_lost_is_sent_with_a_new_number(
    server: FakeServer, worker: Worker
) -> None:
    worker.engine.attach(write_attach)
    worker.driver.send(worker.line)
    assert server.take() == Attach(1, 7, 2, 3, 4096, "00", 1)
    lose(server, worker)
    assert server.take() == Attach(1, 7, 2, 3, 4096, "00", 2)
    server.answer(Attached(1, "00", 1))
    assert not worker.counts()
    server.answer(Attached(1, "00", 2))
    assert worker.counts()


def set_options(worker: Worker, number: int) -> None:
    """Begins step 1, which goes by these options."""
    worker.engine.begin(1, 1, worker.slab.data, worker.slab.data, table=number)
    worker.engine.set_options(number, encode(options(number)), b"table")
    worker.driver.send(worker.line)


def options(number: int) -> GroupOptions:
    return GroupOptions(1, 7, number)


def push_by(worker: Worker, number: int) -> None:
    set_options(worker, number)
    worker.engine.ready(0)
    worker.driver.send(worker.line)


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("in_segment", [False, True])
def test_options_without_an_answer_are_sent_again_before_the_pushes_that_go_by_them(
    server: FakeServer, worker: Worker, answered: bool, in_segment: bool
) -> None:
    pushed = push(1, table=1, slab=int(in_segment))
    if in_segment:
        worker.attach(server)
    push_by(worker, 1)
    assert [server.take(), server.take()] == [options(1), pushed]
    if answered:
        server.answer(OptionsSet(1, 1))
        assert not worker.counts()
    lose(server, worker)
    if in_segment:
        assert isinstance(server.take(), Attach)
    if not answered:
        assert server.take() == options(1)
    assert server.take() == pushed


def test_a_push_that_overtook_its_options_is_no_failure_since_both_follow(
    server: FakeServer, worker: Worker
) -> None:
    """What was sent over a new connection, before the driver had read of it, came alone."""
    push_by(worker, 1)
    assert [server.take(), server.take()] == [options(1), push(1, table=1)]
    missing = error_message(MissingOptionsError("not here"), 1, 1, 0)
    server.answer(missing)
    assert not worker.counts()
    lose(server, worker)
    assert [server.take(), server.take()] == [options(1), push(1, table=1)]
    server.answer(missing)  # to the copy of before
    assert not worker.counts()
    server.answer(OptionsSet(1, 1))
    assert not worker.counts()
    server.answer(params(1), VALUES.tobytes())
    assert worker.counts()


def test_a_connection_that_an_error_tells_of_is_resumed_at_once(
    server: FakeServer, worker: Worker
) -> None:
    """A push that went over a new connection, before the driver had read of it, came too early."""
    worker.attach(server)
    server.close()
    while worker.line.socket.poll(0, zmq.POLLOUT):  # the socket itself learns of it
        pass
    server.open()
    assert worker.line.socket.poll(WAIT_MS, zmq.POLLOUT)
    worker.push(1)
    assert server.take() == push(1, slab=1)
    server.answer(error_message(SupersededError("attached elsewhere"), 1, 1, 0))
    assert not worker.counts()
    assert server.take() == Attach(1, 7, 2, 3, 4096, "00", 2)
    assert server.take() == push(1, slab=1)


def test_only_the_answer_of_their_number_settles_options(
    server: FakeServer, worker: Worker
) -> None:
    set_options(worker, 2)
    server.take()
    server.answer(OptionsSet(1, 1))
    assert not worker.counts()
    server.answer(error_message(OptionsError("lr: negative"), 1))
    with pytest.raises(OptionsError, match="lr: negative"):
        worker.counts()


@pytest.mark.parametrize("asked_next", ["publish", "pull"])
def test_a_second_answer_to_what_was_published_answers_nothing_else(
    server: FakeServer, worker: Worker, asked_next: str
) -> None:
    worker.publish(1)
    server.take()
    answer = Ok(1, 0, 0, True, number=1)
    server.answer(answer)
    assert worker.counts()
    if asked_next == "publish":
        worker.publish(2)
    else:
        worker.pull()
    server.answer(answer)
    assert not worker.counts()


WRONG: list[tuple[Message, list[bytes], type[Exception], str]] = [
    (params(1), [], ProtocolError, "chunk 0: expected its parameters as payload"),
    (params(1), [b"123"], PayloadSizeError, r"chunk 0: expected 16 bytes \(f32, 4 values\), got 3"),
    (params(1), [b"1", b"2"], FrameCountError, "params: expected at most one payload, got 2"),
    (Params(1, 1, 0, "f64", 1, 0, 0), [VALUES.tobytes()], HeaderError, "expected codec f32, .*f64"),
    (Params(1, 1, 0, "zip", 1, 0, 0), [VALUES.tobytes()], HeaderError, "expected codec f32, .*zip"),
    (Params(1, 1, 0, "int8", 1, 0, 0), [b"123"], PayloadSizeError, "chunk 0: int8: expected at"),
    (Ok(1, 1, 0, True), [], ProtocolError, "unexpected ok"),
    (Ok(1, 1, 0, True), [b""], FrameCountError, "ok: expected no payload, got 1"),
    (Beaten(True, [], False, True, 0, False, ""), [], ProtocolError, ": unexpected beaten"),
]


@pytest.mark.parametrize(("answer", "payloads", "error", "text"), WRONG, ids=str)
def test_an_answer_that_does_not_fit_says_what_is_wrong(
    server: FakeServer, worker: Worker, answer: Message, payloads: list[bytes],
    error: type[Exception], text: str,
) -> None:  # fmt: skip
    worker.push(1)
    server.take()
    server.answer(answer, *payloads)
    with pytest.raises(error, match=text):
        worker.driver.finish()
    assert worker.engine.is_done  # it is forgotten


def test_an_error_of_the_server_is_raised_with_all_that_it_says(
    server: FakeServer, worker: Worker
) -> None:
    worker.push(3)
    server.take()
    server.answer(error_message(ResyncError("expected step 2", 1), 1, 3, 0))
    with pytest.raises(ResyncError, match=r"^expected step 2$") as caught:
        worker.driver.finish()
    assert caught.value.clock == 1


def test_who_waits_hears_what_has_ended_its_part(server: FakeServer, worker: Worker) -> None:
    worker.line.socket.setsockopt(zmq.RCVTIMEO, 1)
    worker.push(1)
    worker.ended = StoppingError("over")
    with pytest.raises(StoppingError, match="over"):
        worker.driver.finish()
    assert worker.engine.is_done


def test_a_connection_that_is_gone_for_too_long_is_lost(server: FakeServer, worker: Worker) -> None:
    server.close()
    while worker.line.connected:
        worker.driver.look_after(worker.line)
    worker.driver._patience_s = lambda: -1.0
    with pytest.raises(ServerUnreachableError, match=f"no server answers at .*:{server.port}"):
        worker.driver.look_after(worker.line)
    server.open()
