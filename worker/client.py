"""A process's part in a run: hello, push, pull, report, bye. Knows numpy, not torch.

client = Client(address, layout, rank=1)
client.begin(parameters)                        # waits for the others; fills the slab
info = client.push_pull(gradients, parameters, samples=100)
client.close("done")
"""

import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zmq

from ps.addresses import split_address
from ps.control import ControlChannel, request_state
from ps.errors import LayoutMismatchError, LeashError, StoppingError
from ps.layout import Chunk, Layout
from ps.wire.codecs import check_size, codec_for
from ps.wire.messages import (
    STOPPED_BY_TIMEOUT,
    Beaten,
    Bye,
    Hello,
    Init,
    Ok,
    Params,
    Pull,
    PushPull,
    Report,
    Welcome,
)
from worker.exchange import DataChannel
from worker.liveness import Liveness
from worker.memory import SlabMemory

BYE_TIMEOUT_S: Final = 1.0
OBSERVER_BEAT_S: Final = 0.1  # an observer wants to see the end of an epoch as it comes

Slab = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What happened to one step."""

    step: int
    version: int  # updates that the model had seen when the replies went out; least over chunks
    lag: int  # steps ahead of the slowest worker; largest over chunks
    staleness: int  # updates by others since this worker's last pull; largest over chunks
    wait_s: float  # spent waiting for replies


class Client:
    """One worker or observer in one run. For one thread; beats come from another."""

    def __init__(
        self, address: str, layout: Layout, *, rank: int = 0, wait_s: float = 30.0,
        name: str | None = None, transport: str = "auto", codec: str = "f32",
        memory: SlabMemory | None = None,
    ) -> None:  # fmt: skip
        """Says hello.

        Args:
            address: of the control socket, tcp://HOST:PORT.
            layout: of this process's model; the run has one layout.
            rank: the worker's number, from 1; 0 for an observer.
            wait_s: seconds to wait for the server to answer.

        Raises:
            ServerUnreachableError: no server answered.
            ProtocolError: the server refuses, and says why.
        """
        self.address: Final = address
        self.layout: Final = layout
        self.rank: Final = rank
        self._wait_s: Final = wait_s
        self._name: Final = name or f"{socket.gethostname()}:{os.getpid()}"
        self._context: Final[zmq.Context[zmq.Socket[bytes]]] = zmq.Context()
        self._control: Final = ControlChannel(address, self._context)
        self.deadline_s: float = math.inf  # on time.monotonic(); this worker's part ends then
        self._closed = False
        try:
            self._join()
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _join(self) -> None:
        role = "worker" if self.rank else "observer"
        hello = Hello(role, self.rank, self._name)
        answer, payload = self._control.request(
            hello, Welcome, payload=self.layout.pack(), timeout_s=self._wait_s
        )
        self.welcome: Welcome = answer
        served = Layout.unpack(payload or b"")
        if difference := served.first_difference(self.layout):
            raise LayoutMismatchError(difference)
        self.chunks: tuple[Chunk, ...] = self.layout.cut(self.welcome.chunk_nbytes)
        self.steps: int = self.welcome.first_step - 1
        self.liveness = Liveness(
            self.address,
            self.rank,
            self.welcome.incarnation,
            self.welcome.beat_s if self.rank else min(OBSERVER_BEAT_S, self.welcome.beat_s),
        )
        self.liveness.start()
        host, _ = split_address(self.address)
        self._data = DataChannel(
            self._context,
            f"tcp://{host}:{self.welcome.data_ports[0]}",
            self.welcome.window,
            self.welcome.chunk_nbytes,
            self.check,
        )

    def _part(self) -> None:
        self._data.close()
        self.liveness.stop()

    @property
    def settings(self) -> dict[str, Any]:
        """What the server was started with."""
        return self.welcome.settings

    # Taking part.

    def begin(
        self, parameters: Slab, on_wait: Callable[[Beaten | None], None] = lambda _: None
    ) -> None:
        """Waits until every worker is here, then fills `parameters` with the common values.

        Args:
            parameters: a slab of this layout with this process's first values: they become
                everybody's if the server asks this worker for them.
            on_wait: called about twice a second while waiting.
        """
        ready = self.liveness.wait_until(
            lambda b: b.started and (b.initialize or b.initialized), on_wait
        )
        if ready.initialize and not ready.initialized:
            self._init(parameters)
        self.pull(parameters)

    def pull(self, parameters: Slab) -> int:
        """Fills `parameters` with the values as they are now; returns their least version."""
        versions = []

        def on_reply(reply: Params | Ok, payload: zmq.Frame | None) -> None:
            assert isinstance(reply, Params)
            self._store(reply, payload, parameters)
            versions.append(reply.version)

        self._data.exchange(
            [(Pull(self.rank, self._incarnation, c.index, c.dtype), None) for c in self.chunks],
            on_reply,
        )
        return min(versions)

    def push_pull(self, gradients: Slab, parameters: Slab, samples: int) -> StepInfo:
        """Pushes a step's gradients and waits for the parameters that the policy grants.

        Args:
            gradients: a slab of this layout; chunks of buffers hold values instead. Unchanged,
                and not to be changed until this returns.
            parameters: a slab of this layout, overwritten chunk by chunk.
            samples: behind this gradient: its weight in the mean of bsp.

        Raises:
            NonfiniteError: a NaN or infinity in the gradient, named by step and slot.
            EvictedError: the server went on without this worker; `rejoin` helps.
            LeashError: whatever else ends this worker's part.
        """
        self.check()
        self.steps += 1
        replies: list[Params] = []

        def on_reply(reply: Params | Ok, payload: zmq.Frame | None) -> None:
            assert isinstance(reply, Params)
            self._store(reply, payload, parameters)
            replies.append(reply)

        wait_s = self._data.exchange(self._pushes(gradients, samples), on_reply)
        return StepInfo(
            self.steps,
            min(r.version for r in replies),
            max(r.lag for r in replies),
            max(r.staleness for r in replies),
            wait_s,
        )

    def begin_step(self, gradients: Slab, parameters: Slab, samples: int) -> None:
        self._step = (gradients, parameters, samples)

    def advance(self, first_ready: int) -> None:
        pass

    def finish_step(self) -> StepInfo:
        return self.push_pull(*self._step)

    def rejoin(self) -> None:
        """Says hello again after an eviction; pull before the next push."""
        self._part()
        self._join()

    def report(self, report: Report) -> None:
        """Tells the server something, soon."""
        self.liveness.tell(report)

    def state(self) -> dict[str, Any]:
        """How the run stands."""
        return request_state(self._control)

    def close(self, reason: str = "done") -> None:
        """Says bye, unless the server is gone, and ends all threads and sockets.

        Args:
            reason: "done", "stopped" or "failed".
        """
        if self._closed:
            return
        self._closed = True
        self._part()
        # A server that is gone, or has left us behind, needs no bye.
        with suppress(LeashError):
            bye = Bye(self.rank, self._incarnation, reason)
            self._control.request(bye, Ok, timeout_s=BYE_TIMEOUT_S)
        self._control.close()
        self._context.destroy(linger=0)

    def check(self) -> None:
        """Raises what ends this process's part in the run: the server's word, or its own time."""
        self.liveness.check()
        if time.monotonic() > self.deadline_s:
            raise StoppingError(STOPPED_BY_TIMEOUT)

    # How it is done.

    @property
    def _incarnation(self) -> int:
        return self.welcome.incarnation

    def _init(self, parameters: Slab) -> None:
        self._data.exchange(
            (
                (Init(self.rank, self._incarnation, c.index, c.dtype), parameters[c.start : c.stop])
                for c in self.chunks
            ),
            lambda _, __: None,
        )

    def _pushes(self, gradients: Slab, samples: int) -> Iterator[tuple[PushPull, Slab]]:
        """From the last chunk to the first: one order for all, or full windows could deadlock."""
        for c in reversed(self.chunks):
            push = PushPull(self.rank, self._incarnation, self.steps, c.index, c.dtype, samples)
            yield push, gradients[c.start : c.stop]

    def _store(self, reply: Params, payload: zmq.Frame | None, parameters: Slab) -> None:
        assert payload is not None
        chunk = self.chunks[reply.chunk]
        check_size(chunk, codec_for(reply.codec, chunk), len(payload))
        parameters[chunk.start : chunk.stop] = np.frombuffer(payload.buffer, np.uint8)
