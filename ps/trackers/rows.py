"""What `PSOptimizer.log` sends: rows of named numbers, checked by the same code on both sides.

::

    payload of `log`    msgpack array of at most ROWS_MAX rows
    row                 [step, {name: float64, ...}], at most NAMES_MAX names

A number may be a NaN or an infinity: that a loss is one is news. JSON has no such numbers, so that
events.jsonl has the words ``nan``, ``inf`` and ``-inf`` for them, which Python's float() reads.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgpack

from leash.ps.errors import ArgumentError, HeaderError, shown
from leash.ps.wire.messages import U63_MAX

Row: TypeAlias = tuple[int, dict[str, float]]  # a step, and what was logged there

NAME_MAX: Final = 64  # characters
NAMES_MAX: Final = 32  # in one row
ROWS_MAX: Final = 64  # in one message
ROWS_MAX_NBYTES: Final = 1 << 16  # likewise
# Curves of the run itself, one for each worker, have these names.
TAKEN: Final = ("lag", "waiting")
_LIMITS: Final = {
    "max_str_len": 4 * NAME_MAX, "max_bin_len": 0, "max_array_len": ROWS_MAX,
    "max_map_len": NAMES_MAX, "max_ext_len": 0,
}  # fmt: skip


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Checks what a program logs, before a server hears of it.

    Args:
        metrics: name ▸ number; also one of numpy, or a tensor of one element.

    Returns:
        The same, with numbers of Python's.

    Raises:
        ArgumentError: it is no mapping, is empty or too long, or a name or a number cannot be.
    """
    if not isinstance(metrics, Mapping) or not 1 <= len(metrics) <= NAMES_MAX:
        mend = f"give a dict of 1 to {NAMES_MAX} names with their numbers"
        raise ArgumentError("metrics", metrics, mend)
    for name in metrics:
        if why := _why_not(name):
            raise ArgumentError("metrics", name, f"{why}; give it another name")
    return {name: _number(name, value) for name, value in metrics.items()}


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes):  # float() would read these
            raise TypeError
        item = getattr(value, "item", None)  # of numpy and torch, which warn of float()
        return float(item() if callable(item) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        mend = "give a number, or a tensor of one element"
        raise ArgumentError(f"metrics[{name!r}]", value, mend) from error


def _why_not(name: object) -> str:
    """Says why this cannot be the name of a number; empty if it can."""
    if not isinstance(name, str):
        return "a name is a text"
    if not 1 <= len(name) <= NAME_MAX:
        return f"a name has 1 to {NAME_MAX} characters"
    if not name.isprintable() or name != name.strip():
        return "a name has no control characters, and no space at its ends"
    return "this name is taken by a curve of the run itself" if name in TAKEN else ""


def pack_row(step: int, metrics: Mapping[str, float]) -> bytes:
    """Writes one row; `joined_rows` makes a payload of several."""
    packed: bytes = msgpack.packb([step, metrics])
    return packed


def joined_rows(rows: Sequence[bytes]) -> bytes:
    """Makes the payload of `log` from packed rows. REQUIRES: at most `ROWS_MAX` of them."""
    packer = msgpack.Packer()
    header: bytes = packer.pack_array_header(len(rows))
    return header + b"".join(rows)


def unpack_rows(payload: bytes) -> list[Row]:
    """Reads the payload of `log`.

    Raises:
        HeaderError: it is anything else than whole rows, as they are described above.
    """
    if len(payload) > ROWS_MAX_NBYTES:
        raise HeaderError(f"log: expected at most {ROWS_MAX_NBYTES} bytes, got {len(payload)}")
    try:
        rows = msgpack.unpackb(payload, strict_map_key=True, **_LIMITS)
    except (ValueError, msgpack.UnpackException) as error:
        raise HeaderError(f"log: expected a msgpack array of rows: {error}"[:480]) from error
    if type(rows) is not list:
        raise HeaderError(f"log: expected an array of rows, got {type(rows).__name__}")
    return [_checked_row(row) for row in rows]


def _checked_row(row: object) -> Row:
    match row:
        case [int() as step, dict() as metrics] if type(step) is int and 0 <= step <= U63_MAX:
            for name, value in metrics.items():
                why = _why_not(name) or ("" if type(value) is float else "its number is no float64")
                if why:
                    raise HeaderError(f"log: {shown(name)}: {why}")
            return step, metrics
        case _:
            raise HeaderError(f"log: expected a step and a map of numbers, got {shown(row)}")


def in_json(value: float) -> float | str:
    """The number as events.jsonl has it: a word where JSON has none."""
    return value if math.isfinite(value) else str(value)
