"""The data connections of a worker to all shards: sockets, and the waiting, around a step engine.

The engine (`leash.ps._core.StepEngine`) says what goes out and what an answer means. This driver
carries it, waits, and knows by its clock when a connection is lost for good.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import zmq
from zmq.utils.monitor import recv_monitor_message

from leash.ps._core import StepEngine, StepLane, StepNotice, StepStop
from leash.ps.errors import (
    ProtocolError,
    RestartedError,
    SegmentError,
    ServerUnreachableError,
    UsageError,
)
from leash.ps.wire.codecs import check_size, codec_for
from leash.ps.wire.frames import REPLIES, check_payload_count, decode, error_from
from leash.ps.wire.keys import ClientKey
from leash.ps.wire.layout import Chunk
from leash.ps.wire.messages import U32_MAX, Attached, Error, OptionsSet, Params, Welcome
from leash.ps.wire.sockets import (
    COPY_BELOW_NBYTES,
    connect,
    data_max_nbytes,
    data_queue,
    has_come,
    library,
    make_dealer,
    receive,
    send_first,
    why_plain,
)
from leash.worker.client.control.session import as_member
from leash.worker.client.memory import SlabMemory
from leash.worker.client.step import attach_writer

LOOK_MS: Final = 200  # a waiting worker looks so often whether it still takes part
RECONNECT_S: Final = 60.0  # who has not trained yet takes a port for closed after so long
# If answers have come sooner than this, a worker spins for the last one of a step, not sleeps.
SPIN_S: Final = 500e-6

# A worker that does nothing but wait for answers keeps no more than this many requests in flight:
# their payloads then stay in the processors' caches on their way through four threads. 64 MB over
# TCP took 36.3 ms with 16 in flight, 30.4 with 8, 28.0 with 4. A worker that computes meanwhile
# fills its window.
AT_ONCE: Final = 4
NOT_THE_SAME: Final = "the server sees other memory there than this process"


class DataLane(Protocol):
    """What carries the messages of a worker's step engine, and waits for their answers."""

    def close(self) -> None:
        """Closes all connections; a second call does nothing."""
        ...

    def advance(self) -> None:
        """Sends what the windows allow, and takes the answers that have come. Never waits.

        Raises:
            ProtocolError: the server refused a request, or its answer is not one to what was asked.
        """
        ...

    def finish(self) -> float:
        """Sends all requests and takes each answer as it comes.

        Returns:
            Seconds spent waiting for answers.

        Raises:
            LeashError: the server refused a request, or this worker takes part no more; what was
                in flight is forgotten.
        """
        ...

    def attach(self, memory: SlabMemory, worker: int, incarnation: int) -> str | None:
        """Asks every shard to map a worker's memory.

        Args:
            memory: the worker's slabs.
            worker: the rank.
            incarnation: of this process, from the answer to its hello.

        Returns:
            Why it is not possible; None if it is done.

        Raises:
            LeashError: what `finish` raises, but for a shard that cannot map the memory.
        """
        ...


