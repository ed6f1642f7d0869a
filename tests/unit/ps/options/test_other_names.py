"""The other names of options, among them the SSP demo's: taken wherever the option itself is."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from leash.ps.cli import COMMANDS, options_of, parse
from leash.ps.errors import UsageError
from leash.ps.options.base import flag

# Today's name of an option ▸ the SSP demo's, where that is another.
DEMO_NAMES = {
    "rank": "--this-rank", "run_dir": "--save-path", "test_batch_size": "--test-bsz",
    "timeout_s": "--timeout", "bound": "--stale-threshold",
}  # fmt: skip
# The same in both.
DEMO_OPTIONS = (
    "--ps-ip", "--ps-port", "--learners", "--data-dir", "--save-path", "--model", "--epochs",
    "--batch-size", "--test-bsz", "--heterogeneity", "--hetero-allocation", "--timeout",
    "--len-train-data", "--stale-threshold", "--this-rank", "--slow",
)  # fmt: skip
RUN_COMMANDS = ("server", "worker", "evaluate", "launch", "em")
VALUES = {"bound": 7, "rank": 2, "test_batch_size": 50, "timeout_s": 8.5, "bound_max": 20}


def fields_of(command: str) -> "list[dataclasses.Field[Any]]":
    return list(dataclasses.fields(options_of(COMMANDS[command])))


def flags_of(command: str) -> set[str]:
    return {name for f in fields_of(command) for name in (flag(f.name), *f.metadata["aliases"])}


def other_names() -> list[tuple[str, str, str]]:
    """Every other name of every option: command, option, flag."""
    return [
        (command, f.name, alias)
        for command in COMMANDS for f in fields_of(command) for alias in f.metadata["aliases"]
    ]  # fmt: skip


@pytest.mark.parametrize("command", RUN_COMMANDS)
def test_an_option_of_a_run_has_the_demos_name_in_every_command_that_has_it(command: str) -> None:
    # `leash em` takes part in a run elsewhere under --rank; the demo's EM knew no ranks.
    has = {f.name for f in fields_of(command)} - ({"rank"} if command == "em" else set())
    wanted = {demo for name, demo in DEMO_NAMES.items() if name in has}
    assert wanted
    assert wanted <= flags_of(command)


def test_the_demos_server_and_learner_have_all_of_their_options() -> None:
    assert set(DEMO_OPTIONS) <= flags_of("server") | flags_of("worker")


@pytest.mark.parametrize(("command", "name", "alias"), other_names(), ids=str)
def test_another_name_means_the_same_on_the_command_line_and_in_a_file(
    command: str, name: str, alias: str, tmp_path: Path
) -> None:
    value = VALUES.get(name, "text")
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({alias.removeprefix("--").replace("-", "_"): value}))
    for words in ([f"{alias}={value}"], [f"--config={file}"]):
        _, options = parse([command, *words])
        assert getattr(options, name) == value


def test_a_file_that_gives_an_option_under_two_names_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    for text in ("test_bsz: 5\ntest_batch_size: 6\n", "test_batch_size: 6\ntest_bsz: 5\n"):
        file.write_text(text)
        with pytest.raises(UsageError, match="test_bsz 5: the file says test_batch_size, too"):
            parse(["worker", f"--config={file}"])


def test_a_flag_that_switches_off_is_no_other_name(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("no_download: true\n")
    with pytest.raises(UsageError, match="no_download"):
        parse(["worker", f"--config={file}"])


@pytest.mark.parametrize("words", [["--learners", "1-2-3"], ["--learners=3-1-2"]])
def test_a_launch_counts_the_demos_learners(words: list[str]) -> None:
    _, options = parse(["launch", *words, "--model=AlexNetCifar10"])
    assert options.workers == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("learners", "told"),
    [("1-3", "give --workers 2"), ("x", "such as 1-2-3"), ("1-1", "stands there twice")],
)
def test_a_launch_refuses_learners_that_it_cannot_start(learners: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse(["launch", f"--learners={learners}"])


def test_a_file_of_a_launch_says_workers(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("learners: 1-2-3\ndataset: digits\n")
    with pytest.raises(UsageError, match="in a file of leash launch say workers: 3"):
        parse(["launch", f"--config={file}"])[1].check()


def test_the_learners_of_a_script_are_its_own(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.touch()
    _, options = parse(["launch", "--workers=2", str(script), "--learners", "1-2-3"])
    assert options.workers == 2  # type: ignore[attr-defined]
    assert options.script == f"{script} --learners 1-2-3"  # type: ignore[attr-defined]
