"""What a peer must not send, against a live server with real sockets.

Each message gets a named error, or its connection is dropped. Not a byte of the parameters changes,
and the server serves on: after every test a well-behaved worker completes a step.
"""

import math
import random
import struct
from collections.abc import Callable
from typing import Any, NoReturn

import msgpack
import pytest
import zmq

from support.contract import (
    CHUNK_NBYTES,
    DATA_VERBS,
    F32_VALUES,
    PACKED_LAYOUT,
    U32,
    U63,
    Attack,
    packed,
    valid_messages,
)  # fmt: skip
from support.peers import peers

CONTROL_VERBS = ("hello", "beat", "lease", "report", "status", "bye")
VERBS = (*CONTROL_VERBS, *DATA_VERBS)
WRONG_FOR: dict[type, list[Any]] = {
    int: [-1, U63, 2**64 - 1, 1.0, "1", True, None, [], {}, b"1"],
    str: [1, 1.0, None, False, [], {}, b"worker", "x" * 513, "x" * 4000],
    float: [1, "1.0", None, True, [], {}, math.inf, -math.inf],
}
BEYOND_RANGE: dict[str, Any] = {
    "worker": U32, "chunk": U32, "role": "x" * 65, "codec": "x" * 65, "kind": "x" * 65,
    "reason": "x" * 65, "epoch": 100_001,
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_a_header_with_a_field_missing_is_refused(attack: Attack, verb: str) -> None:
    header, payloads = valid_messages(attack.worker)[verb]
    for name in header.keys() - {"t"}:
        rest = {key: value for key, value in header.items() if key != name}
        assert attack.peer(verb).error(rest, *payloads) == "bad_header", name


@pytest.mark.parametrize("verb", VERBS)
def test_a_header_with_an_unknown_field_is_refused(attack: Attack, verb: str) -> None:
    header, payloads = valid_messages(attack.worker)[verb]
    assert attack.peer(verb).error({**header, "extra": 1}, *payloads) == "bad_header"


@pytest.mark.parametrize("verb", VERBS)
def test_a_field_of_a_wrong_type_or_out_of_range_is_refused_by_name(
    attack: Attack, verb: str
) -> None:
    header, payloads = valid_messages(attack.worker)[verb]
    for name, value in header.items():
        if name == "t":
            continue
        beyond = [BEYOND_RANGE[name]] if name in BEYOND_RANGE else []
        for wrong in (*WRONG_FOR[type(value)], *beyond):
            answer, _ = attack.peer(verb).ask({**header, name: wrong}, *payloads)
            assert (answer["t"], answer["code"]) == ("error", "bad_header"), (name, wrong)
            is_unpacked = type(wrong) is not bytes and len(str(wrong)) < 2048
            assert f"{verb}.{name}: expected" in answer["text"] or not is_unpacked, answer


@pytest.mark.parametrize("verb", ["push_pull", "push"])
def test_samples_beyond_their_range_are_refused(attack: Attack, verb: str) -> None:
    header, payloads = valid_messages(attack.worker)[verb]
    assert attack.data.error({**header, "samples": U32}, *payloads) == "bad_header"


@pytest.mark.parametrize("verb", VERBS)
def test_a_message_with_missing_or_extra_frames_is_refused(attack: Attack, verb: str) -> None:
    header, payloads = valid_messages(attack.worker)[verb]
    peer = attack.peer(verb)
    assert peer.error(header, *payloads, b"", b"") == "bad_frames"
    assert peer.error(header, *[b"x"] * 1000) == "bad_frames"
    if payloads and verb != "hello":
        # Without a payload the gradient would lie in a segment, and there is none.
        assert peer.error(header) == ("bad_segment" if verb == "push_pull" else "bad_frames")
    if not payloads and verb != "beat":  # which may bring a stack
        assert peer.error(header, b"x") == "bad_frames"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_on_the_wrong_socket_is_refused(attack: Attack, verb: str) -> None:
    header, payloads = valid_messages(attack.worker)[verb]
    other = attack.data if attack.peer(verb) is attack.control else attack.control
    assert other.error(header, *payloads) == "wrong_socket"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x93\x01\x02\x03",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x82\xa1v\x01\xa1t" + b"\x91" * 1020 + b"\xc0",  # deeper than repr() can go
        b"\x81" * 1020,
        b"\x82\xa1v\x01\xa1t\xa2\xff\xfe",  # not UTF-8
        b"\x82\xa1v\x01\xa1t\xd4\xff\x00",  # an extension type
        b"\x82\xa1v\x01\x92\x01\x02\xa6status",  # a list as key
        msgpack.packb({"v": 1, "t": "status"}) + b"\x00",
        msgpack.packb({"v": 2, "t": "status"}),
        msgpack.packb({"v": True, "t": "status"}),
        msgpack.packb({"v": 1, "t": 7}),
        msgpack.packb({"v": 1, "t": ["status"]}),
        msgpack.packb({"v": 1, "t": "no such verb"}),
        msgpack.packb({"v": 1, "t": "welcome"}),
        msgpack.packb({"v": 1, "t": "status", **{f"k{n}": n for n in range(200)}}),
        msgpack.packb({"v": 1, "t": "x" * 4096}),
        b"\x00" * 60_000,
    ],
    ids=repr,
)
def test_what_is_no_header_is_refused_on_both_sockets(attack: Attack, header: bytes) -> None:
    assert attack.control.error(header) == "bad_header"
    assert attack.data.error(header) == "bad_header"


