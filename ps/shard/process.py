"""Runs a shard beside the coordinator: a process with chunks, a data socket and clocks of its own.

leash.ps.server.shards starts it. It carries messages between two places and a LinkedShard,
which decides: its link, over which the coordinator tells it the settings, the model and who takes
part, and its data socket, which serves workers as that of shard 0 does. It evicts nobody, and ends
when its link ends.
"""

import signal
import socket
import sys
from types import FrameType
from typing import Final

import zmq

from leash._log import show_errors
from leash.ps import interrupt
from leash.ps._core import keep_freed_memory
from leash.ps.errors import LeashError, UsageError
from leash.ps.options.addresses import address_of, split_address
from leash.ps.options.server import ServerOptions
from leash.ps.shard.linked_shard import COUNTS_S, LinkedShard, unpacked_settings
from leash.ps.shard.model import require_threads
from leash.ps.shard.router import DataRouter
from leash.ps.wire.curve import Doorman
from leash.ps.wire.frames import TO_SHARD
from leash.ps.wire.keys import Keyring
from leash.ps.wire.shard_link import Link, LinkClosedError
from leash.ps.wire.shard_messages import USAGE, Begin, Done, Failed

LAST_ANSWERS_MS: Final = 200  # at the end, the last answers have so long to leave


class ShardServer:
    """Serves one shard. It listens when made; `run` serves until the coordinator is gone."""

    def __init__(self, link: Link, begin: Begin, options: ServerOptions) -> None:
        """Raises UsageError: its port is taken, its threads cannot start, its keys are wrong."""
        require_threads(options.threads)
        host, _ = split_address(address_of(options.bind, options.ps_ip, options.ps_port))
        self._link: Final = link
        keyring = Keyring(options.keys) if options.keys is not None else None
        self._context: Final[zmq.Context[zmq.Socket[bytes]]] = zmq.Context()
        self._doorman: Final = Doorman(self._context, keyring) if keyring else None
        self._router: Final = DataRouter(self._context, options, host, begin.port, self._doorman)
        self.shard: Final = LinkedShard(begin.shard, options, self._router.send, keyring=keyring)

    @property
    def port(self) -> int:
        """The port of the data socket."""
        return self._router.port

    def run(self) -> None:
        """Serves until the link ends."""
        shard, poller = self.shard, self._router.poller
        self._router.serve(shard.data)
        poller.register(self._link.fd, zmq.POLLIN)
        poller.register(self._router.socket, zmq.POLLIN)
        intake = self._router.intake
        if intake.fd is not None:
            poller.register(intake.fd, zmq.POLLIN)
        if self._doorman:
            poller.register(self._doorman.socket, zmq.POLLIN)
        try:
            while True:
                ready = {}
                if shard.is_held:
                    self._link.has_come(COUNTS_S)
                else:
                    ready = dict(poller.poll(int(COUNTS_S * 1000)))
                if intake.fd in ready:
                    intake.attend()
                try:
                    self._serve(has_data=self._router.socket in ready)
                except LinkClosedError:
                    raise
                except Exception as error:
                    shard.metrics.fail("what has come could not be handled", error)
        except LinkClosedError:
            return  # the coordinator has ended, in whatever way
        finally:
            intake.close()
            if self._doorman:
                self._doorman.close()
            self._context.destroy(linger=LAST_ANSWERS_MS)

    def on_signal(self, number: int, _: FrameType | None) -> None:
        """Notes a signal, for the loop."""
        self.shard.on_signal(number)

    def _serve(self, *, has_data: bool) -> None:
        shard = self.shard
        # The link first: it may say that workers must wait.
        while self._link.has_come():
            self._on_link()
        if has_data and not shard.is_held:
            self._router.take(shard.data.receive, until=lambda: shard.data.is_held)
        if self._doorman:
            self._doorman.attend()
        shard.metrics.count_closed(*self._router.intake.take_closed())
        shard.metrics.count_strangers(self._router.intake.take_refused())
        shard.advance(self._router.take_unreading())
        self._send_notices()

    def _on_link(self) -> None:
        answer = self.shard.answer(*self._link.receive())
        self._send_notices()
        if answer is not None:
            self._link.send(*answer)

    def _send_notices(self) -> None:
        for notice in self.shard.take_notices():
            self._link.send(*notice)


def begin(link: Link) -> ShardServer:
    """Waits for the settings, and listens; sends a UsageError to the coordinator and raises it."""
    message, payload = link.receive()
    assert isinstance(message, Begin)
    try:
        server = ShardServer(link, message, unpacked_settings(payload))
    except UsageError as error:
        link.send(Failed(USAGE, str(error)[:512]))
        raise
    link.send(Done(server.port))
    return server


def serve_shard(fd: int) -> int:
    """Serves one shard over the link that was inherited as `fd`; returns the exit status."""
    show_errors("leash.ps.shard")
    keep_freed_memory()  # if malloc refuses, the coordinator has warned already
    # Until the loop runs, only the end of the link ends this process.
    interrupt.ignore_signals()
    link = Link(socket.socket(fileno=fd), TO_SHARD, None)
    try:
        server = begin(link)
        for number in interrupt.SIGNALS:
            signal.signal(number, server.on_signal)
        server.run()
    except LinkClosedError:
        return 0
    except LeashError:
        return 2
    finally:
        link.close()
    return 0


if __name__ == "__main__":
    sys.exit(serve_shard(int(sys.argv[1])))
