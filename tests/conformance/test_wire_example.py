"""docs/wire-format.md against a live server and against the code.

The client's side of the session knows pyzmq and msgpack, and nothing of Leash.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgpack
import numpy as np
import pytest

from leash.ps._core import codecs as core
from leash.ps.errors import ERROR_BY_CODE
from leash.ps.shard.members import MAX_OBSERVERS
from leash.ps.wire import frames, intake, layout, messages, sockets
from leash.ps.wire.codecs import CODECS
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import (
    ANSWERS,
    CONTROL_REQUESTS,
    DATA_REQUESTS,
    STACK_MAX_NBYTES,
    Message,
)
from support.peers import Peer, peers
from support.servers import serving

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text(encoding="utf-8")
ALL_MESSAGES = {cls.verb: cls for cls in (*CONTROL_REQUESTS, *DATA_REQUESTS, *ANSWERS)}
DOCUMENTED_TYPES: dict[str, Any] = {
    "id": messages.Id, "count": messages.Count, "samples": messages.Samples,
    "epoch": messages.Epoch, "float": float, "bool": bool, "word": messages.Word,
    "text": messages.Text, "ids": messages.Ids, "words": messages.Words,
    "bits": messages.Bits, "settings": messages.Settings,
}  # fmt: skip
INCARNATION = " ".join(["II"] * 8)
PORT = " ".join(["PP"] * 2)

# The session in hex.


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, as frames in hex."""

    socket: str
    request: tuple[str, ...]
    answer: tuple[str, ...]


def documented_session() -> list[Exchange]:
    blocks = re.findall(r"```hex\n(.*?)```", DOCUMENT, re.DOTALL)
    return [exchange_of(block) for block in blocks]


def exchange_of(block: str) -> Exchange:
    match = re.fullmatch(r"▸ (\w+)\n(.*)◂ (\w+)\n(.*)", block, re.DOTALL)
    assert match is not None, block
    there, request, back, answer = match.groups()
    assert there == back
    return Exchange(there, frames_of(request), frames_of(answer))


def frames_of(lines: str) -> tuple[str, ...]:
    """Each line is `header`, `payload` or blank, then bytes, then two spaces and a remark."""
    found: list[str] = []
    for line in lines.splitlines():
        label, digits = line[:9].strip(), line[9:].split("  ")[0]
        assert re.fullmatch(r"([0-9a-f]{2}|II|PP)( ([0-9a-f]{2}|II|PP))*", digits), line
        if label:
            assert label == ("payload" if found else "header"), line
            found.append(digits)
        else:
            found[-1] += " " + digits
    return tuple(found)


def filled_in(frame: str, incarnation: int, port: int) -> str:
    frame = frame.replace(INCARNATION, incarnation.to_bytes(8, "big").hex(" "))
    return frame.replace(PORT, port.to_bytes(2, "big").hex(" "))


def play(peer: Peer, request: list[str]) -> list[bytes]:
    peer.socket.send_multipart([bytes.fromhex(frame) for frame in request])
    assert peer.socket.poll(5000), "no answer"
    return peer.socket.recv_multipart()


def test_a_live_server_answers_the_documented_session_byte_by_byte() -> None:
    hello, *rest = documented_session()
    with serving(workers=1, lr=0.5) as server, peers(server.address) as (control,):
        welcome = play(control, list(hello.request))
        header = msgpack.unpackb(welcome[0])
        numbers = (header["incarnation"], header["data_ports"][0])
        assert [f.hex(" ") for f in welcome] == [filled_in(f, *numbers) for f in hello.answer]
        with peers(f"tcp://127.0.0.1:{numbers[1]}") as (data,):
            by_name = {"control": control, "data": data}
            for exchange in rest:
                request = [filled_in(frame, *numbers) for frame in exchange.request]
                answer = play(by_name[exchange.socket], request)
                assert [f.hex(" ") for f in answer] == [
                    filled_in(frame, *numbers) for frame in exchange.answer
                ]
        assert server.join() == 0


def test_the_documented_session_has_each_kind_of_answer() -> None:
    verbs = [
        tuple(
            msgpack.unpackb(bytes.fromhex(filled_in(frames[0], 1, 1)))["t"]
            for frames in (exchange.request, exchange.answer)
        )
        for exchange in documented_session()
    ]
    assert verbs == [
        ("hello", "welcome"), ("beat", "beaten"), ("init", "ok"), ("pull", "params"),
        ("push_pull", "params"), ("push_pull", "params"), ("push_pull", "error"), ("bye", "ok"),
    ]  # fmt: skip


