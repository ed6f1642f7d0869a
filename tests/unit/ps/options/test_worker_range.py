"""`--workers 2:8`: a run whose workers come and go, on command lines and in files."""

from pathlib import Path

import pytest

from leash.ps.cli import parse
from leash.ps.errors import UsageError
from leash.ps.options.base import to_argv
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.plan import Resize, Turn, choose_data_plan, parse_resize, turns
from leash.ps.options.server import ServerOptions


def server_of(*words: str) -> ServerOptions:
    _, options = parse(["server", *words])
    assert isinstance(options, ServerOptions)
    options.check()
    return options


@pytest.mark.parametrize("words", [["--workers", "2:8"], ["--workers=2:8"],
                                   ["--workers", "2", "--max-workers", "8"]])  # fmt: skip
def test_a_range_says_with_how_many_a_run_begins_and_how_many_it_takes(words: list[str]) -> None:
    options = server_of(*words)
    assert (options.least, options.ranks) == (2, tuple(range(1, 9)))
    assert choose_data_plan(options, "bsp", has_allocation=False) == "lease"
    assert server_of(*to_argv(options)) == options


@pytest.mark.parametrize("text", ["4", "4:4"])
def test_one_number_is_both(text: str) -> None:
    options = server_of("--workers", text)
    assert (options.least, options.ranks, options.max_workers) == (4, (1, 2, 3, 4), None)
    assert choose_data_plan(options, "bsp", has_allocation=False) == "static"


@pytest.mark.parametrize("line", ["workers: 2:8", 'workers: "2:8"', "{workers: 2:8}",
                                  "workers: 2\nmax_workers: 8"])  # fmt: skip
def test_a_file_of_settings_means_what_the_command_line_does(tmp_path: Path, line: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(line + "\n")
    options = server_of("--config", str(file))
    assert (options.workers, options.max_workers) == (2, 8)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--workers", "8:2"], "give more than 8"),
        (["--workers", "2:x"], "two such as 2:8"),
        (["--workers", ":8"], "two such as 2:8"),
        (["--workers", "2:8", "--data-plan", "static"], "needs leases"),
        (["--workers", "2:8", "--learners", "1-2"], "fixes who takes part"),
        (["--workers", "1:8", "--policy", "backup"], "at least one must be waited for"),
    ],
)
def test_what_cannot_be_is_told_with_its_mend(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        server_of(*words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["launch", "--dataset=digits", "--workers=2:8", "--hetero-allocation=1-1"], "fixed"),
        (["launch", "--dataset=digits", "--resize=10:3"], "--workers 2:3"),
        (["launch", "--dataset=digits", "--workers=2:8", "--resize=10"], "such as 60:8,300:3"),
        (["simulate", "--compute=1", "--workers=2:8"], "--resize 60:8,300:3"),
        (["keys", "new", "--workers", "2:8"], "give one number"),
        (["simulate", "--compute=1", "--resize=9:3", "--data-plan=static"], "static"),
    ],
)
def test_other_commands_tell_it_too(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse(words)[1].check()


def test_a_launcher_starts_the_least_and_what_resize_asks_for() -> None:
    _, options = parse(["launch", "--dataset=digits", "--workers=2:8", "--resize=1:6,2:3"])
    assert isinstance(options, LaunchOptions)
    options.check()
    assert (options.workers, options.most_started) == (2, 6)


def test_resize_says_who_joins_and_leaves_and_when() -> None:
    assert parse_resize("60:4,300.5:1") == [Resize(60.0, 4), Resize(300.5, 1)]
    assert turns(2, parse_resize("60:4,300:3")) == [
        Turn(60.0, 3, joins=True), Turn(60.0, 4, joins=True), Turn(300.0, 4, joins=False)
    ]  # fmt: skip
    assert parse_resize(None) == []


@pytest.mark.parametrize("text", ["", "60", "60:x", "60:8,50:3", "-1:3", "60:0", "nan:3", "inf:3"])
def test_a_resize_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--resize"):
        parse_resize(text)