class Line:
    """One DEALER socket to one shard.

    Attributes:
        shard: its number.
        address: tcp://HOST:PORT of its data socket.
        socket: carries the messages.
        monitor: says what happened to the connection.
        connected: whether it stands, as far as this thread has looked.
        lost_s: since when there has been none, as far as this thread has waited for it.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], shard: int, address: str, window: int,
        chunk_nbytes: int, key: ClientKey | None = None,
    ) -> None:  # fmt: skip
        """Begins to connect.

        Args:
            context: makes the sockets.
            shard: its number.
            address: tcp://HOST:PORT of its data socket.
            window: how many requests may be in flight.
            chunk_nbytes: the size of a chunk, from which the largest answer follows.
            key: for a server that has keys.
        """
        self.shard: Final = shard
        self.address: Final = address
        self.socket: Final = make_dealer(
            context, data_queue(window), data_max_nbytes(chunk_nbytes), key
        )
        self.monitor: Final = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self.connected: bool = False
        self.lost_s: float | None = None
        connect(self.socket, address)
        self.socket.setsockopt(zmq.RCVTIMEO, LOOK_MS)

    def close(self, linger_ms: int | None = None) -> None:
        """Closes the sockets; a second call does nothing.

        Args:
            linger_ms: how long what was sent may still leave; None for as long as ever.
        """
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger_ms)


def uses_rings() -> bool:
    """Whether drivers of this process can use the rings in shared memory."""
    return why_plain() is None


def _ignore(_: float) -> None:
    """Tells nobody."""


def _refuse() -> None:
    raise UsageError("closed: this worker's data connections are gone")


class DataDriver:
    """Sends what the engine gives and hands it what comes; one thread uses it.

    Attributes:
        lines: one for each shard, in the order of the shards.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], host: str, welcome: Welcome,
        engine: StepEngine, chunks: Sequence[Chunk], check: Callable[[], None],
        patience_s: Callable[[], float] = lambda: RECONNECT_S,
        on_silence: Callable[[float], None] = lambda _: None, outages: Callable[[], int] = int,
        key: ClientKey | None = None, memory: SlabMemory | None = None,
    ) -> None:  # fmt: skip
        """Begins to connect to every shard; requests wait until their connection stands.

        Args:
            context: makes the sockets.
            host: of the server; an IPv6 address in brackets.
            welcome: names the ports and the limits of the connections.
            engine: says what to send.
            chunks: the layout's.
            check: raises when this worker takes part no more; called while waiting.
            patience_s: says how long a connection may be gone before it is lost, now.
            on_silence: called now and then with the seconds for which a connection has been gone,
                and with 0 when it stands again.
            outages: how often the server has answered again after a silence.
            key: for a server that has keys.
            memory: that the shards may have been asked to map; None if they have not.
        """
        assert len(welcome.data_ports) == engine.shards
        self._engine: Final = engine
        self._chunks: Final = chunks
        self._check = check
        self._patience_s = patience_s
        self._on_silence = on_silence
        self._outages = outages
        self._seen_outages = outages()

        def new_line(shard: int) -> Line:
            address = f"tcp://{host}:{welcome.data_ports[shard]}"
            return Line(context, shard, address, welcome.window, welcome.chunk_nbytes, key)

        self._new_line: Final[Callable[[int], Line]] = new_line
        self._nonces: list[str] = []  # that the shards have read in this worker's memory
        self._waited_s = 0.0  # how long the newest answer took to come
        self.lines: Final = [self._new_line(shard) for shard in range(engine.shards)]
        self._poller: Final = zmq.Poller()
        for line in self.lines:
            self._poller.register(line.socket, zmq.POLLIN)
        self._memory = memory
        self._lane: StepLane | None = None  # without it, pyzmq does what it would
        if uses_rings():
            handles = [line.socket.underlying for line in self.lines]
            self._lane = StepLane(
                library(), engine, handles, look_ms=LOOK_MS, spin_s=SPIN_S,
                copy_below_nbytes=COPY_BELOW_NBYTES,
            )  # fmt: skip

    def close(self) -> None:
        """Closes all connections; a second call does nothing.

        Lets go of the client, which owns this driver: in a circle, its memory would stay until the
        interpreter looks for circles.
        """
        self._check = _refuse
        self._on_silence, self._outages, self._patience_s = _ignore, int, float
        self._lane = None  # before the sockets that it uses
        for line in self.lines:
            line.close()

    def advance(self) -> None:
        """Sends what the windows allow, and takes the answers that have come. Never waits.

        Raises:
            ProtocolError: the server refused a request, or its answer is not one to what was asked.
        """
        if self._lane is not None:
            while (stop := self._lane.advance()) is not None:
                self._on_stop(stop)
            return
        for line in self.lines:
            self.send(line)
            while has_come(line.socket) and self.take(line):
                self.send(line)

    def finish(self) -> float:
        """Sends all requests and takes each answer as it comes.

        Returns:
            Seconds spent waiting for answers.

        Raises:
            ProtocolError: the server refused a request; what was in flight is forgotten.
            ServerUnreachableError: a connection is gone and does not come back.
            LeashError: whatever else `check` raises.
        """
        try:
            return self._finish() if self._lane is None else self._finish_by(self._lane)
        except RestartedError:
            raise  # the open step may go again to another server
        except BaseException:
            self._engine.forget()
            raise

    def attach(self, memory: SlabMemory, worker: int, incarnation: int) -> str | None:
        """Asks every shard to map a worker's memory.

        A shard answers with the nonce that it has read there. That proves that it sees the same
        memory; names of hosts and addresses would prove nothing.

        Args:
            memory: the worker's slabs.
            worker: the rank.
            incarnation: of this process, from the answer to its hello.

        Returns:
            Why it is not possible; None if it is done.

        Raises:
            LeashError: what `finish` raises, but for a shard that cannot map the memory.
        """
        if memory.fd is None:
            return memory.why_private
        self._nonces.clear()
        self._memory = memory
        # It must not know this driver, which the engine would then keep for as long as itself.
        self._engine.attach(
            attach_writer(memory, worker, incarnation, has_rings=self._lane is not None)
        )
        try:
            self.finish()
        except SegmentError as error:
            return str(error)
        if any(nonce != memory.nonce for nonce in self._nonces):
            return NOT_THE_SAME
        self._engine.keep_attached()
        return None

    def _finish(self) -> float:
        wait_s = 0.0
        while busy := self._busy():
            for line in busy:
                self.send(line, AT_ONCE)
            began_s = time.perf_counter()
            came = self._take_next(busy)
            self._waited_s = time.perf_counter() - began_s
            wait_s += self._waited_s
            if not came:
                self._look_around(busy)
        return wait_s

    def _finish_by(self, lane: StepLane) -> float:
        lane.take_waited()  # of a call that was broken off
        while (stop := lane.finish(AT_ONCE)) is not None:
            if stop.is_quiet:
                self._look_around(self._busy())
            else:
                self._on_stop(stop)
        return lane.take_waited()

    def _busy(self) -> list[Line]:
        """The lines over which something is still to be sent or answered."""
        return [line for line in self.lines if not self._engine.is_idle(line.shard)]

    def send(self, line: Line, most: int = U32_MAX) -> None:
        """Sends what goes to a shard now.

        Args:
            line: to the shard.
            most: how many requests may be in flight, if that is less than the window.
        """
        while (outgoing := self._engine.next(line.shard, most)) is not None:
            header, payload = outgoing
            if not send_first(line.socket, header, 0 if payload is None else zmq.SNDMORE):
                self._engine.not_sent(line.shard)
                return  # it goes when there is room again, or a new connection
            if payload is not None:
                copies = len(payload) < COPY_BELOW_NBYTES
                line.socket.send(payload, zmq.DONTWAIT, copy=copies)

    def take(self, line: Line, flags: int = zmq.DONTWAIT) -> bool:
        """Takes one answer of a shard, if one has come or, with flags 0, comes soon.

        Args:
            line: to the shard.
            flags: zmq.DONTWAIT, or 0 to wait for up to `LOOK_MS`.

        Returns:
            Whether one came.

        Raises:
            ProtocolError: the server refused a request, or its answer is not one to what was asked.
        """
        frames = receive(line.socket, flags)
        if not frames:
            return False
        notice = self._engine.receive(line.shard, frames)
        if notice is not None:
            header, *payloads = frames
            sizes = [len(payload) for payload in payloads]
            self._on_notice(line, notice, header.bytes, sizes)
        return True

    def look_after(self, line: Line, wait_ms: int = 0) -> None:
        """Looks after a connection, when no answer has come for a while.

        Args:
            line: to a shard.
            wait_ms: how long to wait for the connection, where there is none.

        Raises:
            ServerUnreachableError: there has been no connection for as long as this worker waits.
        """
        self._attend(line, wait_ms)
        if line.connected:
            return
        now = time.monotonic()
        line.lost_s = line.lost_s or now
        self._on_silence(now - line.lost_s)
        if now - line.lost_s > (limit_s := self._patience_s()):
            raise ServerUnreachableError(
                f"no server answers at {line.address}: no connection for {limit_s:.0f} s; "
                "is the port open?"
            )

    def _attend(self, line: Line, wait_ms: int = 0) -> None:
        """Reads what happened to a connection since the last call, and resumes on a new one."""
        is_new = False
        while line.monitor.poll(0 if line.connected else wait_ms):
            event = recv_monitor_message(line.monitor)["event"]
            line.connected = is_new = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if is_new:
            if line.lost_s is not None:
                self._on_silence(0.0)
            line.lost_s = None
            self._engine.connected(line.shard)
            self.send(line, most=0)  # what goes again, and nothing new
        elif not line.connected:
            self._engine.lost(line.shard)

    def _renew(self, line: Line) -> None:
        """Takes another connection in the place of one on which an outage may have left its mark.

        TCP tries again after 1, 2, 4, ... seconds, and so only long after the end of an outage.
        """
        self._poller.unregister(line.socket)
        line.close(linger_ms=0)
        self._engine.lost(line.shard)
        self.lines[line.shard] = again = self._new_line(line.shard)
        if self._lane is not None:
            self._lane.replace(line.shard, again.socket.underlying)
        self._poller.register(again.socket, zmq.POLLIN)

    def _on_stop(self, stop: StepStop) -> None:
        """Does what the engine cannot do with an answer that the lane has taken."""
        sizes = [stop.payload_nbytes] * stop.payloads
        self._on_notice(self.lines[stop.shard], stop.notice, stop.header, sizes)

    def _on_notice(
        self, line: Line, notice: StepNotice, header: bytes, payloads: Sequence[int]
    ) -> None:
        """Does what the engine cannot do with an answer.

        Args:
            line: over which it came.
            notice: what the engine says of it.
            header: of the answer.
            payloads: the sizes of the frames behind that, of which the first counts.
        """
        if notice.kind == "look":
            self._attend(line)
        elif notice.kind == "refused":
            raise as_member(error_from(Error(notice.code, notice.text, 0, 0, 0, notice.clock)))
        else:
            self._on_other(line, header, payloads)

    def _on_other(self, line: Line, header: bytes, payloads: Sequence[int]) -> None:
        """Reads an answer that comes rarely, or says what is wrong with it."""
        message = decode(header, REPLIES)
        check_payload_count(message, len(payloads))
        if isinstance(message, Attached):
            if self._engine.attached(line.shard, message.number):
                self._nonces.append(message.nonce)
            if message.rings and not self._engine.is_attaching(line.shard):
                self._use_ring(line.shard)
            return
        if isinstance(message, OptionsSet):
            self._engine.options_set(line.shard, message.number)
            return
        if isinstance(message, Params) and payloads and message.chunk < len(self._chunks):
            chunk = self._chunks[message.chunk]
            check_size(chunk, codec_for(message.codec, chunk), payloads[0])
        raise ProtocolError(f"{line.address}: unexpected {message.verb}")

    def _use_ring(self, shard: int) -> None:
        memory = self._memory
        if self._lane is None or memory is None:
            raise ProtocolError(f"shard {shard}: a ring was not asked for")
        self._lane.use_ring(shard, place=memory.map.rings, pipe=memory.pipe(shard)[1])

    def _take_next(self, busy: list[Line]) -> bool:
        """Takes the next answers; False if none came for a while."""
        if len(busy) > 1:
            if not all(line.connected for line in busy):
                return False
            ready = dict(self._poller.poll(LOOK_MS))
            return any(self.take(line) for line in busy if line.socket in ready)
        line = busy[0]
        if not line.connected:
            return False
        if self._waited_s < SPIN_S and self._engine.awaits_last(line.shard):
            self._spin(line.socket)
        # To wait on this one socket costs less than to poll it together with others.
        return self.take(line, flags=0)

    @staticmethod
    def _spin(socket: zmq.Socket[bytes]) -> None:
        """Looks for an answer for a moment without going to sleep.

        A small exchange passes through four threads, and waking a processor that has gone idle
        costs as much as the work itself: 87 KB took 276 µs with sleeping and 183 µs without, on a
        virtual machine.
        """
        end_s = time.perf_counter() + SPIN_S
        while time.perf_counter() < end_s:
            if has_come(socket):
                return

    def _look_around(self, busy: list[Line]) -> None:
        self._check()
        if (outages := self._outages()) != self._seen_outages:
            self._seen_outages = outages
            for line in busy:
                self._renew(line)
            return
        lost = [line for line in busy if not line.connected]
        for line in busy:
            self.look_after(line, LOOK_MS // max(1, len(lost)))