@pytest.mark.parametrize("verb", ["init", "push_pull", "push"])
@pytest.mark.parametrize("nbytes", [0, 1, CHUNK_NBYTES - 1, CHUNK_NBYTES + 1, CHUNK_NBYTES + 4096])
def test_a_payload_of_another_size_is_refused(attack: Attack, verb: str, nbytes: int) -> None:
    header, _ = valid_messages(attack.worker)[verb]
    assert attack.data.error(header, bytes(nbytes)) == "bad_payload"


@pytest.mark.parametrize("on_data", [True, False])
def test_a_frame_beyond_the_limit_drops_the_connection(attack: Attack, on_data: bool) -> None:
    peer = attack.data if on_data else attack.control
    limit = CHUNK_NBYTES + 4096 if on_data else 1024 * 1024 + 4096
    peer.ask({"t": "echo"}, bytes(limit)) if on_data else peer.ask({"t": "status"})
    monitor = peer.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    peer.send(valid_messages(attack.worker)["push_pull"][0], bytes(limit + 1))
    assert monitor.poll(5000)
    peer.socket.disable_monitor()
    monitor.close()
    answer, _ = peer.ask({"t": "echo"} if on_data else {"t": "status"}, *[b"x"] * on_data)
    assert answer["t"] in ("echoed", "state")  # the connection that follows is a good one


@pytest.mark.parametrize("verb", ["init", "push_pull", "push", "pull"])
def test_ids_that_fit_nothing_are_refused_by_name(attack: Attack, verb: str) -> None:
    header, payloads = valid_messages(attack.worker)[verb]
    incarnation = header["incarnation"]

    def error(**changes: Any) -> str:
        return attack.data.error({**header, **changes}, *payloads)

    assert error(chunk=2) == "unknown_chunk"
    assert error(chunk=U32 - 1) == "unknown_chunk"
    assert error(codec="f8") == "bad_header"
    assert error(codec="f64") == "bad_header"
    assert error(worker=2) == "unknown_worker"
    assert error(worker=0) == "unknown_worker"
    assert error(incarnation=incarnation - 1) == "fenced"
    assert error(incarnation=0) == "fenced"
    assert error(incarnation=incarnation + 1) == "unknown_worker"
    assert error(incarnation=U63 - 1) == "unknown_worker"


@pytest.mark.parametrize("verb", ["push_pull", "push"])
def test_a_gap_is_refused_with_the_clock(attack: Attack, verb: str) -> None:
    header, payloads = valid_messages(attack.worker)[verb]
    for step in (attack.worker.step + 2, U63 - 1):
        answer, _ = attack.data.ask({**header, "step": step}, *payloads)
        assert (answer["code"], answer["clock"]) == ("resync", attack.worker.step)


