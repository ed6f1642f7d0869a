"""Rings of headers in a worker's memory, as a peer that knows nothing of Leash plays them.

Whatever comes by a ring is taken as what comes over the socket; whoever writes what is no ring
harms itself alone.
"""

import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

import msgpack
import pytest

from leash.ps.wire import intake
from support.contract import (
    CHUNK_NBYTES,
    LR,
    NONCE,
    PAGE,
    PLAIN_NBYTES,
    RINGS_NBYTES,
    Pair,
    Worker,
    joined,
    packed,
    segment,
)
from support.peers import Header, peers
from support.servers import serving

WORDS_NBYTES, RECORDS, RECORD_NBYTES = 256, 64, 256
RING_NBYTES = WORDS_NBYTES + RECORDS * RECORD_NBYTES
RINGS = PLAIN_NBYTES - RINGS_NBYTES  # where they begin, without an outbox
REQUESTS, ANSWERS = RINGS + PAGE, RINGS + PAGE + RING_NBYTES  # of shard 0
HEAD, TAIL, CLOSED = 0, 64, 192
PIPE_NBYTES = 64 * 1024
PATIENCE_S = 20.0


class Ring:
    """A worker's segment with the rings of shard 0, and the pipe that wakes the server."""

    def __init__(self, fields: dict[str, Any], memory: Any) -> None:
        self._reads, self._writes = os.pipe2(os.O_NONBLOCK)
        self.fields = {**fields, "pipe": self._reads}
        self.memory = memory
        self._asked = self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reads)
        os.close(self._writes)

    def attach(self, worker: Worker, **more: Any) -> Header:
        answer, _ = worker.data.ask(worker.header("attach", **self.fields, **more))
        assert answer["t"] == "attached", answer
        return answer

    def write(self, at: int, number: int, letter: str = "Q") -> None:
        struct.pack_into(f"<{letter}", self.memory, at, number)

    def read(self, at: int, letter: str = "Q") -> int:
        (number,) = struct.unpack_from(f"<{letter}", self.memory, at)
        return int(number)

    def put(self, header: Header | bytes) -> None:
        """Writes a request, and wakes the server."""
        told = header if isinstance(header, bytes) else msgpack.packb({"v": 1, **header})
        at = REQUESTS + WORDS_NBYTES + self._asked % RECORDS * RECORD_NBYTES
        self.write(at, len(told), "H")
        self.memory[at + 2 : at + 2 + len(told)] = told
        self._asked += 1
        self.write(REQUESTS + HEAD, self._asked)
        self.wake()

    def wake(self, nbytes: int = 1) -> None:
        with suppress(BlockingIOError):  # a pipe that is full wakes too
            os.write(self._writes, bytes(nbytes))

    def has_answer(self) -> bool:
        return self.read(ANSWERS + HEAD) != self._taken

    def take(self) -> Header:
        """The next answer."""
        until(self.has_answer)
        at = ANSWERS + WORDS_NBYTES + self._taken % RECORDS * RECORD_NBYTES
        nbytes = self.read(at, "H")
        self._taken += 1
        self.write(ANSWERS + TAIL, self._taken)
        answer: Header = msgpack.unpackb(bytes(self.memory[at + 2 : at + 2 + nbytes]))
        return answer

    def fill(self, value: float) -> None:
        """Puts a gradient into slab 0."""
        self.memory[PAGE : PAGE + CHUNK_NBYTES] = packed(0, value)

    @property
    def values(self) -> bytes:
        return bytes(self.memory[PAGE : PAGE + CHUNK_NBYTES])


def until(happens: Any) -> None:
    """Looks at shared memory again and again: nobody tells when it changes."""
    end_s = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < end_s, "nothing has come"
        os.sched_yield()


@contextmanager
def ring() -> Iterator[Ring]:
    with segment() as (fields, memory), Ring(fields, memory) as made:
        yield made


