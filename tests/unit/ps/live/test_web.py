"""The page's web server: who may read what, and what a browser is sent."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from leash.ps.live.web import ASSETS, MOST_REQUESTS, Board, PageServer

TOKEN = "a-token"


class Served:
    def __init__(self, token: str = "") -> None:
        self.board = Board()
        self.alive = True
        self.server = PageServer(
            "127.0.0.1", 0, token, self.board, lambda: (b"leash_steps_total 1.0\n", "text/plain"),
            lambda: self.alive,
        )  # fmt: skip
        self.port = int(self.server.server_address[1])
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body, dict(answer.getheaders())

    def close(self) -> None:
        self.board.close()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(20)


@pytest.fixture
def local() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


@pytest.fixture
def guarded() -> Iterator[Served]:
    served = Served(TOKEN)
    yield served
    served.close()


def test_the_page_fetches_nothing_from_elsewhere(local: Served) -> None:
    status, body, headers = local.get("/")
    assert status == 200
    for name in ASSETS:
        assert f'"assets/{name}"' in body
        assert local.get(f"/assets/{name}")[0] == 200
    assert "http" not in body.replace("<!doctype html>", "")
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/nothing", "/assets/../web.py", "/assets/", "//etc/passwd"])
def test_there_is_nothing_else(local: Served, path: str) -> None:
    assert local.get(path)[0] == 404


def test_it_only_reads(local: Served) -> None:
    for method in ("POST", "PUT", "DELETE"):
        connection = http.client.HTTPConnection("127.0.0.1", local.port, timeout=20)
        connection.request(method, "/")
        assert connection.getresponse().status == 501
        connection.close()


@pytest.mark.parametrize("path", ["/", "/events", "/metrics", "/assets/page.js"])
def test_without_its_token_nobody_reads(guarded: Served, path: str) -> None:
    assert guarded.get(path)[0] == 403
    assert guarded.get(f"{path}?token=another")[0] == 403
    assert guarded.get(path, Authorization="Bearer another")[0] == 403
    if path != "/events":
        assert guarded.get(f"{path}?token={TOKEN}")[0] == 200
        assert guarded.get(path, Authorization=f"Bearer {TOKEN}")[0] == 200


def test_whoever_has_the_token_is_shown_all(guarded: Served) -> None:
    _, body, _ = guarded.get(f"/?token={TOKEN}")
    assert f"assets/page.js?token={TOKEN}" in body


def test_a_page_of_another_site_cannot_read_this_one(local: Served) -> None:
    for host in ("evil.example", "evil.example:29580", ""):
        assert local.get("/metrics", Host=host)[0] == 421
    for host in ("localhost", "127.0.0.1:29580", "[::1]:29580"):
        assert local.get("/metrics", Host=host)[0] == 200


def test_health_needs_no_token_and_tells_of_the_server(guarded: Served) -> None:
    assert guarded.get("/healthz")[:2] == (200, "ok\n")
    guarded.alive = False
    assert guarded.get("/healthz")[0] == 503


def events(served: Served) -> Iterator[Any]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    while line := answer.readline():
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
    connection.close()


def test_who_comes_is_shown_all_and_then_what_is_new(local: Served) -> None:
    local.board.post({"a": 1, "b": 1})
    local.board.post({"b": 2})
    told = events(local)
    assert next(told) == {"a": 1, "b": 2}
    local.board.post({"b": 3})
    assert next(told) == {"b": 3}
    local.board.close()
    assert list(told) == []


def test_who_was_slow_is_shown_all_again(local: Served) -> None:
    local.board.post({"a": 1})
    seen, _ = local.board.wait(-2, 1.0) or (0, b"")
    local.board.post({"a": 2, "b": 1})
    local.board.post({"b": 2})
    _, data = local.board.wait(seen, 1.0) or (0, b"")
    assert json.loads(data) == {"a": 2, "b": 2}


def test_too_many_at_a_time_are_turned_away_and_room_is_made_again(local: Served) -> None:
    held = [socket.create_connection(("127.0.0.1", local.port)) for _ in range(MOST_REQUESTS)]
    try:
        while is_answered(local):  # those that are held may not all be taken yet
            pass
    finally:
        for connection in held:
            connection.close()
    while not is_answered(local):
        pass


def is_answered(served: Served) -> bool:
    try:
        return served.get("/healthz")[0] == 200
    except ConnectionError:
        return False
