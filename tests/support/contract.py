"""A worker that keeps to the contract and knows what the parameters must be, and attacks on it.

Like the peers it knows pyzmq and msgpack, and nothing of Leash.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgpack

from support.peers import Header, Peer
from support.servers import RunningServer

CHUNK_NBYTES = 64 * 1024
F32_VALUES = CHUNK_NBYTES // 4
LR = 0.5
LAYOUT = [["w", "f32", [F32_VALUES], "parameter"], ["s", "f64", [3], "parameter"]]
PACKED_LAYOUT = msgpack.packb(LAYOUT)
# Chunk ▸ codec, values, struct's letter.
CHUNKS = {0: ("f32", F32_VALUES, "f"), 1: ("f64", 3, "d")}
DATA_VERBS = ("init", "push_pull", "push", "pull", "options", "echo")
U32, U63 = 2**32, 2**63

# A worker's segment of this layout, without an outbox.
PAGE = 4096
SLAB = CHUNK_NBYTES + 24  # of support.contract's layout
PAGES = -(-SLAB // PAGE) * PAGE
OUTBOX = PAGE + 2 * PAGES  # where it begins, if there is one
STATES_NBYTES = -(-8 * (SLAB // 8192 + 8) // PAGE) * PAGE
RING_NBYTES = 256 + 64 * 256
RINGS_NBYTES = PAGE + 16 * 2 * RING_NBYTES
PLAIN_NBYTES = OUTBOX + STATES_NBYTES + RINGS_NBYTES
NONCE = bytes(range(16))
SEALED = 1 | 2 | 4


def packed(chunk: int, value: float) -> bytes:
    """A chunk with one value throughout."""
    _, values, letter = CHUNKS[chunk]
    return struct.pack(f"<{values}{letter}", *[value] * values)


@dataclass
class Worker:
    """Keeps to the contract, and knows what the parameters must be."""

    rank: int
    control: Peer
    data: Peer
    incarnation: int = 0
    step: int = 0
    value: float = 1.0  # of every parameter

    def hello(self, name: str = "well-behaved") -> None:
        header = {"t": "hello", "role": "worker", "worker": self.rank, "name": name}
        welcome, _ = self.control.ask(header, PACKED_LAYOUT)
        assert welcome["t"] == "welcome", welcome
        self.incarnation, self.step = welcome["incarnation"], welcome["first_step"] - 1

    def header(self, verb: str, **fields: Any) -> Header:
        return {"t": verb, "worker": self.rank, "incarnation": self.incarnation, **fields}

    def init(self) -> None:
        for chunk, (codec, _, _) in CHUNKS.items():
            header = self.header("init", chunk=chunk, codec=codec)
            assert self.data.ask(header, packed(chunk, self.value))[0]["t"] == "ok"

    def pull(self, chunk: int) -> bytes | None:
        header = self.header("pull", chunk=chunk, codec=CHUNKS[chunk][0])
        answer, payload = self.data.ask(header)
        assert answer["t"] == "params", answer
        return payload

    def push(self, chunk: int, step: int, **fields: Any) -> Header:
        codec = CHUNKS[chunk][0]
        return self.header("push_pull", step=step, chunk=chunk, codec=codec, samples=1, **fields)

    def require_unchanged(self) -> None:
        assert all(self.pull(chunk) == packed(chunk, self.value) for chunk in CHUNKS)

    def complete_a_step(self) -> None:
        self.step, self.value = self.step + 1, self.value - LR * 0.25
        for chunk in reversed(CHUNKS):
            answer, payload = self.data.ask(self.push(chunk, self.step), packed(chunk, 0.25))
            assert answer["t"] == "params", answer
            assert payload == packed(chunk, self.value)


def joined(running: RunningServer, rank: int, control: Peer, data: Peer) -> Worker:
    worker = Worker(rank, control, data)
    worker.hello()
    return worker


@dataclass
class Attack:
    """Two sockets for mischief, and the worker that it must not hurt."""

    worker: Worker
    running: RunningServer
    control: Peer
    data: Peer

    def peer(self, verb: str) -> Peer:
        """The socket on which this verb belongs."""
        return self.data if verb in DATA_VERBS else self.control


@dataclass
class Pair:
    """Two workers of one run, and a further connection of the first one's."""

    first: Worker
    second: Worker
    spare: Peer
    running: RunningServer


def valid_messages(worker: Worker) -> dict[str, tuple[Header, tuple[bytes, ...]]]:
    """One of each verb that the server would honour, with its payload."""
    step = worker.step + 1
    gradient = packed(0, 1.0)
    hello = {"t": "hello", "role": "worker", "worker": 1, "name": "somebody"}
    report = {
        "kind": "training", "epoch": 0, "step": 1, "samples": 1, "loss": 1.0, "accuracy": 0.0,
        "compute_s": 1.0, "wait_s": 1.0,
    }  # fmt: skip
    lease = {"number": 1, "samples": 9, "epochs": 1, "batch_size": 1, "samples_per_s": 0.0}
    group = {"lr": LR, "weight_decay": 0.0, "maximize": False, "momentum": 0.0, "dampening": 0.0,
             "nesterov": False}  # fmt: skip
    rows = msgpack.packb([[1, {"loss": 0.5}], [2, {"loss": 0.25, "accuracy": 1.0}]])
    table = msgpack.packb({"groups": [group], "group_of_slot": bytes(len(LAYOUT))})
    return {
        "hello": (hello, (PACKED_LAYOUT,)),
        "beat": (worker.header("beat"), ()),
        "lease": (worker.header("lease", **lease), ()),
        "report": (worker.header("report", **report), ()),
        "log": (worker.header("log", process=5, first=1), (rows,)),
        "status": ({"t": "status"}, ()),
        "bye": (worker.header("bye", reason="done"), ()),
        "init": (worker.header("init", chunk=0, codec="f32"), (gradient,)),
        "push_pull": (worker.push(0, step), (gradient,)),
        "push": ({**worker.push(0, step), "t": "push"}, (gradient,)),
        "pull": (worker.header("pull", chunk=0, codec="f32"), ()),
        "options": (worker.header("options", number=1), (table,)),
        "echo": ({"t": "echo"}, (b"hello",)),
    }


@contextmanager
def segment(
    nbytes: int = PLAIN_NBYTES, seals: int = SEALED
) -> Iterator[tuple[dict[str, Any], mmap.mmap]]:
    """A segment, and the fields of the `attach` that names it."""
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, nbytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        memory = mmap.mmap(fd, nbytes)
        memory[:16] = NONCE
        yield {"pid": os.getpid(), "fd": fd, "nbytes": nbytes, "nonce": NONCE.hex()}, memory
    finally:
        os.close(fd)
