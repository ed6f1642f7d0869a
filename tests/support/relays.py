"""A TCP relay between a client and a server, which breaks connections when a test says so."""

import queue
import socket
import struct
import threading
from contextlib import suppress

from leash.ps.wire.control import ControlChannel, request_state

# A socket that is closed with this option sends a reset, and drops what it has not delivered.
RESETS = struct.pack("ii", 1, 0)


class Relay:
    """Listens on a port of its own, and carries bytes to and from another port of this host.

    Attributes:
        port: where it listens.
        met: the verbs of the messages that were lost, as `reset_with` asked for.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", at: int = 0) -> None:
        """Args:
        port: of 127.0.0.1, to which it carries.
        host: where it listens; any 127.X.Y.Z will do.
        at: the port there; 0 for any.
        """
        self.target = port
        self.listener = socket.create_server((host, at))
        self.port: int = self.listener.getsockname()[1]
        self.met: queue.Queue[str] = queue.Queue()
        self._awaited: list[str] = []
        self._flows = threading.Event()  # clear during an outage
        self._flows.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def reset_with(self, verb: str) -> None:
        """Breaks the connection on which the next message of this verb travels, and loses it."""
        with self._lock:
            self._awaited.append(verb)

    def hold(self) -> None:
        """Begins an outage: nothing gets through, and no connection breaks."""
        self._flows.clear()

    def heal(self, *, breaks: bool = False) -> None:
        """Ends it.

        Args:
            breaks: the connections of before are lost, with everything that was held up.
        """
        if breaks:
            self.cut()
        self._flows.set()

    def cut(self) -> None:
        """Breaks every connection that stands now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _reset(pair)

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._flows.set()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the end
            while True:
                near, _ = self.listener.accept()
                self._flows.wait()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # the server has ended
                    near.close()
                    continue
                with self._lock:
                    self._pairs.append((near, far))
                for ends in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._carry, args=ends, daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(8192):
                self._flows.wait()
                if verb := self._take(data):
                    _reset((source, sink))
                    self.met.put(verb)
                    return
                sink.sendall(data)
        self._flows.wait()
        with suppress(OSError):  # the other side hears that this one has gone
            sink.shutdown(socket.SHUT_RDWR)

    def _take(self, data: bytes) -> str | None:
        """The first awaited verb that is in these bytes, which is awaited no more."""
        with self._lock:
            for verb in self._awaited:
                if _word(verb) in data:
                    self._awaited.remove(verb)
                    return verb
        return None


class Cut:
    """The way of one worker to a server of one shard, which an outage cuts off.

    Attributes:
        address: by which the worker reaches the server.
    """

    def __init__(self, address: str, rank: int) -> None:
        """Args:
        address: of the server.
        rank: of the worker; each has a way of its own.
        """
        with ControlChannel(address) as channel:
            (data_port,) = request_state(channel)["data_ports"]
        port = int(address.rpartition(":")[2])
        host = f"127.0.0.{10 + rank}"  # so that the data port is the relay's too
        self._relays = [Relay(each, host, each) for each in (port, data_port)]
        self.address = f"tcp://{host}:{port}"

    def hold(self) -> None:
        for relay in self._relays:
            relay.hold()

    def heal(self, *, breaks: bool) -> None:
        for relay in self._relays:
            relay.heal(breaks=breaks)

    def close(self) -> None:
        for relay in self._relays:
            relay.close()


def _word(verb: str) -> bytes:
    """How a header says its verb, in msgpack."""
    return b"\xa1t" + bytes([0xA0 + len(verb)]) + verb.encode()


def _reset(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
            end.shutdown(socket.SHUT_RD)
        end.close()
