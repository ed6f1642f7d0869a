"""The process that shows a run: hears snapshots of its server, and answers browsers.

The server starts it, with a socket whose first line says what to show. Each later line is a
snapshot. It ends with the server, once browsers have the last news.
"""

import json
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from leash.ps.errors import UsageError
from leash.ps.live.follower import RunFollower
from leash.ps.live.metrics import RunCollector, exposition
from leash.ps.live.news import PageNews
from leash.ps.live.web import Board, PageServer
from leash.ps.wire.hosts import EVERY_IPV6, is_every, is_loopback, own_hosts

PAGE_LOOK_S: Final = 0.5  # between two looks at the events of a run without a server
PAGE_ALIVE_S: Final = 10.0  # a server that has given no snapshot for so long does not answer
LAST_NEWS_S: Final = 1.0  # for browsers to take the last news
PAGE_NICE: Final = 5  # the run goes first
LINK_NBYTES: Final = 1 << 16


class Looker:
    """Shows one run."""

    def __init__(
        self, run_dir: Path, host: str, port: int, token: str | None, *, is_live: bool,
        may_move: bool = False,
    ) -> None:  # fmt: skip
        """Binds the port, and answers from now on.

        Args:
            run_dir: of the run.
            host: where to listen.
            port: likewise; 0 for a free one.
            token: that readers beyond this machine need; None for a new one, if one is needed.
            is_live: whether a server gives snapshots.
            may_move: whether a free port will do where this one is taken.

        Raises:
            UsageError: it cannot listen there.
        """
        self.token: Final = "" if is_loopback(host) else token or secrets.token_urlsafe(18)
        self._board: Final = Board()
        self._state: dict[str, Any] | None = None
        self._came_s = time.monotonic()
        self._taken_at: float | None = None  # by the clock on the wall
        self._follower: Final = RunFollower(run_dir, time.monotonic, keeps_all=not is_live)
        self._news: Final = PageNews(self._follower)
        self._is_live: Final = is_live
        collector = RunCollector(self._snapshot)
        try:
            self._web = self._listen(host, port, collector)
        except OSError as error:
            if not may_move or not port:
                raise UsageError(
                    f"--page-at {host}:{port}: cannot listen there: {error.strerror or error}"
                ) from error
            self._web = self._listen(host, 0, collector)
        self._host: Final = host
        self._thread: Final = threading.Thread(target=self._web.serve_forever, daemon=True)
        self._thread.start()

    def _listen(self, host: str, port: int, collector: RunCollector) -> PageServer:
        return PageServer(
            host, port, self.token, self._board, lambda: exposition(collector), self._is_alive
        )

    @property
    def port(self) -> int:
        """At which it listens."""
        return int(self._web.server_address[1])

    @property
    def address(self) -> str:
        """For a browser."""
        host = self._host
        if is_every(host):  # a name may stand for the loopback in this machine's own files
            found = own_hosts(ipv6=host == EVERY_IPV6)
            host = found[0] if found else socket.getfqdn()
        query = f"?token={self.token}" if self.token else ""
        return f"http://{host}:{self.port}/{query}"

    def take(self, message: Mapping[str, Any]) -> None:
        """Takes a snapshot of the server, and what it has said since the last one."""
        self._state, self._came_s = message["state"], time.monotonic()
        self._taken_at = message["at"]
        for t, line in message["said"]:
            self._news.hear(t, line)

    def look(self) -> None:
        """Shows what is new."""
        message = self._news.update(self._state)
        if message is not None:
            self._board.post({**message, "at": self._taken_at})

    def close(self) -> None:
        """Shows the last news, and ends."""
        self.look()
        self._board.close()
        self._web.shutdown()
        self._web.server_close()
        self._web.see_out(LAST_NEWS_S)
        self._follower.close()

    def _snapshot(self) -> tuple[dict[str, Any], float] | None:
        return None if self._state is None else (self._state, self._came_s)

    def _is_alive(self) -> bool:
        return self._state is not None and time.monotonic() - self._came_s < PAGE_ALIVE_S


def show_run(link: socket.socket) -> None:
    """Shows the run of the server at the other end, until that ends."""
    with link.makefile("rb") as lines:
        order = json.loads(lines.readline())
        try:
            looker = Looker(
                Path(order["run_dir"]), order["host"], order["port"], order["token"], is_live=True,
                may_move=order["may_move"],
            )  # fmt: skip
        except UsageError as error:
            link.sendall(_line({"error": str(error)}))
            return
        link.sendall(_line({"address": looker.address, "port": looker.port, "token": looker.token}))
    _take_snapshots(link, looker)
    looker.close()


def _take_snapshots(link: socket.socket, looker: Looker) -> None:
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        while True:
            if selector.select(PAGE_LOOK_S):
                part = link.recv(LINK_NBYTES)
                if not part:
                    return
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    looker.take(json.loads(line))
                if not lines:
                    continue
            looker.look()


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def look_on() -> None:
    """Runs as a process of a server, which has given the descriptor of a socket."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server says when it ends
    os.nice(PAGE_NICE)
    with socket.socket(fileno=int(sys.argv[1])) as link:
        show_run(link)


if __name__ == "__main__":
    look_on()
