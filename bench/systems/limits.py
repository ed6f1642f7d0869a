"""The limits that no parameter server can beat: memory, the update itself, and a bare socket."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from leash.bench.harness.crew import server_process
from leash.bench.harness.trial import Exchange, Trial
from leash.bench.harness.workload import GRADIENT, LR, bytes_of
from leash.ps import _core
from leash.ps.wire.sockets import host_and_port

READ_NBYTES = 1 << 20


@contextmanager
def nobody(_: Trial) -> Iterator[str]:
    """Stands for the server of a limit that needs none."""
    yield ""


@contextmanager
def memcpy(trial: Trial, _: str, __: int) -> Iterator[Exchange]:
    source, target = bytes_of(trial.nbytes, GRADIENT), bytes_of(trial.nbytes, 1.0)
    yield lambda: np.copyto(target, source)


@contextmanager
def fused_sgd(trial: Trial, _: str, __: int) -> Iterator[Exchange]:
    """Runs the kernel alone, in one thread; the parameters take the gradient's place."""
    w = bytes_of(trial.nbytes, 1.0).view(np.float32)
    gradients = bytes_of(trial.nbytes, GRADIENT)
    isa, options = _core.instruction_set(), _core.SgdOptions(lr=LR)
    yield lambda: _core.kernels.update(isa, w, [], gradients, gradients, options, 1)


@contextmanager
def serve_tcp(trial: Trial) -> Iterator[str]:
    with server_process(_serve_tcp, trial) as address:
        yield address


def _serve_tcp(trial: Trial, tell: Callable[[str], None]) -> None:
    """Reads a message, and answers with one byte when it has read all of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        tell(f"tcp://127.0.0.1:{listening.getsockname()[1]}")
        peer, _ = listening.accept()
        target = memoryview(bytes_of(trial.nbytes, 1.0))
        with peer:
            while _fill(peer, target):
                peer.sendall(b".")


def _fill(peer: socket.socket, target: memoryview) -> bool:
    """Fills the memory from the socket; returns False if the peer is gone."""
    filled = 0
    while filled < len(target):
        count = peer.recv_into(target[filled : filled + READ_NBYTES])
        if count == 0:
            return False
        filled += count
    return True


@contextmanager
def tcp_one_way(trial: Trial, address: str, _: int) -> Iterator[Exchange]:
    source = memoryview(bytes_of(trial.nbytes, GRADIENT))
    with socket.create_connection(host_and_port(address)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def exchange() -> None:
            connection.sendall(source)
            connection.recv(1)

        yield exchange
