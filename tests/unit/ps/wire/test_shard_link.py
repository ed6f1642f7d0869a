import socket
from collections.abc import Iterator

import pytest

from leash.ps.errors import FrameCountError, HeaderError
from leash.ps.wire import shard_messages
from leash.ps.wire.frames import TO_COORDINATOR, TO_SHARD, encode
from leash.ps.wire.messages import Message, Status
from leash.ps.wire.shard_link import PREFIX, Link, LinkClosedError
from leash.ps.wire.shard_messages import Done, Happened, SetClock, Stop


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def link(ends: tuple[socket.socket, socket.socket]) -> Link:
    return Link(ends[0], TO_COORDINATOR, 0.1)


def test_messages_arrive_in_order_with_their_payloads(
    link: Link, ends: tuple[socket.socket, socket.socket]
) -> None:
    other = Link(ends[1], TO_SHARD, 0.1)
    assert not other.has_come()
    link.send(Stop("SIGTERM"))
    link.send(SetClock(7))
    assert other.has_come()
    assert other.receive() == (Stop("SIGTERM"), None)
    assert other.receive() == (SetClock(7), None)
    payload = bytearray(range(256)) * 10
    other.send(Done(3), payload)
    other.send(Done(4))
    assert link.receive() == (Done(3), payload)
    assert link.receive() == (Done(4), None)


def test_the_end_of_the_other_process_is_noticed_on_either_way(
    link: Link, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[1].close()
    assert link.has_come()
    with pytest.raises(LinkClosedError, match="has ended"):
        link.receive()
    with pytest.raises(LinkClosedError):
        link.send(Done(0))


def test_a_message_that_is_not_completed_in_time_closes_the_link(
    link: Link, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[1].sendall(PREFIX.pack(100, 0) + b"half a header")
    with pytest.raises(LinkClosedError):
        link.receive()


def test_somebody_who_does_not_read_is_not_waited_for_longer(link: Link) -> None:
    with pytest.raises(LinkClosedError):
        link.send(Done(0), bytes(1 << 24))


def test_what_the_other_end_sends_is_checked(
    link: Link, ends: tuple[socket.socket, socket.socket]
) -> None:
    def send(header: bytes) -> None:
        ends[1].sendall(PREFIX.pack(len(header), 0) + header)

    send(encode(Status()))
    with pytest.raises(HeaderError, match="expected one of done, failed, counts"):
        link.receive()
    send(encode(Happened("duplicate")))
    with pytest.raises(FrameCountError, match="happened: expected one payload"):
        link.receive()


def test_every_message_of_the_links_is_known_at_one_of_their_ends() -> None:
    own = [
        kind
        for kind in vars(shard_messages).values()
        if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
    ]
    known = [*shard_messages.FROM_COORDINATOR, *shard_messages.FROM_SHARD]
    assert sorted(kind.__name__ for kind in own) == sorted(kind.__name__ for kind in known)
