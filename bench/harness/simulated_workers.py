"""Simulates many workers in one thread: they send and wait, but do not compute.

Each has a connection of its own, so the server sees as many peers as in a real run. A worker pushes
all chunks of a step, and begins the next step when the last answer has come.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import zmq

from leash.bench.harness.workload import GRADIENT, bytes_of
from leash.ps.errors import LeashError
from leash.ps.options.addresses import split_address
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.frames import REPLIES, decode, encode, error_from
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Bye, Error, Hello, Init, Ok, PushPull, Welcome
from leash.ps.wire.sockets import connect, data_max_nbytes, data_queue, make_dealer, receive
from leash.ps.words import DONE

ANSWER_S: Final = 30.0


class SimulatedWorker:
    """One simulated worker."""

    def __init__(self, rank: int, incarnation: int, socket: "zmq.Socket[bytes]") -> None:
        self.rank: Final = rank
        self.incarnation: Final = incarnation
        self.socket: Final = socket
        self.step = 0
        self.in_flight = 0


class SimulatedWorkers:
    """`workers` of them, which share a model of `chunks` chunks, and push the first `pushed`."""

    def __init__(
        self, address: str, workers: int, chunks: int, chunk_nbytes: int, pushed: int | None = None
    ) -> None:
        self._context: Final[zmq.Context[zmq.Socket[bytes]]] = zmq.Context()
        self._control: Final = ControlChannel(address, self._context)
        self._layout: Final = Layout([Slot("w", "f32", (chunks * chunk_nbytes // 4,))])
        self._chunks: Final = range(chunks if pushed is None else pushed)
        self._gradient: Final = bytes_of(chunk_nbytes, GRADIENT)
        self._workers: Final = [self._join(address, rank + 1) for rank in range(workers)]
        self._poller: Final = zmq.Poller()
        for worker in self._workers:
            self._poller.register(worker.socket, zmq.POLLIN)
        self._in_flight = 0  # requests of all workers
        self._newest_step = 0
        self._by_socket: Final = {worker.socket: worker for worker in self._workers}
        self._init(chunks)

    def _join(self, address: str, rank: int) -> SimulatedWorker:
        hello = Hello("worker", rank, f"bench {rank}", ["f32"])
        welcome, _ = self._control.request(hello, Welcome, payload=self._layout.pack())
        queue, most = data_queue(welcome.window), data_max_nbytes(welcome.chunk_nbytes)
        socket = make_dealer(self._context, queue, most)
        host, _ = split_address(address)
        connect(socket, f"tcp://{host}:{welcome.data_ports[0]}")
        assert len(self._chunks) <= welcome.window
        return SimulatedWorker(rank, welcome.incarnation, socket)

    def _init(self, chunks: int) -> None:
        first, most = self._workers[0], len(self._chunks)
        for chunk in range(chunks):
            init = Init(first.rank, first.incarnation, chunk, "f32")
            first.socket.send(encode(init), zmq.SNDMORE)
            first.socket.send(self._gradient)
            self._expect(first, 1)
            while first.in_flight >= (most if chunk < chunks - 1 else 1):
                first.socket.poll(int(ANSWER_S * 1000))
                self._read(first)

    def go(self, until: Callable[[], bool]) -> int:
        """Pushes and pulls until `until` is true; then finishes every step that has begun.

        Args:
            until: is called now and then.

        Returns:
            How many messages were answered.
        """
        answered, stops = 0, False
        for worker in self._workers:
            self._push(worker)
        while self._in_flight:
            ready = self._poller.poll(int(ANSWER_S * 1000))
            if not ready:
                raise LeashError(f"the server has not answered for {ANSWER_S:.0f} s")
            stops = stops or until()
            for socket, _ in ready:
                worker = self._by_socket[socket]
                answered += self._read(worker)
                # No worker may stay behind, since the others' last answers would wait for it.
                if not worker.in_flight and (not stops or worker.step < self._newest_step):
                    self._push(worker)
        return answered

    def _push(self, worker: SimulatedWorker) -> None:
        worker.step += 1
        for chunk in reversed(self._chunks):
            push = PushPull(worker.rank, worker.incarnation, worker.step, chunk, "f32", 1)
            worker.socket.send(encode(push), zmq.SNDMORE)
            worker.socket.send(self._gradient)
        self._newest_step = max(self._newest_step, worker.step)
        self._expect(worker, len(self._chunks))

    def _expect(self, worker: SimulatedWorker, answers: int) -> None:
        worker.in_flight += answers
        self._in_flight += answers

    def _read(self, worker: SimulatedWorker) -> int:
        """Takes the answers that have come to one worker; returns their number."""
        answers = 0
        while worker.in_flight and (frames := receive(worker.socket)):
            message = decode(frames[0].bytes, REPLIES)
            if isinstance(message, Error):
                raise error_from(message)
            if len(frames) > 1:  # a real worker would copy it to its place
                np.frombuffer(frames[1].buffer, np.uint8)
            worker.in_flight -= 1
            answers += 1
        self._in_flight -= answers
        return answers

    def close(self) -> None:
        for worker in self._workers:
            worker.socket.close(linger=0)
            self._control.request(Bye(worker.rank, worker.incarnation, DONE), Ok)
        self._control.close()
        self._context.destroy(linger=0)
