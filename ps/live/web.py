"""The web server of the live page: the page, its events, metrics and health. It only reads.

    /            the page
    /events      what it shows, as server-sent events
    /metrics     for Prometheus
    /healthz     200 while the server of the run is alive, 503 if it is not
    /assets/...  script and style

Beyond the loopback all but /healthz needs the token, as ``?token=`` or as a bearer token. On the
loopback a request has to name it as its host, so that no page of another site can read this one
through a name of its own.
"""

import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from leash.ps.page.view import SCRIPTS, asset
from leash.ps.wire.hosts import is_loopback

REQUEST_S: Final = 10.0  # within which a request is read, and a part of its answer taken
MOST_REQUESTS: Final = 64  # at a time, browsers that follow among them; more are turned away
KEEP_ALIVE_S: Final = 15.0  # after so long without news a comment shows that the page is there
ASSETS: Final = {
    "page.css": "text/css", "uPlot.min.css": "text/css",
    **dict.fromkeys((*SCRIPTS, "live.js"), "text/javascript"),
}  # fmt: skip
# Styles of single elements, such as the width of a bar, are the page's own.
POLICY: Final = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; base-uri 'none'"
)
LOADED: Final = "\n".join(
    f'<script src="assets/{name}{{query}}"></script>' for name in (*SCRIPTS, "live.js")
)
SHELL: Final = f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Leash</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="assets/uPlot.min.css{{query}}">
<link rel="stylesheet" href="assets/page.css{{query}}">
</head>
<body>
<main>
<span id="status" class="status" role="status">connecting</span>
<div id="top"></div>
<div id="pictures"></div>
<section id="workers"></section>
<section><h2>Messages of the run</h2><ul id="messages" class="card messages"></ul></section>
<noscript>This page needs JavaScript. leash status shows the same in a terminal.</noscript>
</main>
{LOADED}
</body>
</html>
"""

NOTHING: Final = -2  # what a browser has seen that has just come

Posted = Mapping[str, Any]


class Board:
    """What browsers are shown, handed from the one who looks on to those who answer."""

    def __init__(self) -> None:
        self._changed: Final = threading.Condition()
        self._number = 0
        self._newest: bytes = b""  # what is new since the message before it
        self._whole: Posted = {}
        self._is_closed = False

    def post(self, message: Posted) -> None:
        """Shows a message; what it leaves out is as it was."""
        with self._changed:
            self._number += 1
            self._newest = _packed(message)
            self._whole = {**self._whole, **message}
            self._changed.notify_all()

    def close(self) -> None:
        """Lets everybody go who waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait(self, seen: int, timeout_s: float) -> tuple[int, bytes] | None:
        """Waits for what is newer than message `seen`; all of it if that is `NOTHING`.

        Returns:
            Its number and the event's data, which is empty if there was none in time; None once
            this is closed and all was seen.
        """
        with self._changed:
            known = max(seen, 0)
            self._changed.wait_for(lambda: self._number > known or self._is_closed, timeout_s)
            if self._number <= known:
                return None if self._is_closed else (seen, b"")
            is_next = self._number == seen + 1
            return self._number, self._newest if is_next else _packed(self._whole)


def _packed(message: Posted) -> bytes:
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode()


class PageServer(ThreadingHTTPServer):
    """Answers browsers and Prometheus, each in a thread of its own."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True  # a server that is started again finds its port free
    request_queue_size = 32

    def __init__(
        self, host: str, port: int, token: str, board: Board,
        metrics: Callable[[], tuple[bytes, str]], is_alive: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Binds the port.

        Args:
            host: where to listen; an IPv6 address stands between brackets.
            port: 0 for any that is free.
            token: that a request has to name; empty for none.
            board: what the page shows.
            metrics: gives the text for Prometheus, and its content type.
            is_alive: whether the server of the run is.

        Raises:
            OSError: it cannot listen there.
        """
        bare = host.strip("[]")
        self.address_family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        self.token: Final = token
        self.board: Final = board
        self.metrics: Final = metrics
        self.is_alive: Final = is_alive
        self.is_local: Final = is_loopback(host)
        self._places: Final = threading.Semaphore(MOST_REQUESTS)
        super().__init__((bare, port), PageHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins a thread for a request, unless too many are there."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers a request, and makes room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def see_out(self, timeout_s: float) -> None:
        """Waits until all that is being answered has been. REQUIRES: it takes no more requests."""
        until_s = time.monotonic() + timeout_s
        for _ in range(MOST_REQUESTS):
            if not self._places.acquire(timeout=max(0.0, until_s - time.monotonic())):
                return

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a browser that goes away is no error."""


class PageHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: PageServer
    timeout = REQUEST_S
    server_version = "Leash"
    sys_version = ""

    def do_GET(self) -> None:
        """Answers with what the path names."""
        url = urlsplit(self.path)
        path = url.path
        if path == "/healthz":
            self._health()
        elif not self._names_this_host():
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "ask for this page by localhost")
        elif not self._has_token(parse_qs(url.query)):
            self._refuse(HTTPStatus.FORBIDDEN, "this page needs its token: its address has one")
        elif path == "/":
            query = f"?{url.query}" if self.server.token else ""
            self._send(_shell(query).encode(), "text/html; charset=utf-8")
        elif path == "/events":
            self._follow()
        elif path == "/metrics":
            self._send(*self.server.metrics())
        elif (name := path.removeprefix("/assets/")) in ASSETS:
            self._send(asset(name).encode(), f"{ASSETS[name]}; charset=utf-8")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")

    def log_message(self, *_: object) -> None:
        """Says nothing: the token would be in it."""

    # How it is done.

    def _names_this_host(self) -> bool:
        if not self.server.is_local:
            return True  # there the token says who may read
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        return host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")

    def _has_token(self, query: Mapping[str, list[str]]) -> bool:
        token = self.server.token.encode()
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        told = query.get("token", [bearer])[0].encode()
        return not token or hmac.compare_digest(told, token)

    def _health(self) -> None:
        if self.server.is_alive():
            self._send(b"ok\n", "text/plain")
        else:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the server of the run does not answer")

    def _send(self, body: bytes, content_type: str, status: int = HTTPStatus.OK) -> None:
        self._begin(status, content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send(f"{why}\n".encode(), "text/plain; charset=utf-8", status)

    def _begin(self, status: int, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")

    def _follow(self) -> None:
        """Sends what is new, until the browser goes or this process ends."""
        self._begin(HTTPStatus.OK, "text/event-stream")
        self.end_headers()
        seen = NOTHING
        while (news := self.server.board.wait(seen, KEEP_ALIVE_S)) is not None:
            seen, data = news
            self.wfile.write(b"data: %s\n\n" % data if data else b": still here\n\n")
            self.wfile.flush()


def _shell(query: str) -> str:
    return SHELL.replace("{query}", escape(query, quote=True))
