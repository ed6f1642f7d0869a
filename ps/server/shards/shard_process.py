"""Starts the process of a further shard, and carries messages to and from it."""

import signal
import socket
import subprocess
from contextlib import suppress
from typing import Final

from leash.ps.processes import spawn_module
from leash.ps.server.shards import remote_shards
from leash.ps.wire.frames import TO_COORDINATOR
from leash.ps.wire.messages import Message
from leash.ps.wire.shard_link import Link, ReceivedPayload, SentPayload

REAP_S: Final = 1.0  # a process may take so long to end after its link


class ShardProcess:
    """A process of leash.ps.shard.process. Implements `remote_shards.ShardLink`."""

    def __init__(self) -> None:
        """Starts the process."""
        near, far = socket.socketpair()
        self._link: Final = Link(near, TO_COORDINATOR, remote_shards.ANSWER_S)
        with far:
            self._process: Final = spawn_module("leash.ps.shard.process", far.fileno())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def fd(self) -> int:
        """The file descriptor that is readable when there is something to take."""
        return self._link.fd

    def send(self, message: Message, payload: SentPayload = None) -> None:
        self._link.send(message, payload)

    def receive(self, wait_s: float) -> tuple[Message, ReceivedPayload] | None:
        return self._link.receive() if self._link.has_come(wait_s) else None

    def ending(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(REAP_S)
        status = self._process.returncode
        if status is None:
            return "it does not read or write"
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"it ended with status {status}"

    def kill(self) -> None:
        self._process.kill()  # has no effect on a process that has ended

    def let_go(self) -> None:
        self._link.close()

    def reap(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(REAP_S)
        self._process.kill()
        self._process.wait()
