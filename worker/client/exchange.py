"""The data connections of a worker to all shards at once."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from leash.ps.wire.sockets import has_come
from leash.worker.client.channel import LOOK_MS, DataChannel, OnReply

# If answers have come sooner than this, a worker spins for the last one of a step, not sleeps.
SPIN_S: Final = 500e-6


# A worker that does nothing but wait for answers keeps no more than this many requests in flight:
# their payloads then stay in the processors' caches on their way through four threads. 64 MB over
# TCP took 36.3 ms with 16 in flight, 30.4 with 8, 28.0 with 4. A worker that computes meanwhile
# fills its window.
AT_ONCE: Final = 4


class Exchange:
    """Sends requests and takes answers over one channel for each shard; one thread uses it.

    Attributes:
        channels: one for each shard, in the order of the shards.
    """

    def __init__(self, channels: Sequence[DataChannel], check: Callable[[], None]) -> None:
        """Polls the channels together.

        Args:
            channels: one for each shard, in the order of the shards.
            check: raises when this worker takes part no more; called while waiting.
        """
        self.channels: Final = tuple(channels)
        self._check: Final = check
        self._waited_s = 0.0  # how long the newest answer took to come
        self._poller: Final = zmq.Poller()
        for channel in self.channels:
            self._poller.register(channel.socket, zmq.POLLIN)

    def close(self) -> None:
        """Closes all channels; a second call does nothing."""
        for channel in self.channels:
            channel.close()

    def advance(self, on_reply: OnReply) -> None:
        """Sends what the windows allow, and takes the answers that have come. Never waits.

        Args:
            on_reply: gets each answer and its payload, which is valid during the call.

        Raises:
            ProtocolError: the server refused a request.
        """
        for channel in self.channels:
            channel.send()
            while has_come(channel.socket) and channel.take(on_reply):
                channel.send()

    def finish(self, on_reply: OnReply) -> float:
        """Sends all requests and hands over each answer as it comes.

        Args:
            on_reply: gets the answer and its payload, which is valid during the call.

        Returns:
            Seconds spent waiting for answers.

        Raises:
            ProtocolError: the server refused a request; what was in flight is forgotten.
            ServerUnreachableError: a connection is gone and does not come back.
            LeashError: whatever else `check` raises.
        """
        wait_s = 0.0
        try:
            while busy := [channel for channel in self.channels if not channel.idle]:
                for channel in busy:
                    channel.send(AT_ONCE)
                began_s = time.perf_counter()
                came = self._take_next(busy, on_reply)
                self._waited_s = time.perf_counter() - began_s
                wait_s += self._waited_s
                if not came:
                    self._look_around(busy)
        except BaseException:
            self.forget()
            raise
        return wait_s

    def forget(self) -> None:
        """Drops what is queued and in flight on all channels."""
        for channel in self.channels:
            channel.forget()

    def _take_next(self, busy: list[DataChannel], on_reply: OnReply) -> bool:
        """Takes the next answers; False if none came for a while."""
        if not all(channel.connected for channel in busy):
            return False
        if self._waited_s < SPIN_S and len(busy) == 1 and busy[0].awaits_last:
            self._spin(busy[0].socket)
        if len(busy) == 1:
            # To wait on this one socket costs less than to poll it together with others.
            return busy[0].take(on_reply, flags=0)
        ready = dict(self._poller.poll(LOOK_MS))
        return any(channel.take(on_reply) for channel in busy if channel.socket in ready)

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

    def _look_around(self, busy: list[DataChannel]) -> None:
        self._check()
        lost = [channel for channel in busy if not channel.connected]
        for channel in busy:
            channel.look_around(LOOK_MS // max(1, len(lost)))
