"""One connection to a server that the test plays: what is sent, and which answers count."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from leash.ps.errors import MissingOptionsError, OptionsError, SupersededError
from leash.ps.wire.frames import DATA, decode, encode, error_message
from leash.ps.wire.messages import (
    Attach,
    Attached,
    GroupOptions,
    Message,
    Ok,
    OptionsSet,
    Params,
    Publish,
    Pull,
    PushPull,
)
from leash.ps.wire.sockets import make_router
from leash.worker.client.channel import Answer, DataChannel

ATTACH = Attach(worker=1, incarnation=7, pid=2, fd=3, nbytes=4096)
WAIT_MS = 20_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class FakeServer:
    """A ROUTER that can go away and come back at the same address."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.open()

    def open(self) -> None:
        self._socket = make_router(self._context, 100, 1 << 20)
        self._socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        self._socket.bind(self.address)

    def close(self) -> None:
        self._socket.close(linger=0)

    def take(self) -> Message:
        """The next request, whose sender the next answers go to."""
        self._route, header, *_ = self._socket.recv_multipart()
        return decode(header, DATA)

    def answer(self, message: Message) -> None:
        self._socket.send_multipart([self._route, encode(message)])


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


@pytest.fixture
def server(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[FakeServer]:
    made = FakeServer(context)
    yield made
    made.close()


@pytest.fixture
def channel(context: zmq.Context[zmq.Socket[bytes]], server: FakeServer) -> Iterator[DataChannel]:
    made = DataChannel(context, server.address, window=4, chunk_nbytes=65536)
    made.socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
    connect(made)
    yield made
    made.close()


def connect(channel: DataChannel) -> None:
    while not channel.connected:
        channel.look_around(WAIT_MS)


def lose(server: FakeServer, channel: DataChannel) -> None:
    """The connection breaks and comes back, and the worker learns of it."""
    server.close()
    while channel.connected:
        channel.look_around()
    server.open()
    connect(channel)


def push(step: int, **more: Any) -> PushPull:
    return PushPull(1, 7, step, 0, "f32", 1, **more)


def params(step: int) -> Params:
    return Params(1, step, 0, "f32", step, 0, 0)


def put(channel: DataChannel, request: PushPull | Publish | Pull | GroupOptions) -> None:
    channel.put([(request, b"" if isinstance(request, Publish) else None)])
    channel.send()


def taken(channel: DataChannel) -> list[Answer]:
    """What counts of the next message that comes."""
    answers: list[Answer] = []
    assert channel.take(lambda answer, _: answers.append(answer), flags=0)
    return answers


def test_what_has_no_answer_is_sent_again_over_a_new_connection(
    server: FakeServer, channel: DataChannel
) -> None:
    put(channel, push(1))
    assert server.take() == push(1)
    lose(server, channel)
    assert server.take() == push(1)
    server.answer(params(1))
    assert taken(channel) == [params(1)]
    assert channel.idle


def test_in_a_segment_no_answer_counts_before_that_to_the_newest_attach(
    server: FakeServer, channel: DataChannel
) -> None:
    """One that does may answer an older copy, and a newer one would overwrite the next gradient."""
    channel.keep_attached(ATTACH)
    put(channel, push(1))
    assert server.take() == push(1)
    for number in (1, 2):
        lose(server, channel)
        again = server.take()
        assert isinstance(again, Attach)
        assert again.number == number
        assert server.take() == push(1)
    for early in (params(1), Attached(1, "00", 1), params(1)):
        server.answer(early)
        assert taken(channel) == []
        assert not channel.idle
    server.answer(Attached(1, "00", 2))
    assert taken(channel) == []
    server.answer(params(1))
    assert taken(channel) == [params(1)]
    assert channel.idle


def test_a_superseded_copy_is_sent_again_but_not_in_a_segment(
    server: FakeServer, channel: DataChannel
) -> None:
    superseded = error_message(SupersededError("asked again"), 1, 1, 0)
    put(channel, push(1))
    server.take()
    server.answer(superseded)
    assert taken(channel) == []
    assert server.take() == push(1)
    server.answer(params(1))
    assert taken(channel) == [params(1)]

    channel.keep_attached(ATTACH)
    put(channel, push(2))
    server.take()
    server.answer(error_message(SupersededError("asked again"), 1, 2, 0))
    assert taken(channel) == []
    server.answer(params(2))
    assert taken(channel) == [params(2)]
    put(channel, push(3))
    assert server.take() == push(3)  # and nothing before it


def test_an_attach_that_was_lost_is_sent_with_a_new_number(
    server: FakeServer, channel: DataChannel
) -> None:
    channel.put([(ATTACH, None)])
    channel.send()
    first = server.take()
    lose(server, channel)
    second = server.take()
    assert isinstance(first, Attach)
    assert isinstance(second, Attach)
    assert (first.number, second.number) == (1, 2)
    server.answer(Attached(1, "00", 1))
    assert taken(channel) == []
    server.answer(Attached(1, "00", 2))
    assert taken(channel) == [Attached(1, "00", 2)]
    assert channel.idle


def options(number: int) -> GroupOptions:
    return GroupOptions(1, 7, number)


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("in_segment", [False, True])
def test_options_without_an_answer_are_sent_again_before_the_pushes_that_go_by_them(
    server: FakeServer, channel: DataChannel, answered: bool, in_segment: bool
) -> None:
    if in_segment:
        channel.keep_attached(ATTACH)
    put(channel, options(1))
    put(channel, push(1, table=1))
    assert [server.take(), server.take()] == [options(1), push(1, table=1)]
    if answered:
        server.answer(OptionsSet(1, 1))
        assert taken(channel) == [OptionsSet(1, 1)]
    lose(server, channel)
    if in_segment:
        assert isinstance(server.take(), Attach)
    if not answered:
        assert server.take() == options(1)
    assert server.take() == push(1, table=1)


def test_a_push_that_overtook_its_options_is_no_failure_since_both_follow(
    server: FakeServer, channel: DataChannel
) -> None:
    """What was sent over a new connection, before the channel had read of it, came alone."""
    put(channel, options(1))
    put(channel, push(1, table=1))
    assert [server.take(), server.take()] == [options(1), push(1, table=1)]
    missing = error_message(MissingOptionsError("not here"), 1, 1, 0)
    server.answer(missing)
    assert taken(channel) == []
    lose(server, channel)
    assert [server.take(), server.take()] == [options(1), push(1, table=1)]
    server.answer(missing)  # to the copy of before
    assert taken(channel) == []
    server.answer(OptionsSet(1, 1))
    server.answer(params(1))
    assert [*taken(channel), *taken(channel)] == [OptionsSet(1, 1), params(1)]
    assert channel.idle


def test_only_the_answer_of_their_number_settles_options(
    server: FakeServer, channel: DataChannel
) -> None:
    put(channel, options(2))
    server.take()
    server.answer(OptionsSet(1, 1))
    assert taken(channel) == []
    assert not channel.idle
    server.answer(error_message(OptionsError("lr: negative"), 1))
    with pytest.raises(OptionsError, match="lr: negative"):
        taken(channel)


@pytest.mark.parametrize("asked_next", [Publish(1, 7, 2, 0, "f32"), Pull(1, 7, 0, "f32")])
def test_a_second_answer_to_what_was_published_answers_nothing_else(
    server: FakeServer, channel: DataChannel, asked_next: Publish | Pull
) -> None:
    put(channel, Publish(1, 7, 1, 0, "f32"))
    server.take()
    answer = Ok(1, 0, 0, True, number=1)
    server.answer(answer)
    assert taken(channel) == [answer]
    put(channel, asked_next)
    server.answer(answer)
    assert taken(channel) == []
    assert not channel.idle
