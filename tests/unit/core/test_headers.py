"""The headers of every step, read and written in C++, against msgpack and leash.ps.wire.frames."""

import struct
from dataclasses import MISSING, Field, asdict, fields
from typing import Any, Final

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leash.ps._core import headers
from leash.ps.errors import HeaderError, ProtocolError
from leash.ps.wire.codecs import CODECS
from leash.ps.wire.frames import MAX_HEADER_NBYTES, decode, encode, error_message, table
from leash.ps.wire.messages import (
    ANSWERS,
    BITS_MAX,
    CONTROL_REQUESTS,
    DATA_REQUESTS,
    U32_MAX,
    U63_MAX,
    WORD_MAX,
    Error,
    Message,
    Ok,
    Params,
    Push,
    PushPull,
)

PUSHES: Final = table([Push, PushPull])
HOT_ANSWERS: Final = table([Params, Ok, Error])
HOT: Final = (*PUSHES.values(), *HOT_ANSWERS.values())
SMALL: Final = {"worker", "chunk", "samples", "slab"}

texts = st.text(max_size=40) | st.builds(
    lambda character, n: character * n, st.sampled_from("aé€😀"), st.integers(0, 513)
)
numbers = st.integers(0, 2**64 - 1) | st.sampled_from(
    [2**n + more for n in (0, 7, 8, 16, 31, 32, 63) for more in (-1, 0)]
)
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | texts
    | st.binary(max_size=40)
    | st.sampled_from([*CODECS, msgpack.ExtType(5, b""), msgpack.ExtType(5, b"x")]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.binary(max_size=4), inner, max_size=4)
        | st.dictionaries(st.integers(0, 9), inner, min_size=1, max_size=2)
    ),
    max_leaves=6,
)


def values_of(field: Field[Any]) -> st.SearchStrategy[Any]:
    """What a field may hold."""
    if field.name in {"codec", "answer"}:
        return st.sampled_from(list(CODECS))
    if field.name in {"taken", "unchanged"}:
        return st.booleans()
    if field.name == "absent":
        return st.binary(max_size=20) | st.integers(0, BITS_MAX).map(bytes)
    if field.name == "code":
        return st.text(max_size=WORD_MAX)
    if field.name == "text":
        return texts.map(lambda text: text[:512])
    most = U32_MAX if field.name in SMALL else U63_MAX
    return numbers.map(lambda number: min(number, most))


def messages(cls: type[Message]) -> st.SearchStrategy[Message]:
    return st.builds(
        cls,
        **{
            field.name: values_of(field)
            if field.default is MISSING
            else st.just(field.default) | values_of(field)
            for field in fields(cls)
        },
    )


hot_messages = st.one_of([messages(cls) for cls in HOT])


def read(header: bytes) -> dict[str, object] | None:
    """The fields that the core reads, of a push or of an answer."""
    push, answer = headers.read_push(header), headers.read_answer(header)
    assert push is None or answer is None
    return push or answer


def decoded(header: bytes) -> dict[str, object] | None:
    """The same by frames.decode."""
    try:
        message = decode(header, {**PUSHES, **HOT_ANSWERS})
    except HeaderError:
        return None
    fields_by_name = {"t": message.verb, **asdict(message)}
    known = fields_by_name.get("codec", "f32"), fields_by_name.get("answer") or "f32"
    return fields_by_name if CODECS.keys() >= set(known) else None


def write(message: Message) -> bytes:
    writers = {cls: getattr(headers, f"write_{cls.verb}") for cls in HOT}
    written: bytes = writers[type(message)](**asdict(message))
    return written


def entries_of(message: Message) -> list[tuple[bytes, bytes]]:
    """A header's entries, each as it is packed, with the fields that have their defaults."""
    whole = {"v": 1, "t": message.verb, **asdict(message)}
    return [(msgpack.packb(name), msgpack.packb(value)) for name, value in whole.items()]