def test_steps_of_the_past_are_answered_and_not_applied(attack: Attack) -> None:
    attack.worker.complete_a_step()
    for step in range(attack.worker.step + 1):
        answer, payload = attack.data.ask(attack.worker.push(0, step), packed(0, 9.0))
        assert (answer["t"], answer["step"]) == ("params", step)
        assert payload == packed(0, attack.worker.value)


def test_values_for_a_chunk_that_has_some_are_not_taken(attack: Attack) -> None:
    header, payloads = valid_messages(attack.worker)["init"]
    answer, _ = attack.data.ask(header, *payloads)
    assert (answer["t"], answer["taken"]) == ("ok", False)


@pytest.mark.parametrize("verb", ["init", "push_pull", "push"])
def test_an_observer_only_reads(attack: Attack, verb: str) -> None:
    hello = {"t": "hello", "role": "observer", "worker": 0, "name": "onlooker"}
    welcome, layout = attack.control.ask(hello)
    assert layout == PACKED_LAYOUT
    ids = {"worker": 0, "incarnation": welcome["incarnation"]}
    header, payloads = valid_messages(attack.worker)[verb]
    assert attack.data.error({**header, **ids}, *payloads) == "unknown_worker"
    answer, payload = attack.data.ask({"t": "pull", "chunk": 1, "codec": "f64", **ids})
    assert (answer["t"], payload) == ("params", packed(1, attack.worker.value))
    report = {**valid_messages(attack.worker)["report"][0], **ids}
    assert attack.control.error(report) == "bad_header"
    attack.control.ask({"t": "bye", "reason": "done", **ids})


def test_observers_beyond_the_limit_are_refused(attack: Attack) -> None:
    hello = {"t": "hello", "role": "observer", "worker": 0, "name": "onlooker"}
    answers = [attack.control.ask(hello)[0] for _ in range(65)]
    assert [answer["t"] for answer in answers] == ["welcome"] * 64 + ["error"]
    assert answers[-1]["code"] == "too_many"
    for answer in answers[:-1]:
        bye = {"t": "bye", "worker": 0, "incarnation": answer["incarnation"], "reason": "done"}
        attack.control.ask(bye)


def test_random_bytes_are_answered_with_errors(attack: Attack) -> None:
    dice = random.Random(1)
    for _ in range(100):
        for peer in (attack.control, attack.data):
            for _ in range(20):
                header, *payloads = (dice.randbytes(dice.randrange(80)) for _ in range(2))
                peer.send(header, *payloads[: dice.randrange(2)])
            for _ in range(20):
                answer, _ = peer.receive()
                assert (answer["t"], answer["code"]) == ("error", "bad_header")


def test_headers_with_flipped_bits_are_answered(attack: Attack) -> None:
    dice = random.Random(2)
    valid = valid_messages(attack.worker)
    far_away = {"step": 2**40}  # so that no flip of a bit makes the next step of it
    for verb in ("beat", "report", "status", "push_pull", "push", "pull", "init"):
        header, payloads = valid[verb]
        changes = far_away if "push" in verb else {}
        original = msgpack.packb({"v": 1, **header, **changes})
        for _ in range(300):
            flipped = bytearray(original)
            for _ in range(dice.randrange(1, 4)):
                flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
            answer, _ = attack.peer(verb).ask(bytes(flipped), *payloads)
            assert answer["t"] in ("error", "ok", "beaten", "state", "params")


class OtherEngine:
    """The shard's engine, but for what it does with a message."""

    def __init__(self, engine: Any, receive: Callable[..., bool]) -> None:
        self._engine = engine
        self.receive = receive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@pytest.mark.parametrize("verb", VERBS)
