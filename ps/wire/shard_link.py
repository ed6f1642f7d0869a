"""The stream between the coordinator and one of its shards: a socket pair that nobody else has.

::

    prefix   nbytes of header u32, of payload u64; little-endian
    header   as on any socket: see leash.ps.wire.frames
    payload  only where the message has one

A shard inherits its end when it is started. So no stranger can speak here, and when either process
ends, even by `kill -9`, the other one reads the end of the stream at once.
"""

import select
import socket
import struct
from collections.abc import Mapping
from typing import Final, TypeAlias

from leash.ps.errors import LeashError
from leash.ps.wire.frames import check_payload_count, decode, encode
from leash.ps.wire.messages import Message

PREFIX: Final = struct.Struct("<IQ")

SentPayload: TypeAlias = bytes | bytearray | memoryview | None
ReceivedPayload: TypeAlias = bytearray | None


class LinkClosedError(LeashError):
    """The process at the other end has ended, or did not read or write in time."""


class Link:
    """One end of the stream. For one thread."""

    def __init__(
        self, end: socket.socket, expected: Mapping[str, type[Message]], timeout_s: float | None
    ) -> None:
        """Takes over one end of a pair of sockets.

        Args:
            end: the socket, which belongs to this link from now on.
            expected: the messages that may come, by verb.
            timeout_s: how many seconds the other end may take to read or write a message that it
                has begun; None for any number.
        """
        self._end: Final = end
        self._expected: Final = expected
        self._poll: Final = select.poll()
        self._poll.register(end, select.POLLIN)
        end.settimeout(timeout_s)

    @property
    def fd(self) -> int:
        """The file descriptor to poll."""
        return self._end.fileno()

    def send(self, message: Message, payload: SentPayload = None) -> None:
        """Sends a message; waits while the other end has much to read. Raises LinkClosedError."""
        header = encode(message)
        nbytes = memoryview(payload).nbytes if payload is not None else 0
        try:
            self._end.sendall(PREFIX.pack(len(header), nbytes) + header)
            if payload is not None:
                self._end.sendall(payload)
        except OSError as error:
            raise LinkClosedError(str(error)) from error

    def has_come(self, timeout_s: float = 0.0) -> bool:
        """Whether a message has come, or the end of the stream."""
        return bool(self._poll.poll(max(0.0, timeout_s) * 1000))

    def receive(self) -> tuple[Message, ReceivedPayload]:
        """Takes the next message and its payload; LinkClosedError at the end of the stream."""
        header_nbytes, payload_nbytes = PREFIX.unpack(self._read(PREFIX.size))
        message = decode(bytes(self._read(header_nbytes)), self._expected)
        payload = self._read(payload_nbytes) if payload_nbytes else None
        check_payload_count(message, int(payload is not None))
        return message, payload

    def close(self) -> None:
        """Closes this end. A second call does nothing."""
        self._end.close()

    def _read(self, nbytes: int) -> bytearray:
        data = bytearray(nbytes)
        view, got = memoryview(data), 0
        while got < nbytes:
            try:
                count = self._end.recv_into(view[got:])
            except OSError as error:
                raise LinkClosedError(str(error)) from error
            if count == 0:
                raise LinkClosedError("the other process has ended")
            got += count
        return data
