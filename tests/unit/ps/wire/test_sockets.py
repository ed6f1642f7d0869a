"""Sending without waiting, over sockets of one process."""

from collections.abc import Iterator

import pytest
import zmq

from leash.ps.wire.sockets import send_first

QUEUE = 4
ROUNDS = 500


@pytest.fixture
def pair() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """A sender and a receiver, between which at most 2 · QUEUE messages wait."""
    with zmq.Context() as context:
        receiver, sender = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
        for socket in (receiver, sender):
            socket.setsockopt(zmq.SNDHWM, QUEUE)
            socket.setsockopt(zmq.RCVHWM, QUEUE)
        receiver.bind("inproc://queue")
        sender.connect("inproc://queue")
        yield sender, receiver
        sender.close(linger=0)
        receiver.close(linger=0)


def test_a_queue_whose_messages_were_taken_has_room_at_once(
    pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    """Without looking for news, a socket would say in most of these rounds that it is full."""
    sender, receiver = pair
    for _ in range(ROUNDS):
        sent = 0
        while send_first(sender, b"frame"):
            sent += 1
        assert 0 < sent <= 2 * QUEUE
        for _ in range(sent):
            receiver.recv(zmq.DONTWAIT)
        assert send_first(sender, b"frame")
        receiver.recv(zmq.DONTWAIT)


def test_without_a_connection_nothing_is_sent() -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as alone:
        assert not send_first(alone, b"frame")


def test_a_peer_that_is_unknown_is_an_error_and_not_a_full_queue() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        with pytest.raises(zmq.ZMQError, match=r"unreachable|route"):
            send_first(router, b"nobody", zmq.SNDMORE)
