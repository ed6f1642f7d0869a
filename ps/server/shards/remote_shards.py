"""The coordinator's side of the other shards: what it asks them, and whether they are lost."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

import numpy as np

from leash.ps.errors import ERROR_BY_CODE, LeashError, ProtocolError, ShardLostError, UsageError
from leash.ps.options.server import ServerOptions
from leash.ps.runs.snapshot import ChunkMoment
from leash.ps.shard.linked_shard import settings_of, unpacked_moments
from leash.ps.wire.messages import Message
from leash.ps.wire.shard_link import LinkClosedError, ReceivedPayload, SentPayload
from leash.ps.wire.shard_messages import (
    PARAMETERS,
    UPDATES,
    USAGE,
    Begin,
    Done,
    Failed,
    ForgetSnapshot,
    Load,
    ReadSnapshot,
    SetVersion,
    SnapshotPart,
)

START_S: Final = 30.0  # a process may take so long to listen
ANSWER_S: Final = 5.0  # a shard that is silent for longer is lost

Buffer: TypeAlias = Any  # anything with the buffer protocol
Notice: TypeAlias = tuple["RemoteShard", Message, ReceivedPayload]  # what a shard sends unasked
OnNotice: TypeAlias = Callable[[Notice], None]


class ShardLink(Protocol):
    """The process of one shard, and the stream of messages between it and this one."""

    @property
    def pid(self) -> int:
        """The process id."""
        ...

    def send(self, message: Message, payload: SentPayload = None) -> None:
        """Sends a message. Raises LinkClosedError if the process has ended, or does not read."""
        ...

    def receive(self, wait_s: float) -> tuple[Message, ReceivedPayload] | None:
        """Takes the next message; None if none has come when so many seconds are over.

        Raises LinkClosedError if the process has ended, or does not go on with a message.
        """
        ...

    def ending(self) -> str:
        """How the process has ended, after a moment in which it may do so."""
        ...

    def kill(self) -> None:
        """Ends the process at once, if it has not ended."""
        ...

    def let_go(self) -> None:
        """Ends the stream, so that the process ends by itself."""
        ...

    def reap(self) -> None:
        """Waits a moment for the end of a process that was let go; then kills it."""
        ...


class RemoteShard:
    """Asks one shard, and hands on what that shard sends unasked. For one thread."""

    def __init__(
        self, index: int, link: ShardLink, on_notice: OnNotice,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Begins with a process that was just started; `begin` and `await_port` are the next calls.

        Args:
            index: the shard's number, from 1.
            link: to its process.
            on_notice: gets what the shard sends unasked; must not ask it anything.
            now: seconds on a clock that never goes back.
        """
        self.index: Final = index
        self.lost: str = ""  # once it is lost: a sentence with its name and how it was lost
        self.how: str = ""  # the same, without its name
        self._link: Final = link
        self._on_notice: Final = on_notice
        self._now: Final = now
        self._heard_s = now()
        # Of the snapshot: chunk, array and first byte that were asked for, and what has come.
        self._asked: tuple[int, int, int] | None = None
        self._part: tuple[SnapshotPart, ReceivedPayload] | None = None

    @property
    def pid(self) -> int:
        return self._link.pid

    def begin(self, options: ServerOptions, port: int) -> None:
        """Sends the settings; the shard then listens at this port, 0 being any free one."""
        self.tell(Begin(self.index, port), settings_of(options))

    def await_port(self) -> int:
        """Waits for the port of its data socket. Raises UsageError, ShardLostError."""
        return self.await_answer(START_S)[0]

    # Asking. All of these raise ShardLostError.

    def ask(self, message: Message, payload: SentPayload = None) -> tuple[int, ReceivedPayload]:
        """The answer's value and payload. Raises what the shard failed with."""
        self.tell(message, payload)
        return self.await_answer()

    def tell(self, message: Message, payload: SentPayload = None) -> None:
        """Sends a message; `await_answer` takes the answer, if it has one."""
        if self.lost:
            raise ShardLostError(self.lost)
        try:
            self._link.send(message, payload)
        except LinkClosedError as error:
            raise self._loss() from error

    def await_answer(self, wait_s: float | None = None) -> tuple[int, ReceivedPayload]:
        """Takes the answer to the oldest message without one; waits for ANSWER_S by default."""
        wait_s = ANSWER_S if wait_s is None else wait_s
        deadline_s = self._now() + wait_s
        while not self.lost:
            left_s = deadline_s - self._now()
            if left_s <= 0:
                raise self._loss(f"no answer for {wait_s:.0f} s")
            received = self._receive(left_s)
            if received is None:
                continue
            message, payload = received
            if isinstance(message, Done):
                return message.value, payload
            if isinstance(message, Failed):
                raise _error_from(message)
            self._hand_on(message, payload)
        raise ShardLostError(self.lost)

    def take_notices(self) -> None:
        """Hands on what has come; afterwards `lost` says whether the shard is still there."""
        with suppress(ShardLostError):
            while not self.lost and (received := self._receive(0.0)) is not None:
                assert not isinstance(received[0], (Done, Failed)), "nobody asked"
                self._hand_on(*received)
            if not self.lost and self._now() - self._heard_s > ANSWER_S:
                raise self._loss(f"silent for {ANSWER_S:.0f} s")

    def excuse(self, seconds: float) -> None:
        """Forgives seconds of silence in which nobody listened."""
        self._heard_s = min(self._heard_s + seconds, self._now())

    def let_go(self) -> None:
        """Ends the link, so that the process ends by itself."""
        self._link.let_go()

    def reap(self) -> None:
        """Waits a moment for the end of a process that was let go; then kills it."""
        self._link.reap()

    # The methods of leash.ps.runs.checkpoint.ChunkStore: a run goes on from a checkpoint.

    def init(self, chunk: int, values: Buffer) -> bool:
        return bool(self.ask(Load(chunk, PARAMETERS), values)[0])

    def set_version(self, chunk: int, version: int) -> None:
        self.ask(SetVersion(chunk, version))

    def load_state(self, chunk: int, name: str, values: Buffer) -> None:
        self.ask(Load(chunk, name), values)

    def set_updates(self, chunk: int, updates: list[int]) -> None:
        self.ask(Load(chunk, UPDATES), np.array(updates, "<u8").tobytes())

    # The snapshot of the shard's chunks. See leash.ps.runs.snapshot.

    def take_moments(self) -> list[ChunkMoment]:
        """Takes the answer to `OpenSnapshot`, which the shard was told."""
        self._part = self._asked = None
        return unpacked_moments(self.await_answer()[1] or b"")

    def read_snapshot(self, chunk: int, array: int, begin: int, out: memoryview) -> bool:
        """Asks for bytes of a chunk, and copies them once they have come."""
        asked = chunk, array, begin
        if self._asked != asked:
            self._part, self._asked = None, asked
            self.tell(ReadSnapshot(*asked, len(out)))
            self.take_notices()
        if self.lost:
            raise ShardLostError(self.lost)
        if self._part is None:
            return False
        (message, payload), self._part, self._asked = self._part, None, None
        if message.failure:
            raise MemoryError(message.failure)
        out[:] = payload or b""
        return True

    def forget_snapshot(self, chunk: int | None = None) -> None:
        """Has the shard let go of a chunk that was read, or of all."""
        with suppress(ShardLostError):
            self.tell(ForgetSnapshot(chunk or 0, chunk is None))

    # How it is done.

    def _hand_on(self, message: Message, payload: ReceivedPayload) -> None:
        if not isinstance(message, SnapshotPart):
            self._on_notice((self, message, payload))
        elif (message.chunk, message.array, message.begin) == self._asked:
            self._part = message, payload

    def _receive(self, wait_s: float) -> tuple[Message, ReceivedPayload] | None:
        try:
            received = self._link.receive(wait_s)
        except LinkClosedError as error:
            raise self._loss() from error
        if received is not None:
            self._heard_s = self._now()
        return received

    def _loss(self, how: str = "") -> ShardLostError:
        """Notes that the shard is lost, and how; kills the process if it has not ended."""
        self.how = how or self._link.ending()
        self._link.kill()
        self.lost = f"shard {self.index} (process {self.pid}) was lost: {self.how}"
        return ShardLostError(self.lost)


