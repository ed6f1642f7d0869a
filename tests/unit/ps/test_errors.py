"""A wrong argument is said in the words of whoever gave it: a function's, or a command's."""

import pytest

from leash import ArgumentError, CheckpointError, Client, Encoding, LeashError, UsageError
from leash.ps.errors import NonfiniteError
from leash.ps.wire.frames import error_from, error_message
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Error
from leash.ps.words import SMALLER_RATE


def test_a_wrong_argument_is_a_value_error_too() -> None:
    for error in (UsageError, ArgumentError, CheckpointError):
        assert issubclass(error, ValueError)
        assert issubclass(error, LeashError)


def test_a_function_says_its_argument_and_a_command_its_option() -> None:
    error = ArgumentError("int8_block", 100, "give a power of two")
    assert str(error) == "int8_block=100: give a power of two"
    assert error.as_option == "--int8-block 100: give a power of two"
    assert str(ArgumentError("transport", "udp", "take tcp")) == "transport='udp': take tcp"


def test_a_nan_is_told_with_its_mend_once_wherever_it_was_found() -> None:
    text = "step 1 of worker 1: slot w has a NaN"
    here = NonfiniteError(text)
    from_the_core = error_from(Error("nonfinite", text, 1, 1, 0, 0))
    from_a_peer = error_from(error_message(here))
    assert {str(here), str(from_the_core), str(from_a_peer)} == {f"{text}; {SMALLER_RATE}"}
    assert "--lr" in SMALLER_RATE


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"codec": "f8"}, "codec"),
        ({"codec": "int8", "int8_block": 100}, "int8_block"),
        ({"int8_block": 32}, "int8_block"),
        ({"int8_block": 1 << 17}, "int8_block"),
        ({"topk_ratio": 0.0}, "topk_ratio"),
        ({"topk_ratio": 0.6}, "topk_ratio"),
        ({"topk_ratio": float("nan")}, "topk_ratio"),
    ],
)
def test_an_encoding_that_no_gradient_can_be_written_in_is_refused(
    settings: dict[str, object], name: str
) -> None:
    with pytest.raises(ArgumentError, match=f"^{name}="):
        Encoding(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"rank": -1}, "rank=-1: ranks start from 1: give a whole number"),
        ({"rank": 1.5}, "rank=1.5: ranks start from 1: give a whole number"),
        ({"rank": 1 << 32}, "rank=4294967296: ranks start from 1: give"),
        ({"transport": "udp"}, "transport='udp': take one of auto, tcp, shm"),
        ({"wait_s": 0.0}, "wait_s=0.0: give a number of seconds above 0"),
        ({"wait_s": float("nan")}, "wait_s=nan: give a number of seconds above 0"),
        ({"address": "10.0.0.1:29500"}, "address '10.0.0.1:29500': write it as tcp://HOST:PORT"),
    ],
)
def test_a_client_refuses_a_wrong_argument_before_it_connects(
    arguments: dict[str, object], line: str
) -> None:
    given = {"address": "tcp://127.0.0.1:1", "rank": 1, **arguments}
    with pytest.raises(UsageError) as raised:
        Client(layout=Layout([Slot("w", "f32", (1,))]), **given)  # type: ignore[arg-type]
    assert str(raised.value).startswith(line)
    assert "--" not in str(raised.value)