# The tables.


def section(title: str) -> str:
    """From a heading to the next one of any level."""
    match = re.search(
        rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", DOCUMENT, re.DOTALL | re.MULTILINE
    )
    assert match is not None, f"no section {title}"
    return match[1]


def rows_of(text: str, first_heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading."""
    match = re.search(rf"^\| {first_heading} \|.*\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert match is not None, f"no table of {first_heading}"
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in match[1].splitlines()]


def words_in(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def documented_verbs() -> list[str]:
    return re.findall(r"^### `(\w+)`$", DOCUMENT, re.MULTILINE)


def test_the_document_has_every_verb_once_and_no_other() -> None:
    assert sorted(documented_verbs()) == sorted(ALL_MESSAGES)


@pytest.mark.parametrize("cls", ALL_MESSAGES.values(), ids=lambda cls: cls.verb)
def test_the_document_has_every_field_with_its_type_in_order(cls: type[Message]) -> None:
    text = section(f"`{cls.verb}`")
    hints = get_type_hints(cls, include_extras=True)
    in_code = [(f.name, hints[f.name]) for f in fields(cls)]
    if not in_code:
        assert "It has no fields" in text
        return
    rows = rows_of(text, "field")
    assert [(row[0].strip("`"), DOCUMENTED_TYPES[row[1]]) for row in rows] == in_code


@pytest.mark.parametrize("cls", ALL_MESSAGES.values(), ids=lambda cls: cls.verb)
def test_the_document_tells_whether_a_verb_has_a_payload(cls: type[Message]) -> None:
    match = re.search(r"^Payload: (none|one|optional)\b", section(f"`{cls.verb}`"), re.MULTILINE)
    assert match is not None
    assert {"none": False, "one": True, "optional": None}[match[1]] is cls.payload


def test_the_ranges_of_the_types_are_those_of_the_code() -> None:
    rows = {row[0]: row[2] for row in rows_of(section("2. Headers"), "type")}
    for name in ("id", "count", "samples", "epoch"):
        span = get_args(DOCUMENTED_TYPES[name])[1]
        assert rows[name] == f"{span.low} to {span.high}"
    for name in ("word", "text", "ids", "words", "bits", "settings"):
        assert f"at most {get_args(DOCUMENTED_TYPES[name])[1].high}" in rows[name]


def test_the_document_has_every_error_code_once_and_no_other() -> None:
    codes = [row[0].strip("`") for row in rows_of(section("`error`"), "code")]
    assert sorted(codes) == sorted(ERROR_BY_CODE)


def test_the_document_has_every_codec() -> None:
    rows = rows_of(section("3. The model: slots, layout, chunks"), "codec")
    assert [[row[0].strip("`"), *row[1:3], row[3].strip("`")] for row in rows] == [
        [
            codec.name,
            codec.dtype + ("" if codec.kinds == layout.KINDS else ", parameters only"),
            str(codec.value_nbytes or "varies"),
            codec.reply,
        ]
        for codec in CODECS.values()
    ]


def test_the_example_of_every_codec_is_read_as_the_document_says() -> None:
    rows = rows_of(section("3. The model: slots, layout, chunks"), "example")
    assert [row[0].strip("`") for row in rows] == list(CODECS)
    for name, values, payload in rows:
        codec, expected = CODECS[name.strip("`")], [float(value) for value in values.split(",")]
        came = bytes.fromhex(payload.replace("`", ""))
        if codec.core == "raw":
            assert np.frombuffer(came, f"<f{codec.value_nbytes}").tolist() == expected
            continue
        out = np.zeros(len(expected), np.float32)
        core.decode(codec.core, came, out)
        assert out.tolist() == expected


def test_the_worked_layout_is_cut_as_the_table_says() -> None:
    text = section("3. The model: slots, layout, chunks")
    slots = rows_of(text, "slot")
    made = Layout(
        Slot(name.strip("`"), dtype, tuple(map(int, re.findall(r"\d+", shape))), kind)
        for name, kind, dtype, shape, _, _ in slots
    )
    assert [int(row[4]) for row in slots] == list(made.offsets)
    assert [int(row[5]) for row in slots] == [slot.nbytes for slot in made.slots]
    assert rows_of(text, "chunk") == [
        [str(x) for x in (c.index, c.kind, c.dtype, c.start, c.values)] for c in made.cut(65536)
    ]


def test_the_limits_are_those_of_the_code() -> None:
    rows = {row[0]: row[1] for row in rows_of(section("12. Limits and versions"), "limit")}
    header = frames.MAX_HEADER_NBYTES
    assert rows == {
        "header": f"{header} bytes",
        "strings in a header": "2048 bytes",
        "frame on the control socket": f"{sockets.CONTROL_MAX_NBYTES} bytes",
        "frame on the data socket": f"`chunk_nbytes` + {sockets.data_max_nbytes(0)} bytes",
        "stack": f"{STACK_MAX_NBYTES} bytes",
        "layout": f"{layout.MAX_LAYOUT_NBYTES} bytes, {layout.MAX_SLOTS} slots",
        "slot": f"{layout.MAX_NAME_LENGTH} characters of name, {layout.MAX_DIMENSIONS} dimensions",
        "slab": f"{layout.MAX_SLAB_NBYTES} bytes, and the server's memory",
        "observers": str(MAX_OBSERVERS),
        "answers that the server queues per control connection": str(sockets.CONTROL_QUEUE),
        "answers that the server queues per data connection": "2 × `window` + 16",
        "messages that wait at the server per control connection": str(sockets.CONTROL_INCOMING),
        "messages that wait at the server per data connection": "`window`",
        "frames of a message beyond those that any has": (
            f"{intake.MOST_SURPLUS_FRAMES}; they are refused (`bad_frames`)"
        ),
        "seconds until a connection has ended ZMTP's handshake": str(sockets.GREETING_MS // 1000),
        "refused messages of a connection": refusals_in_lane("One"),
        "refused messages of all connections to a socket": refusals_in_lane("All"),
        "bytes of a message, with its framing": (
            f"*M* = the largest frame + {intake.PeerLimits.of(1, 0, 1).message_nbytes}"
        ),
        "bytes of all messages to a socket whose end has not come": "(workers + 4) × *M*",
        "bytes of a connection while the server takes nothing": "(messages that wait + 2) × *M*",
        "connections to a socket": (
            f"{intake.CONNECTIONS_OF_STRANGERS} + {intake.CONNECTIONS_OF_A_MEMBER} × workers, "
            "or half of the descriptors that its process may still open"
        ),
    }
    assert sockets.data_queue(100) == 2 * 100 + 16
    limits = intake.PeerLimits.of(members=10, frame_nbytes=1000, queue=7)
    assert limits.unfinished_nbytes == (10 + 4) * limits.message_nbytes
    assert limits.backlog_nbytes == (7 + 2) * limits.message_nbytes
    assert f"kMostSurplusFrames = {intake.MOST_SURPLUS_FRAMES};" in LANE_INBOX


LANE_INBOX = (Path(__file__).parents[2] / "csrc/lane/inbox.h").read_text(encoding="utf-8")


def refusals_in_lane(whose: str) -> str:
    found = re.search(rf"kRefusalsOf{whose}{{(\d+), (\d+)}}", LANE_INBOX)
    assert found is not None
    return f"{found[1]} at once, and {found[2]} a second"


def documented_keys(heading: str) -> Iterator[str]:
    text = section("11. The payload of `state`")
    for row in rows_of(text, heading):
        yield from words_in(row[0])


def test_the_document_has_every_key_of_the_state_and_no_other() -> None:
    packed = Layout([Slot("w", "f32", (1,))]).pack()
    with serving() as server, peers(server.address) as (control,):
        control.ask({"t": "hello", "role": "worker", "worker": 1, "name": ""}, packed)
        _, payload = control.ask({"t": "status"})
    state = msgpack.unpackb(payload or b"")
    assert sorted(documented_keys("key")) == sorted(state)
    assert sorted(documented_keys("key in `table`")) == sorted(state["table"][0])


def test_a_stop_is_answered_again_when_it_is_repeated_and_every_worker_hears_of_the_first() -> None:
    packed = Layout([Slot("w", "f32", (1,))]).pack()
    with serving() as server, peers(server.address, server.address) as (worker, admin):
        hello = {"t": "hello", "role": "worker", "worker": 1, "name": ""}
        welcome, _ = worker.ask(hello, packed)
        for reason in ("too dear", "another"):
            assert admin.ask({"t": "stop", "reason": reason})[0]["t"] == "ok"
        beat = {"t": "beat", "worker": 1, "incarnation": welcome["incarnation"]}
        while not (told := worker.ask(beat)[0]["stopping"]):
            pass
        assert told == "stopped: too dear"
