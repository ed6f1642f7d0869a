"""Peers that cost a server more than a peer may: they lose their connection, and nobody else does.

The attackers are those of the benchmark `leash bench strangers`, which says how much good workers
lose by them. Here is what does not depend on the machine's speed.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import msgpack
import psutil
import pytest
import zmq

from leash.bench.harness import attackers
from leash.bench.harness.attackers import connected, frame
from leash.ps.wire import intake
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.intake import MOST_SURPLUS_FRAMES, PeerLimits
from support.contract import CHUNK_NBYTES, CHUNKS, LR, Attack, Worker, joined, packed
from support.peers import peers
from support.servers import RunningServer, serving

SETTINGS: dict[str, Any] = {"workers": 1, "lr": LR, "chunk_kib": 64, "evict_s": 900.0}
MESSAGE_NBYTES = CHUNK_NBYTES + 73728  # on a data socket: docs/wire-format.md, section 12
# An unfinished message of empty frames takes 32 times its size, and some more comes before anybody
# looks.
MOST_GROWTH_NBYTES = 256 * 10**6
CLOSED_S = 20.0


def place(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def addresses(running: RunningServer) -> dict[str, str]:
    """Of all sockets of a server of two shards."""
    with ControlChannel(running.address) as channel:
        ports = request_state(channel)["data_ports"]
    of_data = {f"data {i}": f"tcp://127.0.0.1:{port}" for i, port in enumerate(ports)}
    return {"control": running.address, **of_data}


def await_closed(running: RunningServer, count: int) -> None:
    """Returns once the server has closed so many connections."""
    deadline_s = time.monotonic() + CLOSED_S
    with ControlChannel(running.address) as channel:
        while request_state(channel)["closed_connections"] < count:
            assert time.monotonic() < deadline_s, "not closed"


def is_closed(peer: socket.socket) -> bool:
    """Waits for the end of a connection, reading what comes before."""
    peer.settimeout(CLOSED_S)
    with contextlib.suppress(ConnectionError):
        while peer.recv(65536):
            pass
    return True


def _has_ended(peer: socket.socket) -> bool:
    """Whether the end of a connection has come by now."""
    peer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while peer.recv(4096):
            pass
        return True
    return False


@contextmanager
def attacking(kind: str, address: str, connections: int = 2) -> Iterator[None]:
    """Attackers of this kind, until the context ends."""
    over = threading.Event()
    threads = [
        threading.Thread(target=attackers.attack, args=(kind, *place(address), over.is_set))
        for _ in range(connections)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def in_a_run(**settings: Any) -> Iterator[tuple[RunningServer, Worker]]:
    """A server in the middle of a run, whose parameters must be right at the end."""
    with serving(**{**SETTINGS, **settings}) as running, peers(
        running.address, running.data_address
    ) as sockets:  # fmt: skip
        worker = joined(running, 1, *sockets)
        worker.init()
        yield running, worker
        worker.require_unchanged()


@pytest.fixture(params=["lane", "plain"])
def any_intake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the functions of libzmq, and as where they cannot be found."""
    if request.param == "plain":
        monkeypatch.setattr(intake, "why_plain", lambda: "not found")


@pytest.mark.usefixtures("any_intake")
def test_a_message_of_some_surplus_frames_is_refused_and_one_of_many_is_the_last() -> None:
    with in_a_run() as (running, worker), peers(running.data_address) as (peer,):
        header = msgpack.packb({"v": 1, "t": "echo"})
        assert peer.error(header, *[b""] * MOST_SURPLUS_FRAMES) == "bad_frames"
        with connected(*place(running.data_address)) as raw:
            raw.sendall(frame(b"", more=True) * (MOST_SURPLUS_FRAMES + 5) + frame(b""))
            assert is_closed(raw)
        assert peer.error(header) == "bad_frames"  # the others are served
        await_closed(running, 1)
        worker.complete_a_step()


