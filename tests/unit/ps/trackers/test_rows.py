import math
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leash.ps.errors import ArgumentError, HeaderError
from leash.ps.trackers.rows import (
    NAME_MAX,
    NAMES_MAX,
    ROWS_MAX,
    ROWS_MAX_NBYTES,
    TAKEN,
    Row,
    checked_metrics,
    in_json,
    joined_rows,
    pack_row,
    unpack_rows,
)

letters = st.characters(categories=("L", "N", "P"))
names = st.text(letters, min_size=1, max_size=NAME_MAX).filter(lambda name: name not in TAKEN)
metrics = st.dictionaries(names, st.floats(allow_nan=False), min_size=1, max_size=NAMES_MAX)
rows = st.lists(st.tuples(st.integers(0, 2**63 - 1), metrics), max_size=4)


@given(rows)
def test_what_is_packed_is_unpacked_again(rows: list[Row]) -> None:
    assert all(checked_metrics(logged) == logged for _, logged in rows)
    assert unpack_rows(joined_rows([pack_row(*row) for row in rows])) == rows


def test_numbers_of_all_libraries_are_taken_as_they_are() -> None:
    given_ = {
        "int": 3, "numpy": np.float32(0.5), "torch": torch.tensor([2.0]), "bool": True,
        "nan": math.nan, "inf": -math.inf,
    }  # fmt: skip
    taken = checked_metrics(given_)
    assert {type(value) for value in taken.values()} == {float}
    assert [in_json(value) for value in taken.values()] == [3.0, 0.5, 2.0, 1.0, "nan", "-inf"]
    ((step, sent),) = unpack_rows(joined_rows([pack_row(7, taken)]))
    assert step == 7
    assert str(sent) == str(taken)  # a NaN is not equal to itself


@pytest.mark.parametrize(
    ("logged", "says"),
    [
        ({}, "give a dict of 1 to 32 names"),
        ([("loss", 1.0)], "give a dict of 1 to 32 names"),
        ({str(n): n for n in range(NAMES_MAX + 1)}, "give a dict of 1 to 32 names"),
        ({1: 2.0}, "a name is a text"),
        ({"": 2.0}, "a name has 1 to 64 characters"),
        ({"x" * (NAME_MAX + 1): 2.0}, "a name has 1 to 64 characters"),
        ({"two\nlines": 2.0}, "no control characters"),
        ({" loss": 2.0}, "no space at its ends"),
        ({"lag": 2.0}, "taken by a curve of the run itself"),
        ({"loss": "2.0"}, r"metrics\['loss'\]='2.0': give a number"),
        ({"loss": None}, "give a number"),
        ({"loss": torch.zeros(2)}, "give a number, or a tensor of one element"),
        ({"loss": 1j}, "give a number"),
    ],
)
def test_what_cannot_be_logged_is_an_error_that_names_it(logged: Any, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        checked_metrics(logged)


@pytest.mark.parametrize(
    "rows",
    [
        {}, 3, [3], [[1]], [[1, {}, 2]], [[-1, {}]], [[True, {"a": 1.0}]], [[1, {"a": 1}]],
        [[1, {"a": "b"}]], [[1, {"": 1.0}]], [[1, {"a\x00": 1.0}]], [[1, {"waiting": 1.0}]],
        [[1, {3: 1.0}]], [[1, {str(n): 1.0 for n in range(NAMES_MAX + 1)}]],
        [[1, {"a": 1.0}]] * (ROWS_MAX + 1), [[1, {"a": [1.0]}]], [[1.0, {"a": 1.0}]],
    ],
)  # fmt: skip
def test_a_peer_that_sends_anything_else_is_refused(rows: Any) -> None:
    with pytest.raises(HeaderError, match=r"^log: "):
        unpack_rows(msgpack.packb(rows))


@pytest.mark.parametrize(
    "payload", [b"", b"\x91", b"\xc1", b"\x90\x90", bytes(ROWS_MAX_NBYTES + 1)]
)
def test_bytes_that_are_no_rows_are_refused(payload: bytes) -> None:
    with pytest.raises(HeaderError, match=r"^log: "):
        unpack_rows(payload)