def test_a_message_at_which_the_server_itself_fails_is_refused_and_ends_nothing(
    attack_without_lane: Attack, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = attack_without_lane
    server = attack.running.server
    before = server.metrics.summary()["failed_messages"]

    def fail(*_: Any) -> NoReturn:
        raise AssertionError("a defect")

    def leave_alone(*_: Any) -> bool:
        return False

    header, payloads = valid_messages(attack.worker)[verb]
    engine = server.data._engine
    pushes = verb in ("push", "push_pull")
    with monkeypatch.context() as broken:
        receive = fail if pushes else leave_alone
        broken.setattr(server.data, "_engine", OtherEngine(engine, receive))
        for plane in (server.coordinator, server.data):
            for message in plane._handlers:
                broken.setitem(plane._handlers, message, fail)  # type: ignore[arg-type]
        broken.setattr(server.coordinator, "_on_hello", fail)
        assert attack.peer(verb).error(header, *payloads) == "protocol"
    # Each costs the sender its connection: see test_costly_peers.py.
    with monkeypatch.context() as broken, peers(
        attack.running.address, attack.running.data_address
    ) as (control, data):  # fmt: skip
        broken.setattr(server.data, "_engine", OtherEngine(engine, leave_alone))
        for module in ("leash.ps.server.run_engine", "leash.ps.shard.data_desk"):
            broken.setattr(f"{module}.decode", fail)
        peer = data if verb in DATA_VERBS else control
        assert peer.error(header, *payloads) == "protocol"
    assert server.metrics.summary()["failed_messages"] == before + 2


def _topk(*indices: int) -> bytes:
    return struct.pack(f"<{len(indices)}I{len(indices)}f", *indices, *[1.0] * len(indices))


def _int8(block: int, blocks: int, values: int = F32_VALUES, scale: float = 1.0) -> bytes:
    return struct.pack(f"<I{blocks}f", block, *[scale] * blocks) + b"\x01" * values


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        ("topk", _topk(F32_VALUES)),  # out of range
        ("topk", _topk(5, 4)),  # unsorted
        ("topk", _topk(4, 4)),  # doubled
        ("topk", _topk(1, 2)[:-1]),
        ("topk", _topk(*range(F32_VALUES // 2 + 1))),  # more than half
        ("int8", _int8(100, -(-F32_VALUES // 100))),  # no power of two
        ("int8", _int8(32, F32_VALUES // 32)),  # too small
        ("int8", _int8(256, F32_VALUES // 256 - 1)),  # a scale is missing
        ("int8", _int8(256, F32_VALUES // 256, F32_VALUES - 1)),
        ("int8", b"\0\1"),
        ("bf16", bytes(2 * F32_VALUES - 2)),
        ("f16", bytes(4 * F32_VALUES)),
    ],
)
def test_a_payload_that_its_codec_cannot_have_written_is_refused(
    attack: Attack, codec: str, payload: bytes
) -> None:
    worker = attack.worker
    push = {**worker.push(0, worker.step + 1), "codec": codec}
    assert attack.data.error(push, payload) == "bad_payload"


@pytest.mark.parametrize("codec", ["zip", "", "F32", "f64", "raw"])
def test_an_unknown_codec_is_refused_by_name(attack: Attack, codec: str) -> None:
    worker = attack.worker
    push = {**worker.push(0, worker.step + 1), "codec": codec}
    assert attack.data.error(push, packed(0, 1.0)) == "bad_header"
    hello = {"t": "hello", "role": "observer", "worker": 0, "name": "", "codecs": [codec]}
    assert attack.control.error(hello) == "bad_header"


@pytest.mark.parametrize("codec", ["zip", "f64", "int8", "topk", 1])
def test_parameters_are_not_answered_in_a_codec_that_they_do_not_travel_in(
    attack: Attack, codec: object
) -> None:
    worker = attack.worker
    push = {**worker.push(0, worker.step + 1), "answer": codec}
    assert attack.data.error(push, packed(0, 1.0)) == "bad_header"


@pytest.mark.parametrize("codec", ["bf16", "int8", "topk"])
def test_first_values_and_pulls_are_raw_or_rounded_never_sparse(attack: Attack, codec: str) -> None:
    worker = attack.worker
    nbytes = {"bf16": 2 * F32_VALUES, "int8": F32_VALUES, "topk": 8}[codec]
    init = worker.header("init", chunk=0, codec=codec)
    assert attack.data.error(init, bytes(nbytes)) in ("bad_header", "bad_payload")
    if codec != "bf16":
        assert attack.data.error(worker.header("pull", chunk=0, codec=codec)) == "bad_header"
