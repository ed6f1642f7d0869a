"""The limit of anything built on pyzmq: it sends the same chunks back as they came.

The same chunk size, window and memory as Leash's: the client goes through as many distinct bytes as
the model has, and copies each reply into the place that its chunk came from, as any client must.
It has no header, no optimizer and no clock.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import zmq

from leash.bench.harness.crew import server_process
from leash.bench.harness.trial import Exchange, Trial
from leash.bench.harness.workload import CHUNK_NBYTES, GRADIENT, MAX_NBYTES, QUEUE, WINDOW, bytes_of
from leash.ps._core import keep_freed_memory
from leash.ps.wire.sockets import (
    COPY_BELOW_NBYTES,
    bind,
    make_dealer,
    make_router,
    receive,
)


@contextmanager
def serve(_: Trial) -> Iterator[str]:
    with server_process(_serve) as address:
        yield address


def _serve(tell: Callable[[str], None]) -> None:
    keep_freed_memory()
    socket = make_router(zmq.Context(), QUEUE, MAX_NBYTES)
    tell(f"tcp://127.0.0.1:{bind(socket, '127.0.0.1', 0)}")
    while True:
        route, chunk = receive(socket, flags=0)
        socket.send(route, zmq.SNDMORE)
        socket.send(chunk, copy=False)


@contextmanager
def join(trial: Trial, address: str, rank: int) -> Iterator[Exchange]:
    keep_freed_memory()
    memory = bytes_of(trial.nbytes, GRADIENT)
    starts = range(0, trial.nbytes, CHUNK_NBYTES)
    chunks = [memory[start : start + CHUNK_NBYTES] for start in starts]
    copy = len(chunks[0]) < COPY_BELOW_NBYTES
    socket = make_dealer(zmq.Context(), QUEUE, MAX_NBYTES)
    socket.connect(address)

    def exchange() -> None:
        sent = 0
        for received, place in enumerate(chunks):
            while sent < len(chunks) and sent < received + WINDOW:
                socket.send(chunks[sent], copy=copy)
                sent += 1
            place[:] = np.frombuffer(receive(socket, flags=0)[0].buffer, np.uint8)

    try:
        yield exchange
    finally:
        socket.close(linger=0)
