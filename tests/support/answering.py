"""A control socket that gives the answers that a test says."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import zmq

from leash.ps.wire.frames import CONTROL, decode
from leash.ps.wire.messages import Message

Frames: TypeAlias = list[bytes]
Answer: TypeAlias = Callable[[Message], list[Frames]]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """A ROUTER that gives these answers to each request; yields its address."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")

    def serve() -> None:
        try:
            while True:
                route, header, *_ = router.recv_multipart()
                for frames in answer(decode(header, CONTROL)):
                    router.send_multipart([route, *frames])
        except zmq.ContextTerminated:
            router.close(linger=0)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        context.term()
        thread.join()