@pytest.mark.parametrize(
    ("kind", "which"),
    [
        ("empty_frames", "control"), ("empty_frames", "data 1"), ("unfinished", "control"),
        ("unfinished", "data 0"), ("unfinished_large", "data 1"), ("requests", "control"),
        ("echoes", "data 0"),
    ],
)  # fmt: skip
def test_a_flood_costs_its_sender_the_connection_and_the_server_some_memory(
    kind: str, which: str
) -> None:
    """Before, 6 MB of empty frames held the server up for 10 s, and an unfinished message took
    all memory that there was.
    """
    here = psutil.Process()
    with serving(**{**SETTINGS, "shards": 2}) as running, ExitStack() as stack:
        sockets = addresses(running)
        shard = psutil.Process(running.server.shards.processes[1])
        control, data, far = stack.enter_context(peers(*sockets.values()))
        worker = joined(running, 1, control, data)
        pull = worker.header("pull", chunk=1, codec="f64")
        before = here.memory_info().rss + shard.memory_info().rss
        grown = 0
        with attacking(kind, sockets[which]):
            deadline_s = time.monotonic() + CLOSED_S
            closed = 0
            while closed < 2:
                began_s = time.monotonic()
                assert far.error(pull) == "not_ready"
                state, _ = control.ask({"t": "status"})
                assert state["t"] == "state"
                assert time.monotonic() - began_s < 5.0
                with ControlChannel(running.address) as channel:
                    closed = request_state(channel)["closed_connections"]
                now = here.memory_info().rss + shard.memory_info().rss
                grown = max(grown, now - before)
                assert time.monotonic() < deadline_s, (closed, grown)
        assert grown < MOST_GROWTH_NBYTES
        for chunk, peer in ((0, data), (1, far)):
            init = worker.header("init", chunk=chunk, codec=CHUNKS[chunk][0])
            assert peer.ask(init, packed(chunk, 1.0))[0]["t"] == "ok"


def test_a_worker_whose_messages_come_slowly_keeps_its_connection() -> None:
    """The largest message that there is, in pieces, with nothing else on its way."""
    with in_a_run() as (running, worker), connected(*place(running.data_address)) as slow:
        header = msgpack.packb({"v": 1, "t": "echo"})
        content = frame(header, more=True) + frame(bytes(CHUNK_NBYTES))
        for begin in range(0, len(content), 4096):
            slow.sendall(content[begin : begin + 4096])
            worker.pull(1)
        slow.settimeout(CLOSED_S)
        answered = b""
        while len(answered) < CHUNK_NBYTES:
            more = slow.recv(1 << 20)
            assert more
            answered += more
        assert running.server.metrics.summary()["closed_connections"] == 0