def packed(entries: list[tuple[bytes, bytes]]) -> bytes:
    n = len(entries)
    begin = bytes([0x80 | n]) if n < 16 else b"\xde" + struct.pack(">H", n)
    return begin + b"".join(name + value for name, value in entries)


@st.composite
def in_any_width(draw: st.DrawFn, value: bytes) -> bytes:
    """The same integer in any form of msgpack that holds it; any other value as it is."""
    number = msgpack.unpackb(value, strict_map_key=False)
    if type(number) is not int or number < 0:
        return value
    forms = [
        bytes([first]) + struct.pack(form, number)
        for first, form, most in (
            (0xCC, ">B", 2**8), (0xCD, ">H", 2**16), (0xCE, ">I", 2**32), (0xCF, ">Q", 2**64),
            (0xD0, ">b", 2**7), (0xD1, ">h", 2**15), (0xD2, ">i", 2**31), (0xD3, ">q", 2**63),
        )
        if number < most
    ]  # fmt: skip
    return draw(st.sampled_from([value, *forms]))


@st.composite
def near_headers(draw: st.DrawFn) -> bytes:
    """A header whose entries were moved, repeated, left out or given other values."""
    entries = entries_of(draw(hot_messages))
    known = [name for name, _ in entries]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(entries)))
        name = draw(st.sampled_from(known) | junk.map(msgpack.packb))
        entries.insert(at, (name, msgpack.packb(draw(junk))))
    entries = draw(st.permutations(entries) | st.just(entries))
    if draw(st.integers(0, 3)) == 0:
        del entries[draw(st.integers(0, len(entries) - 1))]
    return packed([(name, draw(in_any_width(value))) for name, value in entries])