@contextmanager
def alone(**settings: Any) -> Iterator[tuple[Worker, Ring]]:
    """One worker of a server, whose model has its values, with a ring that is not attached yet."""
    with ExitStack() as stack:
        running = stack.enter_context(serving(workers=1, lr=LR, chunk_kib=64, **settings))
        sockets = stack.enter_context(peers(running.address, running.data_address))
        worker = joined(running, 1, *sockets)
        worker.init()
        yield worker, stack.enter_context(ring())


def test_a_push_by_a_ring_is_answered_by_it() -> None:
    with alone() as (worker, by_ring):
        assert by_ring.attach(worker)["rings"] is True
        for step in range(1, 3 * RECORDS):
            by_ring.fill(0.25)
            by_ring.put(worker.push(0, step))
            answer = by_ring.take()
            assert (answer["t"], answer["step"], answer["version"]) == ("params", step, step)
            assert by_ring.values == packed(0, 1.0 - LR * 0.25 * step)


def test_what_is_wrong_with_a_push_is_said_by_the_ring() -> None:
    with alone() as (worker, by_ring):
        by_ring.attach(worker)
        for fields, code in (
            ({"slab": 2}, "bad_segment"),
            ({"chunk": 7}, "unknown_chunk"),
            ({"step": 9}, "resync"),
        ):
            by_ring.put({**worker.push(0, 1), **fields})
            answer = by_ring.take()
            assert (answer["t"], answer["code"]) == ("error", code)


def test_what_is_no_push_is_answered_over_the_connection() -> None:
    with alone() as (worker, by_ring):
        by_ring.attach(worker)
        by_ring.put(worker.header("pull", chunk=0, codec="f32"))
        answer, payload = worker.data.receive()
        assert (answer["t"], payload) == ("params", packed(0, 1.0))
        for wrong, code in ((b"no msgpack", "bad_header"), (b"", "bad_header")):
            by_ring.put(wrong)
            answer, _ = worker.data.receive()
            assert (answer["t"], answer["code"]) == ("error", code)
        stranger = {**worker.push(0, 1), "incarnation": worker.incarnation + 1}
        by_ring.put(stranger)
        assert worker.data.receive()[0]["t"] == "error"
        by_ring.fill(0.25)
        by_ring.put(worker.push(0, 1))
        assert by_ring.take()["t"] == "params"


def test_a_ring_takes_no_pushes_of_another_worker(pair: Pair) -> None:
    pair.second.complete_a_step()
    with ring() as by_ring:
        by_ring.attach(pair.first)
        by_ring.put(pair.second.push(0, pair.second.step + 1))
        answer = by_ring.take()
        assert (answer["t"], answer["code"]) == ("error", "bad_segment")


def test_a_later_attach_forgets_what_the_ring_had() -> None:
    with alone() as (worker, by_ring):
        by_ring.attach(worker, number=1)
        by_ring.fill(0.25)
        by_ring.put(worker.push(0, 1))
        assert by_ring.take()["step"] == 1
        # Written, but the server was not woken, and might not have looked.
        by_ring.attach(worker, number=2)
        by_ring.fill(0.5)
        by_ring.put(worker.push(0, 2))
        assert by_ring.take()["step"] == 2
        assert not by_ring.has_answer()


def test_over_another_connection_the_ring_is_that_of_the_newest_attach() -> None:
    with alone() as (worker, by_ring), ring() as other:
        by_ring.attach(worker, number=1)
        other.attach(worker, number=2)
        by_ring.fill(3.0)
        by_ring.put(worker.push(0, 1))  # nobody reads here any more
        other.fill(0.25)
        other.put(worker.push(0, 1))
        assert other.take()["step"] == 1
        assert by_ring.values == packed(0, 3.0)
        assert not by_ring.has_answer()


