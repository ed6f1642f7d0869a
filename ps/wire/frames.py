"""Makes frames of messages and messages of frames, and checks every header.

::

    frame 0  route    added by ROUTER, unseen by workers
    frame 1  header   msgpack map with "v" (version), "t" (verb) and the verb's fields; ≤ 4 KiB;
                      a field that has its default value is left out
    frame 2  payload  only where the verb has one
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from operator import attrgetter, index
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgpack

from leash.ps.errors import (
    ERROR_BY_CODE,
    FrameCountError,
    HeaderError,
    ProtocolError,
    ResyncError,
    WrongSocketError,
    shown,
)
from leash.ps.wire.messages import (
    ANSWERS,
    BITS_MAX,
    CONTROL_REQUESTS,
    DATA_REQUESTS,
    U63_MAX,
    WORD_MAX,
    Error,
    Message,
    Within,
)
from leash.ps.wire.shard_messages import FROM_COORDINATOR, FROM_SHARD

VERSION: Final = 1
MAX_HEADER_NBYTES: Final = 4096
_LIMITS: Final = {
    "max_str_len": 2048, "max_bin_len": BITS_MAX, "max_array_len": 256, "max_map_len": 64,
    "max_ext_len": 0,
}  # fmt: skip

MessageT = TypeVar("MessageT", bound=Message)
FieldCheck = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class _Codec:
    """The fields of a verb, in the order of its type, with their checks and defaults."""

    cls: type[Message]
    names: tuple[str, ...]
    name_set: frozenset[str]
    required: frozenset[str]
    defaults: Mapping[str, Any]  # of the fields that may be left out
    checks: Mapping[
        str, tuple[FieldCheck, str]
    ]  # by field: the test, and what was expected in words
    values: Callable[[Message], tuple[Any, ...]]


_PLAIN: Final[Mapping[type, tuple[FieldCheck, str]]] = {
    bool: (lambda x: type(x) is bool, "true or false"),
    float: (lambda x: type(x) is float and not math.isinf(x), "a float64 that is not infinite"),
}


def _check_for(hint: Any) -> tuple[FieldCheck, str]:
    """Makes the check of one annotation, and says in words what it expects."""
    base = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    span = hint.__metadata__[0] if hasattr(hint, "__metadata__") else Within(0, U63_MAX)
    low, high = span.low, span.high
    if base is int:
        return lambda x: type(x) is int and low <= x <= high, f"an integer from {low} to {high}"
    if base is str:
        return lambda x: type(x) is str and low <= len(x) <= high, f"a text of at most {high}"
    if base in _PLAIN:
        return _PLAIN[base]
    if base is bytes:
        return lambda x: type(x) is bytes and low <= len(x) <= high, f"at most {high} bytes"
    if get_origin(base) is list:
        are_valid, what = _ITEMS[get_args(base)[0]]
        return lambda x: are_valid(x, high), f"a list of at most {high} {what}"
    assert get_origin(base) is dict, hint
    return lambda x: _are_settings(x, high), f"a map of at most {high} words to plain values"


def _are_ids(value: Any, most: int) -> bool:
    return (
        type(value) is list
        and len(value) <= most
        and all(type(x) is int and 0 <= x <= U63_MAX for x in value)
    )


def _are_words(value: Any, most: int) -> bool:
    return (
        type(value) is list
        and len(value) <= most
        and all(type(x) is str and len(x) <= WORD_MAX for x in value)
    )


_ITEMS: Final[Mapping[type, tuple[Callable[[Any, int], bool], str]]] = {
    int: (_are_ids, "integers"),
    str: (_are_words, "words"),
}


def _are_settings(value: Any, most: int) -> bool:
    plain = (int, float, str, bool, type(None))
    return (
        type(value) is dict
        and len(value) <= most
        and all(type(k) is str and type(v) in plain for k, v in value.items())
    )


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _codec(cls: type[Message]) -> _Codec:
    names = tuple(f.name for f in fields(cls))
    hints = get_type_hints(cls, include_extras=True)
    checks = {name: _check_for(hints[name]) for name in names}
    defaults = {f.name: default for f in fields(cls) if (default := _default(f)) is not MISSING}
    get = attrgetter(*names) if names else lambda _: ()
    values = (lambda message: (get(message),)) if len(names) == 1 else get
    required = frozenset(names) - defaults.keys()
    return _Codec(cls, names, frozenset(names), required, defaults, checks, values)


def table(classes: Iterable[type[Message]]) -> Mapping[str, type[Message]]:
    """Makes the table, verb ▸ type, of the messages that may arrive on a socket."""
    return {cls.verb: cls for cls in classes}


CONTROL: Final = table(CONTROL_REQUESTS)
DATA: Final = table(DATA_REQUESTS)
REPLIES: Final = table(ANSWERS)
TO_SHARD: Final = table(FROM_COORDINATOR)
TO_COORDINATOR: Final = table(FROM_SHARD)
_CODECS: Final = {
    cls: _codec(cls)
    for cls in (*CONTROL_REQUESTS, *DATA_REQUESTS, *ANSWERS, *FROM_COORDINATOR, *FROM_SHARD)
}


def encode(message: Message) -> bytes:
    """Writes the header frame of a message. A field that has its default value is left out."""
    codec = _CODECS[type(message)]
    header = dict(zip(codec.names, codec.values(message), strict=True))
    for name, default in codec.defaults.items():
        if header[name] == default:
            del header[name]
    packed: bytes = msgpack.packb({"v": VERSION, "t": message.verb, **header}, default=_plain)
    assert len(packed) <= MAX_HEADER_NBYTES, message.verb
    return packed


def _plain(number: Any) -> int | float:
    """Turns a number of numpy or torch, which msgpack does not know, into one of Python's."""
    try:
        return index(number)
    except TypeError:
        return float(number)


