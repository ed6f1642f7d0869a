"""Ports of this machine at which a server will listen: until it does, a host may try them."""

import random
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Final

from leash.ps.errors import UsageError
from leash.ps.processes import LASTING_PORTS

_ATTEMPTS: Final = 100
GREETING_S: Final = 1.0  # whoever knocks takes the token in this time


class OpenPorts:
    """Listens at ports, one after another, and tells a token to whoever connects.

    So a host that reaches somebody else's port at this address is not taken for one that reaches
    us.

    Attributes:
        first: the first of the ports.
    """

    def __init__(self, count: int, token: str, first: int | None = None) -> None:
        """Begins to listen, at every address of this machine.

        Args:
            count: of the ports.
            token: what to tell.
            first: the first port; None for any where so many are free.

        Raises:
            UsageError: one of them is taken.
        """
        self._token: Final = token.encode()
        self._stack: Final = ExitStack()
        self._selector: Final = self._stack.enter_context(selectors.DefaultSelector())
        self.first: Final = self._listen(count, first)
        self._end, self._told = socket.socketpair()
        self._stack.callback(self._end.close)
        self._stack.callback(self._told.close)
        self._selector.register(self._told, selectors.EVENT_READ, None)
        self._thread: Final = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "OpenPorts":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._end.close()
        self._thread.join()
        self._stack.close()

    def _listen(self, count: int, first: int | None) -> int:
        chance = random.SystemRandom()
        for _ in range(_ATTEMPTS if first is None else 1):
            begin = first or chance.randrange(LASTING_PORTS.start, LASTING_PORTS.stop - count)
            with ExitStack() as opened, suppress(OSError):
                found = [
                    opened.enter_context(everywhere(port)) for port in range(begin, begin + count)
                ]
                for listening in found:
                    self._selector.register(listening, selectors.EVENT_READ, listening.accept)
                self._stack.push(opened.pop_all())
                return begin
        which = f"--port {first}: one of the {count} ports from there" if first else "no port"
        raise UsageError(f"{which} is {'taken' if first else 'free'} here; give --port PORT where "
                         f"{count} are free, one after another")  # fmt: skip

    def _serve(self) -> None:
        while True:
            for found, _ in self._selector.select():
                accept: Callable[[], tuple[socket.socket, object]] | None = found.data
                if accept is None:
                    return
                with suppress(OSError):
                    knocking, _ = accept()
                    with knocking:
                        knocking.settimeout(GREETING_S)
                        knocking.sendall(self._token)


def everywhere(port: int) -> socket.socket:
    """A socket that listens at every address of this machine, of IPv6 too where there is that."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # the system may know IPv6 and have none
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port))