class RemoteShards:
    """All shards but the coordinator's own: they are started and asked together."""

    def __init__(
        self,
        options: ServerOptions,
        first_port: int,
        start: Callable[[int, OnNotice], RemoteShard],
    ) -> None:
        """Starts the processes, and waits until they listen.

        Args:
            options: of the server.
            first_port: the port of shard 1; the others take the next ones. 0 takes free ports.
            start: starts the process of the shard of this number, whose notices go to the second
                argument.

        Raises:
            UsageError: a port is taken. ShardLostError: a process did not come up.
        """
        self.notices: Final[deque[Notice]] = deque()  # what shards sent unasked, until it is taken
        self.all: list[RemoteShard] = []
        try:
            for index in range(1, options.shards):
                shard = start(index, self.notices.append)
                self.all.append(shard)
                shard.begin(options, first_port + index - 1 if first_port else 0)
            self.ports: Final = [shard.await_port() for shard in self.all]
        except BaseException:
            self.close()
            raise

    def ask(self, message: Message, payload: SentPayload = None) -> list[int]:
        """Asks all shards the same; they work on it at the same time. Gives their answers.

        Raises what the first of them failed with, once all have answered.
        """
        if self.lost:
            raise ShardLostError(self.lost.lost)
        self.tell(message, payload)
        outcomes = [_outcome_of(shard) for shard in self.all]
        for outcome in outcomes:
            if isinstance(outcome, LeashError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, int)]

    def tell(self, message: Message, payload: SentPayload = None) -> None:
        """Sends a message to all shards that are still there; `lost` says whether one is not."""
        for shard in self.all:
            with suppress(ShardLostError):
                shard.tell(message, payload)

    def take_notices(self) -> Iterator[Notice]:
        """Yields what shards have sent unasked since the last call."""
        for shard in self.all:
            shard.take_notices()
        while self.notices:
            yield self.notices.popleft()

    @property
    def lost(self) -> RemoteShard | None:
        """The first shard that is lost; None if all are there."""
        return next((shard for shard in self.all if shard.lost), None)

    def close(self) -> None:
        """Lets all processes go, and waits for their end."""
        for shard in self.all:
            shard.let_go()
        for shard in self.all:
            shard.reap()


def _outcome_of(shard: RemoteShard) -> int | LeashError:
    """Takes the answer of one shard, or the error that it failed with."""
    try:
        return shard.await_answer()[0]
    except LeashError as error:
        return error


def _error_from(message: Failed) -> ProtocolError | UsageError:
    if message.code == USAGE:
        return UsageError(message.text)
    return ERROR_BY_CODE.get(message.code, ProtocolError)(message.text)