@pytest.mark.parametrize("head", [RECORDS + 1, 2**64 - 1, 1])
def test_who_breaks_its_ring_is_evicted_and_the_others_go_on(pair: Pair, head: int) -> None:
    with ring() as by_ring:
        by_ring.attach(pair.first)
        by_ring.write(REQUESTS + WORDS_NBYTES, RECORD_NBYTES, "H")  # longer than a record
        by_ring.write(REQUESTS + HEAD, head)
        by_ring.wake()
        for _ in range(4):  # under ssp with bound 1: a worker that stays would hold it up
            pair.second.complete_a_step()
        assert pair.running.settled().summary()["evictions"] == 1


def test_answers_that_nobody_takes_cost_the_worker_its_place(pair: Pair) -> None:
    with ring() as by_ring:
        by_ring.attach(pair.first)
        by_ring.write(ANSWERS + TAIL, 2**63)
        by_ring.fill(0.25)
        by_ring.put(pair.first.push(0, 1))
        for _ in range(4):
            pair.second.step, step = pair.second.step + 1, pair.second.step + 1
            for chunk in (1, 0):
                answer, _ = pair.second.data.ask(pair.second.push(chunk, step), packed(chunk, 0.25))
                assert answer["t"] == "params"
        assert pair.running.settled().summary()["evictions"] == 1


def test_an_answer_that_waits_comes_by_the_ring_when_another_worker_leaves(pair: Pair) -> None:
    with ring() as by_ring:
        by_ring.attach(pair.first)
        for step in (1, 2):
            by_ring.fill(0.25)
            by_ring.put(pair.first.push(0, step))
            if step == 1:
                assert by_ring.take()["step"] == 1
        pair.second.control.ask(pair.second.header("bye", reason="stopped"))
        assert by_ring.take()["step"] == 2


def test_who_is_no_member_any_more_hears_that_its_ring_is_closed(pair: Pair) -> None:
    with ring() as by_ring:
        by_ring.attach(pair.first)
        assert by_ring.read(REQUESTS + CLOSED, "I") == 0
        pair.first.control.ask(pair.first.header("bye", reason="stopped"))
        until(lambda: by_ring.read(REQUESTS + CLOSED, "I") == 1)
        assert pair.first.data.error(pair.first.push(0, 1)) == "evicted"


def test_at_the_end_of_a_run_who_waits_hears_so_by_the_ring(pair: Pair) -> None:
    with ring() as by_ring:
        by_ring.attach(pair.first)
        for step in (1, 2):
            by_ring.fill(0.25)
            by_ring.put(pair.first.push(0, step))
        assert by_ring.take()["step"] == 1
        pair.running.server.stop_soon(signal.SIGTERM)
        answer = by_ring.take()  # the same, whether the second one waits by then or comes too late
        assert (answer["t"], answer["code"]) == ("error", "stopping")


def test_a_pipe_that_is_none_is_refused() -> None:
    with alone() as (worker, by_ring), open(__file__, "rb") as file:
        for pipe in (file.fileno(), by_ring.fields["fd"], 2**31 - 1):
            header = worker.header("attach", **{**by_ring.fields, "pipe": pipe})
            assert worker.data.error(header) == "bad_segment"
        assert by_ring.attach(worker)["nonce"] == NONCE.hex()


def test_a_pipe_full_of_bytes_only_wakes() -> None:
    with alone() as (worker, by_ring):
        by_ring.attach(worker)
        for _ in range(10):
            by_ring.wake(PIPE_NBYTES)
        by_ring.fill(0.25)
        answer, _ = worker.data.ask(worker.push(0, 1))
        assert answer["t"] == "params", answer


@pytest.mark.parametrize("why", ["no lane", "not asked for"])
def test_without_rings_pushes_go_over_the_socket(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "no lane":
        monkeypatch.setattr(intake, "why_plain", lambda: "not found")
    with alone() as (worker, by_ring):
        if why == "not asked for":
            by_ring.fields["pipe"] = 0
        assert not by_ring.attach(worker).get("rings", False)
        by_ring.fill(0.25)
        assert worker.data.ask(worker.push(0, 1))[0]["t"] == "params"
        assert by_ring.values == packed(0, 1.0 - LR * 0.25)
