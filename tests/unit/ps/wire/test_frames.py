import math
import re
from dataclasses import MISSING, Field, fields
from typing import Any, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from leash.ps.errors import (
    ERROR_BY_CODE,
    FrameCountError,
    HeaderError,
    ProtocolError,
    ResyncError,
    WrongSocketError,
)
from leash.ps.wire.frames import (
    CONTROL,
    DATA,
    MAX_HEADER_NBYTES,
    VERSION,
    check_payload_count,
    decode,
    decode_as,
    encode,
    error_from,
    error_message,
    table,
)
from leash.ps.wire.messages import (
    ANSWERS,
    CONTROL_REQUESTS,
    DATA_REQUESTS,
    EPOCH_MAX,
    U32_MAX,
    U63_MAX,
    WORD_MAX,
    Beat,
    Beaten,
    Bye,
    Error,
    Hello,
    Message,
    Pull,
    Status,
    Within,
)

EVERY = (*CONTROL_REQUESTS, *DATA_REQUESTS, *ANSWERS)
TABLE = table(EVERY)

finite = st.floats(allow_infinity=False, allow_nan=False)
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | finite | st.text(max_size=20)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """What a field of this annotation may hold."""
    base = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    span = hint.__metadata__[0] if hasattr(hint, "__metadata__") else Within(0, 0)
    plain_values = {
        int: st.integers(span.low, span.high), str: st.text(max_size=span.high),
        bytes: st.binary(max_size=min(50, span.high)), bool: st.booleans(), float: finite,
    }  # fmt: skip
    if base in plain_values:
        return plain_values[base]
    if get_origin(base) is list:
        items = st.text(max_size=WORD_MAX) if get_args(base) == (str,) else st.integers(0, U63_MAX)
        return st.lists(items, max_size=min(50, span.high))
    return st.dictionaries(st.text(max_size=20), plain, max_size=20)


def messages(classes: tuple[type[Message], ...] = EVERY) -> st.SearchStrategy[Message]:
    return st.one_of(
        [st.builds(cls, **{n: values_of(h) for n, h in hints_of(cls).items()}) for cls in classes]
    )


