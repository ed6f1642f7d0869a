"""A shard's data socket: what its lane leaves to others is there until they take it."""

import zmq

from leash.ps.options.server import ServerOptions
from leash.ps.shard.router import DataRouter
from leash.ps.wire.intake import Conduct, Frames

WAIT_MS = 10_000


def test_a_message_that_a_lane_has_left_stays_until_it_is_taken_and_the_others_wait() -> None:
    with zmq.Context() as context:
        router = DataRouter(context, ServerOptions(lr=0.1), "127.0.0.1", 0)
        peer = context.socket(zmq.DEALER)
        peer.connect(f"tcp://127.0.0.1:{router.port}")
        for header in (b"first", b"second"):
            peer.send(header)
        router.poller.register(router.socket, zmq.POLLIN)
        taken: list[bytes] = []

        def handle(frames: Frames, _: str) -> Conduct:
            taken.append(frames[1])
            return Conduct.STRANGER

        for header in (b"first", b"second"):
            for _ in range(3):  # whoever is told may have something else to do first
                assert (router.socket, zmq.POLLIN) in router.poller.poll(WAIT_MS)
            router.take(handle, until=lambda: False)
            assert taken[-1] == header
        router.intake.close()
        peer.close(linger=0)
        router.socket.close(linger=0)