@st.composite
def mutated_headers(draw: st.DrawFn) -> bytes:
    """A header with bytes that were flipped, inserted or deleted."""
    header = bytearray(draw(hot_messages.map(encode) | near_headers()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(header)))
        header[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(header)


@given(hot_messages)
def test_a_header_has_the_bytes_of_encode(message: Message) -> None:
    assert write(message) == encode(message)


@given(hot_messages)
def test_what_encode_wrote_is_read_with_equal_fields(message: Message) -> None:
    assert read(encode(message)) == {"t": message.verb, **asdict(message)}


@given(hot_messages, st.data())
def test_fields_come_in_any_order_and_width_with_their_defaults(
    message: Message, data: st.DataObject
) -> None:
    entries = data.draw(st.permutations(entries_of(message)))
    header = packed([(name, data.draw(in_any_width(value))) for name, value in entries])
    expected = {"t": message.verb, **asdict(message)}
    assert read(header) == (expected if len(header) <= MAX_HEADER_NBYTES else None)


@given(near_headers())
def test_entries_that_were_changed_are_accepted_where_decode_accepts_them(header: bytes) -> None:
    assert read(header) == decoded(header)


@given(mutated_headers())
def test_bytes_that_were_changed_are_accepted_where_decode_accepts_them(header: bytes) -> None:
    assert read(header) == decoded(header)


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x80")
@example(b"\xdf\xff\xff\xff\xff")
def test_any_bytes_are_accepted_where_decode_accepts_them(header: bytes) -> None:
    assert read(header) == decoded(header)


def ok_after(value: bytes) -> bytes:
    """An ok in which this value of a field comes before another, which is the one that counts."""
    return packed([(b"\xa6number", value), *entries_of(Ok(1, 2, 3, True, 4))])


def nested(begin: bytes, times: int) -> bytes:
    return begin * times + b"\x00"


@pytest.mark.parametrize(
    ("most", "value"),
    [
        pytest.param(2048, lambda n: msgpack.packb("x" * n), id="text"),
        pytest.param(3072, lambda n: msgpack.packb(bytes(n)), id="binary"),
        pytest.param(256, lambda n: msgpack.packb([0] * n), id="array"),
        pytest.param(64, lambda n: msgpack.packb({str(i): 0 for i in range(n)}), id="map"),
        pytest.param(0, lambda n: b"\xc7" + bytes([n, 5]) + bytes(n), id="extension"),
        pytest.param(1023, lambda n: nested(b"\x91", n), id="arrays in one another"),
        pytest.param(1023, lambda n: nested(b"\x81\xa0", n), id="maps in one another"),
        pytest.param(127, lambda n: bytes([0xC7, 0, n]), id="extension type"),
    ],
)
def test_the_limits_of_values_are_those_of_decode(most: int, value: Any) -> None:
    for n, is_accepted in ((most, True), (most + 1, False)):
        header = ok_after(value(n))
        assert (decoded(header) is not None) is is_accepted
        assert read(header) == decoded(header)


@pytest.mark.parametrize("more", [0, 1])
def test_a_header_has_at_most_4096_bytes(more: int) -> None:
    rest = len(ok_after(msgpack.packb(bytes(1000))))
    entries = [(b"\xa6number", msgpack.packb(bytes(MAX_HEADER_NBYTES - rest - 10 + more)))]
    entries += [(b"\xa6number", msgpack.packb(bytes(1000)))]
    header = packed([*entries, *entries_of(Ok(1, 2, 3, True, 4))])
    assert len(header) == MAX_HEADER_NBYTES + more
    assert (decoded(header) is None) is bool(more)
    assert read(header) == decoded(header)


@pytest.mark.parametrize(("field", "most"), [("code", WORD_MAX), ("text", 512)], ids=str)
@pytest.mark.parametrize("character", "aé€😀")
def test_texts_are_measured_in_characters(field: str, most: int, character: str) -> None:
    for n in (most, most + 1):
        values = {"code": "resync", "text": "", field: character * n}
        header = encode(Error(worker=1, step=2, chunk=3, clock=4, **values))
        assert (decoded(header) is None) is (n > most)
        assert read(header) == decoded(header)


@given(texts)
@example("😀" * 513)
@example("a" + "€" * 600)
def test_the_text_of_an_error_is_cut_where_error_message_cuts_it(text: str) -> None:
    message = error_message(ProtocolError(text), worker=1, step=2, chunk=3)
    assert headers.write_error(message.code, text, 1, 2, 3, 0) == encode(message)


@pytest.mark.parametrize("cls", [PushPull, Params], ids=lambda cls: cls.verb)
def test_a_codec_that_is_not_known_is_left_to_python(cls: type[Message]) -> None:
    for codec in (*CODECS, "f31", "", "F32", "é" * 64):
        values = {field.name: 0 for field in fields(cls) if field.default is MISSING}
        header = encode(cls(**{**values, "codec": codec}))
        assert (read(header) is not None) is (codec in CODECS)


OTHERS: Final = {*CONTROL_REQUESTS, *DATA_REQUESTS, *ANSWERS} - {*HOT}


@given(hot_messages)
def test_headers_of_other_verbs_are_left_to_python(message: Message) -> None:
    fields_by_name = asdict(message)
    for other in OTHERS:
        assert read(msgpack.packb({"v": 1, "t": other.verb, **fields_by_name})) is None
        named = {field.name: fields_by_name.get(field.name, 0) for field in fields(other)}
        assert read(msgpack.packb({"v": 1, "t": other.verb, **named})) is None


def test_a_push_is_no_answer_and_an_answer_no_push() -> None:
    push, ok = encode(Push(1, 2, 3, 4, "f32", 5)), encode(Ok(1, 2, 3, True))
    assert headers.read_answer(push) is None
    assert headers.read_push(ok) is None


def test_what_no_header_can_hold_is_not_written() -> None:
    with pytest.raises(ValueError, match="absent: expected at most 3072 bytes, got 3073"):
        headers.write_push(1, 2, 3, 4, "f32", 5, bytes(BITS_MAX + 1))
    with pytest.raises(ValueError, match="code: expected at most 256 bytes, got 257"):
        headers.write_error("x" * 257, "", 1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"codec: expected one of f32, .*, got 'f31'"):
        headers.write_params(1, 2, 3, "f31", 4, 5, 6)
