"""A long run of many workers that come and go: a million pushes in `make torture`.

The server's memory, its descriptors and its threads do not grow.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import msgpack
import psutil
import pytest
import zmq

from leash.ps.wire.control import ControlChannel, request_state
from support.peers import Peer
from support.processes import server_process

WORKERS = 32
SHARE, ALL = 12_000, 1_000_000
LAYOUT = msgpack.packb([["w", "f32", [16], "parameter"]])
GRADIENT = bytes(64)
MIB = 1 << 20
SLOPE_NBYTES = MIB / 100_000  # a push, at most
SLACK_NBYTES = MIB  # of one measurement of memory
A_ROUND_IN = 40  # of the rounds, in which a worker goes and comes back


@dataclass
class SoakWorker:
    """One of the workers: it pushes, and waits for its answer."""

    rank: int
    context: "zmq.Context[zmq.Socket[bytes]]"
    address: str
    step: int = 0

    def join(self) -> None:
        """Says hello over new connections."""
        self.control = Peer(self.context, self.address)
        hello = {"t": "hello", "role": "worker", "worker": self.rank, "name": "soak"}
        welcome, _ = self.control.ask(hello, LAYOUT)
        assert welcome["t"] == "welcome", welcome
        self.incarnation, self.step = welcome["incarnation"], welcome["first_step"] - 1
        host = self.address.rpartition(":")[0]
        self.data = Peer(self.context, f"{host}:{welcome['data_ports'][0]}")
        init = {"t": "init", "chunk": 0, "codec": "f32"}
        self.data.send({**init, **self.ids}, GRADIENT)
        assert self.data.receive()[0]["t"] == "ok"

    @property
    def ids(self) -> dict[str, int]:
        return {"worker": self.rank, "incarnation": self.incarnation}

    def push(self) -> None:
        self.step += 1
        push = {"t": "push_pull", "step": self.step, "chunk": 0, "codec": "f32", "samples": 1}
        self.data.send({**push, **self.ids}, GRADIENT)

    def await_answer(self) -> None:
        answer, _ = self.data.receive()
        assert (answer["t"], answer["step"]) == ("params", self.step), answer

    def drop(self) -> None:
        """Goes as a process that is killed: with a push on its way, and without a word."""
        self.push()
        for peer in (self.control, self.data):
            peer.socket.close(linger=0)

    def leave(self) -> None:
        self.control.ask({"t": "bye", "reason": "failed", **self.ids})
        for peer in (self.control, self.data):
            peer.socket.close(linger=0)


@pytest.mark.timeout(1800)
def test_pushes_kills_and_joins_leave_nothing_behind(tmp_path: Path, torture: bool) -> None:
    pushes = ALL if torture else SHARE
    options = ("--policy=asp", f"--workers={WORKERS}", "--evict-s=10000", "--chunk-kib=64")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dice = random.Random(1)
    measured: list[tuple[int, int, int, int]] = []
    try:
        with server_process(tmp_path / "run", *options) as (server, address):
            process = psutil.Process(server.process.pid)
            workers = [SoakWorker(rank, context, address) for rank in range(1, WORKERS + 1)]
            for worker in workers:
                worker.join()
            for round_ in range(pushes // WORKERS):
                for worker in workers:
                    worker.push()
                for worker in workers:
                    worker.await_answer()
                if round_ % A_ROUND_IN == 0:
                    goes = dice.choice(workers)
                    goes.drop() if dice.random() < 0.5 else goes.leave()
                    goes.join()
                if round_ % max(1, pushes // WORKERS // 20) == 0:
                    for worker in workers:
                        worker.control.ask({"t": "beat", **worker.ids})
                    measured.append(
                        ((round_ + 1) * WORKERS, process.memory_info().rss, process.num_fds(),
                         process.num_threads())
                    )  # fmt: skip
            with ControlChannel(address) as channel:
                state = request_state(channel)
            assert state["steps"] >= pushes // WORKERS * WORKERS
            assert state["failures"] == 0
            for worker in workers:
                worker.control.ask({"t": "bye", "reason": "done", **worker.ids})
            assert server.wait(30) == 0
    finally:
        context.destroy(linger=0)
    _require_flat(measured)


def _require_flat(measured: list[tuple[int, int, int, int]]) -> None:
    """From the third part on, when everything has been used once."""
    later = measured[len(measured) // 3 :]
    (first, memory, fds, threads), (last, grown, more_fds, more_threads) = later[0], later[-1]
    assert grown - memory <= SLOPE_NBYTES * (last - first) + SLACK_NBYTES, measured
    assert more_fds <= fds + 4, measured
    assert more_threads <= threads, measured