def decode(header: bytes, expected: Mapping[str, type[Message]]) -> Message:
    """Reads the message of a header frame, and checks it.

    Args:
        header: the frame, at most 4 KiB.
        expected: the verbs that may come here, as `table` makes them.

    Raises:
        HeaderError: anything but one whole header of an expected verb, its fields complete, of
            the right type and within their range. The text says what was expected and what came.
        WrongSocketError: a verb of the control socket came to a data socket, or the other way
            round.
    """
    fields_by_name = _unpack_map(header)
    version = fields_by_name.pop("v", None)
    if type(version) is not int or version != VERSION:
        raise HeaderError(f"v: expected {VERSION}, got {shown(version)}")
    verb = fields_by_name.pop("t", None)
    cls = expected.get(verb) if type(verb) is str else None
    if cls is None:
        _require_its_socket(verb, expected)
        raise HeaderError(f"t: expected one of {', '.join(expected)}, got {shown(verb)}")
    codec = _CODECS[cls]
    if not codec.required <= fields_by_name.keys() <= codec.name_set:
        raise HeaderError(f"{verb}: expected the fields {', '.join(codec.names) or 'none'}, got "
                          f"{', '.join(map(str, fields_by_name)) or 'none'}"[:480])  # fmt: skip
    for name, value in fields_by_name.items():
        is_valid, meaning = codec.checks[name]
        if not is_valid(value):
            raise HeaderError(f"{verb}.{name}: expected {meaning}, got {shown(value)}")
    return cls(**fields_by_name)


def _require_its_socket(verb: object, expected: Mapping[str, type[Message]]) -> None:
    """Raises WrongSocketError for a verb of the server's other kind of socket."""
    if type(verb) is not str:
        return
    if expected is DATA and verb in CONTROL:
        raise WrongSocketError(
            "this is a data port of the server; give the port that the server was started with, "
            "which is the one below its first data port"
        )
    if expected is CONTROL and verb in DATA:
        raise WrongSocketError(
            f"{verb} goes to a data port of the server, which `welcome` names; this is its control "
            "port"
        )


def decode_as(cls: type[MessageT], header: bytes) -> MessageT:
    """Reads a header that must be of type `cls`; raises what an `error` of the peer stands for."""
    message = decode(header, {cls.verb: cls, Error.verb: Error})
    if isinstance(message, Error):
        raise error_from(message)
    assert isinstance(message, cls)
    return message


def check_payload_count(message: Message, payload_frames: int) -> None:
    """Raises FrameCountError unless this number of payload frames fits the verb."""
    if payload_frames > 1 or message.payload not in (None, bool(payload_frames)):
        wants = {True: "one payload", False: "no payload", None: "at most one payload"}
        raise FrameCountError(f"{message.verb}: expected {wants[message.payload]}, "
                              f"got {payload_frames} frames after the header")  # fmt: skip


def error_from(message: Error) -> ProtocolError:
    """Makes the exception that an `error` stands for."""
    cls = ERROR_BY_CODE.get(message.code, ProtocolError)
    if cls is ResyncError:
        return ResyncError(message.text, message.clock)
    return cls(message.text)


def error_message(error: ProtocolError, worker: int = 0, step: int = 0, chunk: int = 0) -> Error:
    """Makes the `error` that tells a peer of an exception, with the ids of its request."""
    clock = error.clock if isinstance(error, ResyncError) else 0
    return Error(error.code, str(error)[:512], worker, step, chunk, clock)


def _unpack_map(header: bytes) -> dict[str, Any]:
    if len(header) > MAX_HEADER_NBYTES:
        raise HeaderError(f"expected a header of at most {MAX_HEADER_NBYTES} bytes, "
                          f"got {len(header)}")  # fmt: skip
    try:
        unpacked = msgpack.unpackb(header, strict_map_key=True, **_LIMITS)
    except (ValueError, msgpack.UnpackException) as error:
        raise HeaderError(f"expected a msgpack map: {error}"[:480]) from error
    if type(unpacked) is not dict:
        raise HeaderError(f"expected a msgpack map, got {type(unpacked).__name__}")
    return unpacked
