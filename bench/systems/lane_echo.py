"""The limit of Leash's own lane: messages go between its sockets and come back as they were sent.

Sockets, chunks, window and memory are those of Leash over TCP, and a header goes before each chunk.
What `leash` takes beyond this, its engines take: headers, checks, the update, the clock.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq

from leash.bench.harness.crew import server_process
from leash.bench.harness.trial import Exchange, Trial
from leash.bench.harness.workload import CHUNK_NBYTES, GRADIENT, MAX_NBYTES, QUEUE, WINDOW, bytes_of
from leash.ps import _core
from leash.ps._core import keep_freed_memory
from leash.ps.wire.intake import LaneIntake, PeerLimits
from leash.ps.wire.sockets import (
    COPY_BELOW_NBYTES,
    library,
    make_dealer,
    make_router,
)
from leash.worker.client.data_driver import SPIN_S


@contextmanager
def serve(trial: Trial) -> Iterator[str]:
    with server_process(_serve, trial.workers) as address:
        yield address


def _serve(workers: int, tell: Callable[[str], None]) -> None:
    keep_freed_memory()
    context = zmq.Context()
    router = make_router(context, QUEUE, MAX_NBYTES)
    intake = LaneIntake(context, router, "127.0.0.1", 0, PeerLimits.of(workers, MAX_NBYTES, QUEUE))
    tell(f"tcp://127.0.0.1:{intake.port}")
    intake.echo()


@contextmanager
def join(trial: Trial, address: str, rank: int) -> Iterator[Exchange]:
    keep_freed_memory()
    socket = make_dealer(zmq.Context(), QUEUE, MAX_NBYTES)
    socket.connect(address)
    worker = _core.EchoWorker(
        library(), socket.underlying, bytes_of(trial.nbytes, GRADIENT), chunk_nbytes=CHUNK_NBYTES,
        window=WINDOW, spin_s=SPIN_S, copy_below_nbytes=COPY_BELOW_NBYTES,
    )  # fmt: skip
    try:
        yield worker.exchange
    finally:
        socket.close(linger=0)
