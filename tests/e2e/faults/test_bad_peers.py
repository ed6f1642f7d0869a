"""Peers that do not keep to the contract, against a live server with real sockets."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgpack
import pytest
import zmq

from support.contract import (
    CHUNK_NBYTES,
    F32_VALUES,
    LR,
    PACKED_LAYOUT,
    U32,
    U63,
    Attack,
    Pair,
    joined,
    packed,
    valid_messages,
)  # fmt: skip
from support.peers import Header, peers
from support.servers import serving


@pytest.mark.parametrize(
    ("role", "rank", "code"),
    [
        ("worker", 0, "bad_header"),
        ("observer", 1, "bad_header"),
        ("king", 1, "bad_header"),
        ("worker", 2, "unknown_worker"),
    ],
)
def test_a_hello_for_a_place_that_is_none_is_refused(
    attack: Attack, role: str, rank: int, code: str
) -> None:
    hello = {"t": "hello", "role": role, "worker": rank, "name": ""}
    assert attack.control.error(hello, PACKED_LAYOUT) == code


def test_a_worker_of_another_model_is_refused_and_takes_nobodys_place(attack: Attack) -> None:
    hello = {"t": "hello", "role": "worker", "worker": 1, "name": ""}
    other = [["w", "f32", [F32_VALUES], "parameter"], ["s", "f64", [4], "parameter"]]
    answer, _ = attack.control.ask(hello, msgpack.packb(other))
    assert answer["code"] == "layout_mismatch"
    assert "slot 1" in answer["text"]
    assert "got parameter s f64 4" in answer["text"]


def _slots(*slots: list[Any]) -> bytes:
    return bytes(msgpack.packb(list(slots)))


@pytest.mark.parametrize(
    "layout",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x90",
        b"\x91" * 1020 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        bytes(1024 * 1024),
        bytes(1024 * 1024 + 1),
        PACKED_LAYOUT[:-1],
        PACKED_LAYOUT + b"\x00",
        _slots(["w", "f32", [4]]),
        _slots(["w", "f32", [4], "parameter", 1]),
        _slots(["w", "f16", [4], "parameter"]),
        _slots(["w", "f32", [4], "king"]),
        _slots(["w", "f32", [-4], "parameter"]),
        _slots(["w", "f32", [4.0], "parameter"]),
        _slots(["w", "f32", [True], "parameter"]),
        _slots(["w", "f32", 4, "parameter"]),
        _slots([1, "f32", [4], "parameter"]),
        _slots(["", "f32", [4], "parameter"]),
        _slots(["x" * 513, "f32", [4], "parameter"]),
        _slots(["w", "f32", [1] * 33, "parameter"]),
        _slots(["w", "f32", [0], "parameter"]),
        _slots(["w", "f32", [2**38], "parameter"]),
        _slots(["w", "f32", [2**63] * 32, "parameter"]),
        _slots(["w", "f32", [4], "parameter"], ["w", "f32", [4], "parameter"]),
        _slots(["m", "f32", [4], "buffer"], ["w", "f32", [4], "parameter"]),
        b"\xdc\x00\x01" + PACKED_LAYOUT[1:38],
    ],
    ids=lambda layout: f"{len(layout)}-{layout[:12].hex()}",
)
def test_what_is_no_layout_is_refused(layout: bytes) -> None:
    hello = {"t": "hello", "role": "worker", "worker": 1, "name": ""}
    with (
        serving(chunk_kib=64) as running,
        peers(running.address, running.data_address) as (control, data),
    ):
        assert control.error(hello, layout) == "bad_layout"
        assert control.error(hello) == "bad_layout"
        joined(running, 1, control, data).init()


def test_a_hello_that_is_refused_does_not_choose_the_model() -> None:
    hello = {"t": "hello", "role": "worker", "worker": 2, "name": "not of this run"}
    with serving() as running, peers(running.address, running.data_address) as (control, data):
        other = _slots(["other", "f32", [4], "parameter"])
        assert control.error(hello, other) == "unknown_worker"
        joined(running, 1, control, data).init()


def test_counts_at_their_limits_harm_nobody() -> None:
    settings: dict[str, Any] = {"workers": 1, "policy": "asp", "chunk_kib": 64, "lr": LR}
    with serving(**settings) as running, peers(running.address, running.data_address) as sockets:
        worker = joined(running, 1, *sockets)
        worker.init()
        for step in range(1, 20):
            push = worker.push(0, step) | {"samples": U32 - 1}
            assert worker.data.ask(push, packed(0, 0.0))[0]["t"] == "params"
        report = valid_messages(worker)["report"][0]
        most = {"kind": "epoch", "epoch": 100_000, "step": U63 - 1, "samples": U63 - 1,
                "loss": -1e308, "compute_s": 1e308, "wait_s": 1e308}  # fmt: skip
        assert worker.control.ask({**report, **most})[0]["t"] == "ok"
        state = msgpack.unpackb(worker.control.ask({"t": "status"})[1] or b"")
        assert (state["samples"], state["epochs"]) == (19 * (U32 - 1), 100_000)


def test_pushes_before_the_start_are_refused() -> None:
    settings: dict[str, Any] = {"workers": 2, "policy": "asp", "chunk_kib": 64, "lr": LR}
    with serving(**settings) as running, peers(*[running.address, running.data_address] * 2) as (
        control, data, other_control, other_data,
    ):  # fmt: skip
        worker = joined(running, 1, control, data)
        worker.init()
        for verb in ("push_pull", "push"):
            header, payloads = valid_messages(worker)[verb]
            assert data.error(header, *payloads) == "not_ready"
        joined(running, 2, other_control, other_data)
        worker.complete_a_step()


def test_pushes_and_pulls_before_there_are_values_are_refused() -> None:
    settings: dict[str, Any] = {"workers": 1, "chunk_kib": 64, "lr": LR}
    with serving(**settings) as running, peers(running.address, running.data_address) as (
        control, data,
    ):  # fmt: skip
        worker = joined(running, 1, control, data)
        for verb in ("push_pull", "push", "pull"):
            header, payloads = valid_messages(worker)[verb]
            assert data.error(header, *payloads) == "not_ready"
        worker.init()
        worker.complete_a_step()


def test_a_worker_that_runs_ahead_of_its_answers_is_refused(
    pair: Pair,
) -> None:
    first, second, running = pair.first, pair.second, pair.running
    for step in (1, 2):
        first.data.send(first.push(0, step), packed(0, 0.0))
    assert first.data.receive()[0]["step"] == 1
    for _ in range(100):
        assert first.data.error(first.push(0, 3), packed(0, 0.0)) == "too_many"
    assert running.server.data.parked == 1
    assert second.data.ask(second.push(0, 1), packed(0, 0.0))[0]["step"] == 1
    assert first.data.receive()[0]["step"] == 2
    assert second.data.ask(second.push(0, 2), packed(0, 0.0))[0]["step"] == 2
    assert first.data.ask(first.push(0, 3), packed(0, 0.0))[0]["step"] == 3


def test_the_newest_copy_of_a_waiting_request_gets_the_answer(
    pair: Pair,
) -> None:
    first, second, spare = pair.first, pair.second, pair.spare
    first.data.ask(first.push(1, 1), packed(1, 0.5))
    first.data.send(first.push(1, 2), packed(1, 0.5))
    first.data.ask({"t": "echo"}, b"")  # the server has read what came before
    spare.send(first.push(1, 2), packed(1, 99.0))
    answer, _ = first.data.receive()
    assert (answer["code"], answer["step"], answer["chunk"]) == ("superseded", 2, 1)
    second.data.ask(second.push(1, 1), packed(1, 0.0))
    answer, payload = spare.receive()
    assert (answer["t"], answer["step"]) == ("params", 2)
    assert payload == packed(1, 1.0 - 2 * LR * 0.5)


def test_the_answer_to_a_duplicate_counts_as_no_lag(
    pair: Pair,
) -> None:
    """Step 1 was answered before; answered again while step 2 waits, it lets nobody go on."""
    first, second, running = pair.first, pair.second, pair.running
    first.data.ask(first.push(0, 1), packed(0, 0.0))
    first.data.send(first.push(0, 2), packed(0, 0.0))
    assert first.data.ask(first.push(0, 1), packed(0, 0.0))[0]["lag"] == 2
    second.data.ask(second.push(0, 1), packed(0, 0.0))
    assert first.data.receive()[0]["step"] == 2
    assert running.settled().data.max_lag == 1


def test_a_peer_that_sends_and_never_reads_holds_up_nobody(attack: Attack) -> None:
    attack.data.socket.setsockopt(zmq.RCVHWM, 1)
    for _ in range(500):
        attack.data.send({"t": "echo"}, bytes(CHUNK_NBYTES))
    attack.worker.complete_a_step()


def test_a_worker_that_sends_and_never_reads_is_evicted(
    pair: Pair,
) -> None:
    first, second, running = pair.first, pair.second, pair.running
    with _unread(running.data_address) as send:
        pull = second.header("pull", chunk=0, codec="f32")
        while running.server.metrics.evictions == 0:
            send(pull)
    first.value = 1.0
    for _ in range(5):
        first.complete_a_step()  # nobody waits for the one that is gone
    assert second.data.error(pull) == "evicted"


def test_whoever_claims_a_rank_and_never_reads_loses_its_connection_and_gets_nobody_evicted(
    pair: Pair,
) -> None:
    first, running = pair.first, pair.running
    first.hello(name="x" * 500)  # the answer to a fenced one names it
    pull = first.header("pull", chunk=0, codec="f32") | {"incarnation": 0}
    with _unread(running.data_address) as send:
        while running.server.metrics.summary()["closed_connections"] == 0:
            send(pull)
    assert running.settled().data.refusals["fenced"] > 100
    first.require_unchanged()
    assert running.server.metrics.evictions == 0
    first.complete_a_step()


@contextmanager
def _unread(address: str) -> Iterator[Callable[[Header], None]]:
    """Sends to the server and never reads, with the smallest buffers there are."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.RCVHWM, 1)
        dealer.setsockopt(zmq.RCVBUF, 4096)
        dealer.connect(address)

        def send(header: Header) -> None:
            with suppress(zmq.Again):  # its buffers are full, and nobody reads them
                dealer.send(msgpack.packb({"v": 1, **header}), zmq.DONTWAIT)

        yield send
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\x00" * 64, b""])
@pytest.mark.parametrize("on_data", [True, False])
def test_a_raw_connection_with_garbage_harms_nobody(
    attack: Attack, garbage: bytes, on_data: bool
) -> None:
    address = attack.running.data_address if on_data else attack.running.address
    host, _, port = address.removeprefix("tcp://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5.0) as raw:
        raw.sendall(garbage)
        attack.worker.complete_a_step()
        if len(garbage) >= 64:  # a whole greeting; for less the server waits, but not for ever
            with suppress(ConnectionError):
                while raw.recv(4096):
                    pass


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.PUSH, zmq.SUB, zmq.PUB])
def test_sockets_of_other_kinds_harm_nobody(attack: Attack, kind: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    other = context.socket(kind)
    other.connect(attack.running.data_address)
    if kind == zmq.REQ:
        other.send(msgpack.packb({"v": 1, "t": "echo"}))
    attack.worker.complete_a_step()
    context.destroy(linger=0)
