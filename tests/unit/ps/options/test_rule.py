"""`--staleness` meant two things: its names of before still mean what they meant."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from leash.ps.cli import parse
from leash.ps.errors import UsageError
from leash.ps.experiments import plan
from leash.ps.experiments.command import _is_there
from leash.ps.experiments.options import ExperimentOptions
from leash.ps.options.em import EmOptions
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.rule import for_drop, with_new_names
from leash.ps.report.analysis.reading import read_run
from leash.ps.report.analysis.settings import effective
from support.runs import simulate, write_run

# config.yaml as the release wrote it that knew only the old names; one for each policy.
BEFORE = Path(__file__).parents[3] / "support" / "before"
BY_COMMAND_LINE = {
    "bsp": "--dataset digits --epochs 2 --workers 2 --policy bsp --bound 0",
    "ssp": "--dataset digits --epochs 2 --workers 2 --policy ssp --bound 2",
    "dssp": "--dataset digits --policy dssp --bound 1 --bound-max 6",
    "drop": "--dataset digits --policy drop --max-staleness 8",
}


def options_of(*words: str) -> Any:
    _, options = parse(words)
    options.check()
    return options


# On the command line.


@pytest.mark.parametrize("command", ["server", "launch --dataset digits", "set", "simulate"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--staleness 5", "--bound 5"),
        ("--stale-threshold=5", "--bound 5"),
        ("--policy ssp --staleness=5", "--policy ssp --bound=5"),
        ("--policy dssp --staleness 2 --staleness-max 9", "--policy dssp --bound 2 --bound-max 9"),
        ("--policy drop --staleness 5", "--policy drop --max-staleness 5"),
        ("--policy=drop --stale-threshold=5", "--policy=drop --max-staleness=5"),
    ],
)
def test_an_old_name_means_what_it_meant(command: str, old: str, new: str) -> None:
    beside = ["--compute=1"] if command == "simulate" else []
    made_of_old = options_of(*command.split(), *old.split(), *beside)
    assert made_of_old == options_of(*command.split(), *new.split(), *beside)
    assert 5 in vars(made_of_old).values() or made_of_old.bound_max == 9


@pytest.mark.parametrize("old", ["--staleness=7", "--stale-threshold=7"])
def test_an_old_name_of_em_means_the_bound(old: str) -> None:
    assert parse(["em", "--path=DIR", old]) == ("em", EmOptions(path="DIR", bound=7))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--policy drop --staleness 5 --max-staleness 6", "--staleness: under --policy drop it is "
         "another name for --max-staleness; give --max-staleness alone"),
        ("--policy drop --bound 5", "--policy drop --bound 5: drop has no bound; leave --bound "
         "out, or give --max-staleness"),
        ("--policy drop --max-staleness 5 --bound 5", "--policy drop --bound 5: drop has no .*"),
        ("--policy ssp --max-staleness 5", "--max-staleness 5: is drop's limit; add --policy drop"
         ", or leave it out"),
        ("--max-staleness 5", "--max-staleness 5: is drop's limit; add --policy drop, or .*"),
        ("--policy ssp --bound-max 5", "--bound-max 5: is dssp's upper limit; add --policy dssp, "
         "or leave it out"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["server", "launch --dataset digits", "set"])
def test_a_wrong_combination_is_refused_in_one_line(
    command: str, words: str, complaint: str
) -> None:
    with pytest.raises(UsageError, match=f"^{complaint}$"):
        options_of(*command.split(), *words.split())


def test_only_the_words_that_are_the_old_options_are_rewritten() -> None:
    words = ["launch", "--policy=drop", "--staleness", "5", "--staleness-lr=poly", "--run-dir=a-s"]
    assert for_drop(words) == [*words[:2], "--max-staleness", *words[3:]]
    assert for_drop(["--stale-threshold=5"]) == ["--max-staleness=5"]


# In a file.


@pytest.mark.parametrize("policy", BY_COMMAND_LINE)
def test_a_file_of_before_gives_the_same_options(policy: str) -> None:
    assert "staleness:" in (BEFORE / f"{policy}.yaml").read_text()
    from_file = options_of("launch", f"--config={BEFORE / policy}.yaml")
    assert from_file == options_of("launch", *BY_COMMAND_LINE[policy].split())


@pytest.mark.parametrize(
    ("policy", "word", "name"),
    [("ssp", "--bound=5", "bound"), ("ssp", "--staleness=5", "bound"),
     ("drop", "--max-staleness=5", "max_staleness"), ("drop", "--staleness=5", "max_staleness")],
)  # fmt: skip
def test_the_command_line_wins_over_a_file_of_before(policy: str, word: str, name: str) -> None:
    assert getattr(options_of("launch", f"--config={BEFORE / policy}.yaml", word), name) == 5


def test_a_file_that_gives_one_setting_by_two_names_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^staleness 3: the file says bound 4, too; give bound "):
        with_new_names({"bound": 4, "staleness": 3})
    with pytest.raises(UsageError, match=r"the file says max_staleness 4, too"):
        with_new_names({"policy": "drop", "max_staleness": 4, "staleness": 3})


def test_a_file_of_today_is_left_as_it_is() -> None:
    today = {"policy": "drop", "bound": None, "max_staleness": 8, "staleness_lr": "none"}
    assert with_new_names(today) == today


def test_an_experiment_of_before_plans_the_same_runs(tmp_path: Path) -> None:
    runs = {
        "old": "{a: {policy: ssp, staleness: 2}, b: {policy: drop, staleness: 8},"
               " c: {policy: dssp, staleness: 1, staleness_max: 6}}",
        "new": "{a: {policy: ssp, bound: 2}, b: {policy: drop, max_staleness: 8},"
               " c: {policy: dssp, bound: 1, bound_max: 6}}",
    }  # fmt: skip
    planned = []
    for name, text in runs.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"about: x\nbase: {{dataset: digits}}\nruns: {text}\n")
        planned.append(plan.load(ExperimentOptions(name=str(file))).runs)
    assert planned[0] == planned[1]
    assert [run.options.max_staleness for run in planned[0]] == [None, 8, None]


@pytest.mark.parametrize("policy", BY_COMMAND_LINE)
def test_an_experiment_knows_its_run_of_before_again(policy: str, tmp_path: Path) -> None:
    options = options_of("launch", f"--config={BEFORE / policy}.yaml")
    assert isinstance(options, LaunchOptions)
    run = write_run(tmp_path / "run", [], summary={"ended": "done"})
    (run / "config.yaml").write_text((BEFORE / f"{policy}.yaml").read_text())
    assert _is_there(plan.PlannedRun("a", "run", options), run)


@pytest.mark.parametrize(
    ("policy", "name", "value"), [("ssp", "bound", 2), ("drop", "max_staleness", 8)]
)
def test_a_report_of_a_run_of_before_uses_todays_names(
    policy: str, name: str, value: int, tmp_path: Path
) -> None:
    before = yaml.safe_load((BEFORE / f"{policy}.yaml").read_text())
    events = simulate([lambda _: 0.1, lambda _: 0.2], steps=4, bound=before["staleness"])
    settings = effective(read_run(write_run(tmp_path / "run", events, before)))
    assert settings[name] == value
    assert not {"staleness", "staleness_max"} & settings.keys()
