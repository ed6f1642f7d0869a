import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from leash.ps.errors import UsageError
from leash.ps.runs.listing import (
    DEEPEST,
    GOES_ON,
    GOING_S,
    NO_END,
    ListedRun,
    newest_run,
    runs_below,
)

NOW_S = 1_800_000_000.0
OPTIONS = {"model": "linear", "dataset": "digits", "policy": "ssp", "bound": 4, "workers": 3,
           "max_workers": None}  # fmt: skip
SUMMARY = {"ended": "done", "policy": "ssp", "bound": 4, "workers": 3, "least_workers": 3,
           "test_accuracy": 0.91, "steps": 600, "train_seconds": 75.5}  # fmt: skip


def make_run(
    run: Path, options: Any = OPTIONS, summary: Any = SUMMARY, *, age_s: float = 1000.0,
    events: str = '{"t": 3.5, "event": "x"}\n{"t": 9.2, "ev',
) -> Path:  # fmt: skip
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text(events)
    if options is not None:
        (run / "config.yaml").write_text(yaml.safe_dump(options))
    if summary is not None:
        (run / "summary.json").write_text(json.dumps(summary))
    for path in run.iterdir():
        os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return run


def only(folder: Path) -> ListedRun:
    (run,) = runs_below(folder, lambda: NOW_S)
    return run


def test_a_run_that_is_done_says_what_it_was_and_what_came_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert only(tmp_path) == only(run) == ListedRun(
        run=run, began=NOW_S - 1000.0, what="linear on digits", policy="ssp(4)", workers="3",
        ended="done", accuracy=0.91, steps=600, seconds=75.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ended", "says"),
    [
        ("SIGINT", "stopped by Ctrl-C"), ("incomplete", "incomplete"),
        ("stopped: too dear", "stopped: too dear"),
    ],
)  # fmt: skip
def test_one_that_ended_early_says_why(ended: str, says: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run", summary={**SUMMARY, "ended": ended, "test_accuracy": None})
    assert only(tmp_path).ended == says
    assert only(tmp_path).accuracy is None


def test_one_without_an_end_goes_on_or_was_killed(tmp_path: Path) -> None:
    make_run(tmp_path / "one", summary=None, age_s=GOING_S - 1)
    assert only(tmp_path).ended == GOES_ON
    make_run(tmp_path / "two" / "run", summary=None, age_s=GOING_S + 1)
    assert only(tmp_path / "two").ended == NO_END
    assert only(tmp_path / "two").seconds == 3.5
    assert only(tmp_path / "two").policy == "ssp(4)"


def test_a_script_and_a_crew_that_comes_and_goes_are_told(tmp_path: Path) -> None:
    options = {"script": "train.py --lr 0.1", "policy": "asp", "workers": 2, "max_workers": 8}
    make_run(tmp_path / "run", options, None)
    listed = only(tmp_path)
    assert (listed.what, listed.policy, listed.workers) == ("train.py --lr 0.1", "asp", "2 to 8")


@pytest.mark.parametrize("options", [None, [1], {"policy": "unknown"}, {"policy": 3}])
def test_a_folder_of_which_little_is_known_is_listed_too(options: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", options, None, events="")
    (run / "summary.json").write_text("{")
    assert only(tmp_path).seconds is None


def test_the_newest_comes_first_by_the_date_in_its_name(tmp_path: Path) -> None:
    first = time.strftime("%Y%m%d-%H%M%S-ssp", time.localtime(NOW_S - 5000))
    last = time.strftime("%Y%m%d-%H%M%S-asp", time.localtime(NOW_S - 10))
    make_run(tmp_path / last, age_s=7000)
    make_run(tmp_path / "experiment" / "by hand", age_s=1000)
    make_run(tmp_path / "experiment" / first, age_s=1)
    names = [listed.run.name for listed in runs_below(tmp_path, lambda: NOW_S)]
    assert names == [last, "by hand", first]
    assert newest_run("report", tmp_path) == tmp_path / last


def test_what_a_run_has_moved_away_and_what_lies_deep_is_no_run_of_its_own(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    make_run(tmp_path / "run" / "before-1")
    make_run(tmp_path.joinpath(*"abcdefgh"[: DEEPEST + 1]))
    assert only(tmp_path).run.name == "run"


def test_no_folder_and_no_run_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder; give"):
        runs_below(tmp_path / "none")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"no run in .*: give a run directory: leash report"):
            newest_run("report", folder)
