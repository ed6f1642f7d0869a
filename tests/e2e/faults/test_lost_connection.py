"""A data connection that breaks again and again: nothing is lost, nothing is applied twice."""

import random
import socket
import threading
from contextlib import suppress

import numpy as np
import pytest

from leash.ps.wire.layout import Layout, Slot
from leash.worker.client import Client
from support.servers import serving

STEPS = 150
CHUNKS = 8
VALUES = CHUNKS * 16 * 1024  # of 64 KiB chunks


class Cutter:
    """A TCP relay that can cut every connection through it."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the end
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self.pairs.append((near, far))
                for a, b in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._relay, args=(a, b), daemon=True)
                    self.threads.append(thread)
                    thread.start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(8192):
                sink.sendall(data)

    def cut(self) -> None:
        while self.pairs:
            for end in self.pairs.pop():
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
        for thread in self.threads:
            thread.join(5)


@pytest.mark.parametrize(
    ("policy", "shards", "transport"),
    [("bsp", 1, "shm"), ("asp", 1, "shm"), ("asp", 2, "shm"), ("asp", 2, "tcp")],
)
def test_every_step_counts_once_though_its_connection_breaks(
    policy: str, shards: int, transport: str
) -> None:
    layout = Layout([Slot("w", "f32", (VALUES,))])
    gradients, parameters = (np.zeros(layout.nbytes, np.uint8) for _ in range(2))
    gradients.view("<f4")[:] = -1
    chance = random.Random(policy)
    with serving(policy=policy, lr=1.0, chunk_kib=64, window=4, shards=shards) as running:
        ports = running.server.shards.ports
        cutters = [Cutter(port) for port in ports]
        ports[:] = [cutter.port for cutter in cutters]
        client = Client(running.address, layout, rank=1, transport=transport)
        cuts = 0
        try:
            client.begin(parameters)
            for _ in range(STEPS):
                timer = threading.Timer(chance.uniform(0, 0.004), chance.choice(cutters).cut)
                if chance.random() < 0.15:
                    cuts += 1
                    timer.start()
                client.push_pull(gradients, parameters, samples=1)
                timer.cancel()
        finally:
            client.close()
            for cutter in cutters:
                cutter.close()
        assert running.join() == 0
    assert cuts > 10
    np.testing.assert_array_equal(parameters.view("<f4"), STEPS)