def test_a_window_of_messages_waits_while_the_server_takes_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when a checkpoint is written between two steps."""
    with in_a_run() as (running, worker), peers(running.data_address) as (peer,):
        engine = running.server._engine
        held = threading.Event()
        held.set()
        monkeypatch.setattr(type(engine), "is_held", property(lambda _: held.is_set()))
        for _ in range(running.server._options.window):
            peer.send({"t": "echo"}, bytes(CHUNK_NBYTES))
        end_s = time.monotonic() + 1.0
        while time.monotonic() < end_s:
            worker.control.ask({"t": "status"})
        held.clear()
        for _ in range(running.server._options.window):
            assert peer.receive()[0]["t"] == "echoed"
        assert running.server.metrics.summary()["closed_connections"] == 0


@pytest.mark.parametrize("greets", [True, False])
def test_of_too_many_connections_the_oldest_strangers_are_closed_first(
    greets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        PeerLimits, "of", lambda *_, **__: PeerLimits(20, MESSAGE_NBYTES, 10**8, 10**8)
    )
    with in_a_run() as (running, worker), ExitStack() as stack:
        where = place(running.data_address)
        crowd = [stack.enter_context(connected(*where, greets=greets)) for _ in range(60)]
        await_closed(running, 41)  # beside the worker's, 19 may stay
        for peer in crowd[:41]:
            assert is_closed(peer)
        for peer in crowd[41:]:
            assert not _has_ended(peer)
        worker.complete_a_step()


def test_who_has_a_thousand_messages_refused_is_served_and_who_floods_is_not() -> None:
    with in_a_run() as (running, worker), peers(running.address) as (peer,):
        for _ in range(1000):
            assert peer.error(b"\xc1") == "bad_header"
        with connected(*place(running.address)) as raw:
            reader = threading.Thread(target=is_closed, args=(raw,))
            reader.start()
            with contextlib.suppress(OSError):
                for _ in range(200):
                    raw.sendall(frame(b"\xc1") * 100)
            reader.join()
        assert peer.error(b"\xc1") == "bad_header"
        worker.complete_a_step()


@pytest.mark.parametrize("which", ["control", "data"])
def test_a_message_at_which_the_server_fails_costs_its_sender_the_connection(
    attack: Attack, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> NoReturn:
        raise AssertionError("a defect")

    server = attack.running.server
    peer = attack.control if which == "control" else attack.data
    verb = {"t": "status"} if which == "control" else {"t": "echo"}
    payloads = () if which == "control" else (b"",)
    peer.ask(verb, *payloads)
    monitor = peer.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    before = server.metrics.summary()
    with monkeypatch.context() as broken:
        for handlers in (server.coordinator._handlers, server.data._handlers):
            for message in handlers:
                broken.setitem(handlers, message, fail)  # type: ignore[arg-type]
        assert peer.error(verb, *payloads) == "protocol"
    assert monitor.poll(5000)
    peer.socket.disable_monitor()
    monitor.close()
    assert server.metrics.summary()["failures"] == before["failures"] + 1
    with peers(attack.running.address, attack.running.data_address) as others:
        others[which == "data"].ask(verb, *payloads)


Broken = tuple[str, Callable[[RunningServer], tuple[object, str]]]
BROKEN: list[Broken] = [
    ("settle", lambda running: (running.server.data, "settle")),
    ("an eviction", lambda running: (running.server.coordinator, "tick")),
    ("the shards' links", lambda running: (running.server.shards, "attend")),
    ("a checkpoint", lambda running: (running.server._engine._checkpoints, "advance")),
    ("progress", lambda running: (running.server._engine._progress, "show")),
    ("an answer", lambda running: (running.server.data, "_send_all")),
    ("the intake", lambda running: (running.server._intake, "receive")),
]


@pytest.mark.parametrize(("what", "found"), BROKEN, ids=[what for what, _ in BROKEN])
def test_what_fails_beside_a_handler_is_counted_and_ends_nothing(
    what: str,
    found: Callable[[RunningServer], tuple[object, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As often as it is tried; the log has its traceback once."""

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError(what)

    with in_a_run() as (running, worker):
        with monkeypatch.context() as broken, peers(
            *[running.address, running.data_address] * 3
        ) as planes:  # fmt: skip
            worker.control.ask({"t": "status"})  # the server is done with what was answered before
            broken.setattr(*found(running), fail)
            for control, data in zip(planes[::2], planes[1::2], strict=True):
                control.send({"t": "status"})
                data.send({"t": "echo"}, b"")
            deadline_s = time.monotonic() + CLOSED_S
            while running.server.metrics.data.refusals["failed here"] < 3:
                assert time.monotonic() < deadline_s
        worker.complete_a_step()
        assert worker.control.ask({"t": "status"})[0]["t"] == "state"


def test_connections_that_come_and_go_leave_nothing() -> None:
    here = psutil.Process()
    with in_a_run() as (running, worker):
        where = place(running.data_address)
        for _ in range(50):
            connected(*where).close()
        worker.complete_a_step()
        before = here.num_fds()
        for _ in range(500):
            connected(*where).close()
        worker.complete_a_step()
        deadline_s = time.monotonic() + CLOSED_S
        while here.num_fds() > before + 20:
            assert time.monotonic() < deadline_s, here.num_fds()
            worker.pull(1)
