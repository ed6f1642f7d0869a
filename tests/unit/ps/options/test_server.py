"""How often a run writes checkpoints, in every form in which people say it."""

import math
from pathlib import Path

import pytest

from leash.ps.cli import parse
from leash.ps.errors import UsageError
from leash.ps.options.server import Every, ServerOptions


@pytest.mark.parametrize(
    ("text", "count", "unit"),
    [
        ("60s", 60, "s"), ("0.5s", 0.5, "s"), ("1e3s", 1000, "s"), ("500u", 500, "u"),
        ("1u", 1, "u"), ("1e", 1, "e"), ("12e", 12, "e"), ("never", math.inf, "never"),
    ],
)  # fmt: skip
def test_seconds_updates_epochs_or_never_may_be_said(text: str, count: float, unit: str) -> None:
    assert Every.parse(text) == Every(count, unit)
    words = ["server", "--checkpoint-every", text]
    options = parse(words)[1]
    assert isinstance(options, ServerOptions)
    assert options.checkpoints == Every(count, unit)


@pytest.mark.parametrize(
    "text",
    [
        "", "60", "s", "u", "e", "s60", "60 m", "60m", "sixty s", "-60s", "0s", "0u", "0e", "-1e",
        "0.5u", "1.5e", "nans", "infs", "1e400s", "Never", "60S", "never s", "60s 1e",
    ],
)  # fmt: skip
def test_anything_else_is_one_line_that_names_all_forms(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        ServerOptions(checkpoint_every=text).check()
    assert str(raised.value) == (
        f"--checkpoint-every {text}: expected seconds such as 60s, updates such as 500u, "
        "epochs such as 1e, or never"
    )


def test_a_run_writes_one_a_minute_unless_it_is_told_otherwise() -> None:
    assert ServerOptions().checkpoints == Every(60, "s")


@pytest.mark.parametrize("command", ["server", "launch"])
@pytest.mark.parametrize("words", [["--checkpoint-epochs", "2"], ["--checkpoint-epochs=2"]])
def test_the_option_of_before_names_that_of_today(command: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        parse([command, *words])
    assert "--checkpoint-every 2e" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("checkpoint_epochs: 2", "2e"), ("checkpoint_epochs: 0", "60s"),
        ("checkpoint_epochs: 2\ncheckpoint_every: 500u", "500u"), ("checkpoint_every: 1e", "1e"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["server", "launch"])
def test_a_file_of_before_is_read_in_todays_terms(
    tmp_path: Path, command: str, settings: str, expected: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"lr: 0.5\n{settings}\n")
    options = parse([command, "--config", str(path)])[1]
    assert (options.checkpoint_every, options.lr) == (expected, 0.5)


BEYOND = ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:29500", "tcp://192.0.2.7:29500"]
AT_HOME = [
    "tcp://127.0.0.1:0",
    "tcp://127.1.2.3:0",
    "tcp://[::1]:0",
    "tcp://localhost:0",
    "tcp://lo:0",
]


@pytest.mark.parametrize("address", BEYOND)
def test_whoever_listens_beyond_the_loopback_is_told_both_ways_out(address: str) -> None:
    with pytest.raises(UsageError) as raised:
        ServerOptions(bind=address).check()
    text = str(raised.value)
    assert address in text
    assert "--keys DIR" in text
    assert "--insecure" in text
    assert "\n" not in text
    ServerOptions(bind=address, keys="keys").check()
    ServerOptions(bind=address, insecure=True).check()


@pytest.mark.parametrize("address", AT_HOME)
def test_on_the_loopback_nobody_needs_a_key(address: str) -> None:
    options = ServerOptions(bind=address)
    options.check()
    assert options.risk == ""


def test_the_demos_words_get_a_warning_instead() -> None:
    options = ServerOptions(ps_ip="0.0.0.0", ps_port=29500)
    options.check()
    assert "tcp://0.0.0.0:29500: whoever reaches it" in options.risk
    assert ServerOptions(ps_ip="0.0.0.0", insecure=True).risk == ""
    assert ServerOptions(ps_ip="127.0.0.1").risk == ""


@pytest.mark.parametrize(
    ("log", "names"),
    [
        (None, ()), ("none", ()), ("csv", ("csv",)),
        ("csv, tensorboard,csv", ("csv", "tensorboard")),
    ],
)  # fmt: skip
def test_trackers_are_named_with_commas_between_them(
    log: str | None, names: tuple[str, ...]
) -> None:
    options = ServerOptions(log=log)
    options.check()
    assert options.trackers == names


@pytest.mark.parametrize("log", ["csv,", "mlflow", "none,csv", "tensorbord"])
def test_a_tracker_that_nobody_knows_is_an_error_that_names_those_there_are(log: str) -> None:
    with pytest.raises(UsageError, match="tensorboard, wandb, csv, with commas"):
        ServerOptions(log=log).check()