def hints_of(cls: type[Message]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


def header_of(message: Message) -> dict[str, Any]:
    header: dict[str, Any] = msgpack.unpackb(encode(message))
    return header


with_fields = messages(tuple(cls for cls in EVERY if fields(cls)))


@given(messages())
def test_decode_is_the_inverse_of_encode(message: Message) -> None:
    assert decode(encode(message), TABLE) == message


@given(messages(), st.randoms(use_true_random=False))
def test_the_order_of_fields_does_not_matter(message: Message, dice: Any) -> None:
    items = list(header_of(message).items())
    dice.shuffle(items)
    assert decode(msgpack.packb(dict(items)), TABLE) == message


@given(with_fields, st.data())
def test_a_missing_field_is_named(message: Message, data: st.DataObject) -> None:
    required = [f.name for f in fields(message) if not _is_optional(f)]
    assume(required)
    header = header_of(message)
    missing = data.draw(st.sampled_from(required))
    del header[missing]
    with pytest.raises(HeaderError, match=rf"{message.verb}: expected the fields .*{missing}"):
        decode(msgpack.packb(header), TABLE)


def _is_optional(field: "Field[Any]") -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def test_a_field_with_its_default_value_is_left_out_and_may_be_there() -> None:
    hello = Hello("worker", 1, "somebody")
    assert "codecs" not in header_of(hello)
    assert decode(msgpack.packb({**header_of(hello), "codecs": ["f32"]}), TABLE) == hello
    assert decode(encode(Hello("worker", 1, "", ["int8", "f32"])), TABLE).codecs == ["int8", "f32"]


@given(messages(), st.text(max_size=10))
def test_a_field_too_many_is_refused(message: Message, name: str) -> None:
    header = header_of(message)
    if name not in header:
        with pytest.raises(HeaderError, match=f"{message.verb}: expected the fields"):
            decode(msgpack.packb({**header, name: 1}), TABLE)


WRONG = [-1, 2**63, 2**64 - 1, 1.5, math.inf, "x" * 600, True, None, [-1], ["x"], {"k": []}, {1: 2}]


def is_allowed(value: Any, hint: Any) -> bool:
    """Of the values in WRONG: the few that some fields may hold."""
    base = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if base == list[str]:
        return bool(value == ["x"])
    return (base, type(value)) in [(bool, bool), (float, float)] and value != math.inf


@given(with_fields, st.data())
def test_a_field_of_a_wrong_type_or_out_of_range_is_named(
    message: Message, data: st.DataObject
) -> None:
    name, hint = data.draw(st.sampled_from(list(hints_of(type(message)).items())))
    wrong = data.draw(st.sampled_from([w for w in WRONG if not is_allowed(w, hint)]))
    packed = msgpack.packb({**header_of(message), name: wrong})
    if len(packed) > MAX_HEADER_NBYTES or wrong == {1: 2}:
        with pytest.raises(HeaderError):
            decode(packed, TABLE)
    else:
        with pytest.raises(HeaderError, match=rf"{message.verb}\.{name}: expected .*, got "):
            decode(packed, TABLE)


@given(with_fields, st.data())
def test_the_ends_of_a_range_are_in_it_and_what_follows_is_not(
    message: Message, data: st.DataObject
) -> None:
    spans = {n: h.__metadata__[0] for n, h in hints_of(type(message)).items() if _is_number(h)}
    if not spans:
        return
    name, span = data.draw(st.sampled_from(list(spans.items())))
    header = header_of(message)
    for end in (span.low, span.high):
        assert getattr(decode(msgpack.packb({**header, name: end}), TABLE), name) == end
    for beyond in (span.low - 1, span.high + 1):
        with pytest.raises(HeaderError, match=rf"\.{name}: expected an integer from {span.low} to"):
            decode(msgpack.packb({**header, name: beyond}), TABLE)


def _is_number(hint: Any) -> bool:
    return hasattr(hint, "__metadata__") and get_args(hint)[0] is int


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_header_errors(data: bytes) -> None:
    with pytest.raises(HeaderError):
        decode(data, TABLE)


@given(messages(), st.data())
def test_flipped_bits_give_a_message_or_a_protocol_error(
    message: Message, data: st.DataObject
) -> None:
    flipped = bytearray(encode(message))
    for at in data.draw(st.lists(st.integers(0, len(flipped) - 1), min_size=1, max_size=4)):
        flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = decode(bytes(flipped), TABLE)
    except ProtocolError:
        return
    assert decode(encode(decoded), TABLE) == decoded or _holds_nan(decoded)


def _holds_nan(message: Message) -> bool:
    flat = [x for x in header_of(message).values() if not isinstance(x, dict)]
    flat += header_of(message).get("settings", {}).values()
    return any(isinstance(x, float) and math.isnan(x) for x in flat)


@pytest.mark.parametrize("depth", [10, 900, 1000, 1022, 1024, 4000])
def test_a_header_of_any_depth_is_refused(depth: int) -> None:
    with pytest.raises(HeaderError):
        decode(b"\x82\xa1v\x01\xa1t" + b"\x91" * depth + b"\xc0", TABLE)


def test_a_header_beyond_4_kib_is_refused_unread() -> None:
    with pytest.raises(HeaderError, match="at most 4096 bytes, got 4097"):
        decode(bytes(4097), TABLE)


@pytest.mark.parametrize("version", [0, 2, -1, "1", 1.0, True, None, [1]])
def test_another_version_is_refused_by_name(version: object) -> None:
    with pytest.raises(HeaderError, match=f"v: expected {VERSION}, got "):
        decode(msgpack.packb({"v": version, "t": "status"}), TABLE)


def test_a_verb_that_does_not_belong_here_is_refused_with_those_that_do() -> None:
    with pytest.raises(HeaderError, match="t: expected one of beat, status, got 'hello'"):
        decode(encode(Hello("worker", 1, "")), table((Beat, Status)))


@pytest.mark.parametrize("verb", CONTROL)
def test_a_verb_of_the_control_socket_is_told_from_nonsense_at_a_data_socket(verb: str) -> None:
    header = msgpack.packb({"v": VERSION, "t": verb})
    with pytest.raises(WrongSocketError, match=r"this is a data port .* one below its first"):
        decode(header, DATA)


@pytest.mark.parametrize("verb", DATA)
def test_a_verb_of_the_data_sockets_is_told_from_nonsense_at_the_control_socket(verb: str) -> None:
    with pytest.raises(WrongSocketError, match=f"{verb} goes to a data port"):
        decode(msgpack.packb({"v": VERSION, "t": verb}), CONTROL)


FACE = "\N{GRINNING FACE}"  # four bytes in UTF-8


@pytest.mark.parametrize(
    "message",
    [
        Hello(FACE * 64, U32_MAX, FACE * 512, [FACE * 64] * 6),
        Beaten(True, [U32_MAX] * 256, True, True, EPOCH_MAX, True, FACE * 512),
        Error(FACE * 64, FACE * 512, U32_MAX, U63_MAX, U32_MAX, U63_MAX),
    ],
    ids=lambda message: message.verb,
)
def test_the_longest_messages_fit_into_a_header(message: Message) -> None:
    assert decode(encode(message), TABLE) == message


@pytest.mark.parametrize(
    ("message", "good", "bad"),
    [(Hello("worker", 1, ""), [0, 1], [2, 9]), (Beat(1, 1), [0, 1], [2]),
     (Bye(1, 1, "done"), [0], [1, 2]),
     (Error("", "", 0, 0, 0, 0), [0], [1])],
)  # fmt: skip
def test_payload_frames_are_counted(message: Message, good: list[int], bad: list[int]) -> None:
    for count in good:
        check_payload_count(message, count)
    for count in bad:
        with pytest.raises(FrameCountError, match=f"{message.verb}: .* got {count} frames"):
            check_payload_count(message, count)


@pytest.mark.parametrize("cls", ERROR_BY_CODE.values())
def test_an_error_comes_out_of_the_wire_as_it_went_in(cls: type[ProtocolError]) -> None:
    sent = ResyncError("why", clock=7) if cls is ResyncError else cls("why")
    with pytest.raises(cls, match=f"^{re.escape(str(sent))}$") as raised:
        decode_as(Status, encode(error_message(sent, worker=1, step=2, chunk=3)))
    assert type(raised.value) is cls
    assert getattr(raised.value, "clock", 7) == 7


def test_an_unknown_error_code_is_a_protocol_error() -> None:
    assert type(error_from(Error("of the future", "why", 0, 0, 0, 0))) is ProtocolError


def test_a_long_text_of_an_error_is_cut_to_fit() -> None:
    message = error_message(HeaderError(FACE * 5000))
    assert decode(encode(message), TABLE) == message


def test_decode_as_refuses_another_answer() -> None:
    with pytest.raises(HeaderError, match="t: expected one of beat, error, got 'pull'"):
        decode_as(Beat, encode(Pull(1, 1, 0, "f32")))
