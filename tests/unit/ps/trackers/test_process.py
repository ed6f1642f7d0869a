"""The process beside a server, with real trackers; W&B offline."""

import csv
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leash.ps.trackers.beside_server import RESTART_S, RESTARTS, News, TrackersProcess
from leash.ps.trackers.csv_file import COLUMNS, CSV_NAME, CsvFile
from leash.ps.trackers.curves import Point
from support.sockless import StillClock

LIMIT_S = 40.0


def logged(step: int, worker: int = 1) -> dict[str, Any]:
    metrics = {"loss": step / 2, "odd": "nan"}
    return {"t": step / 10, "event": "logged", "worker": worker, "step": step, "metrics": metrics}


def rows_of(path: Path) -> list[dict[str, str]]:
    """The whole lines of metrics.csv."""
    text = path.read_text() if path.exists() else ""
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


class Run:
    """A run directory with events, as a server writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "config.yaml").write_text("policy: ssp\nlr: 0.5\n")
        self.add()

    def add(self, *events: dict[str, Any], rest: str = "") -> None:
        with (self.folder / "events.jsonl").open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)
            file.write(rest)

    @property
    def csv_steps(self) -> list[int]:
        path = self.folder / CSV_NAME
        return [int(row["step"]) for row in rows_of(path) if row["name"] == "loss"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def await_that(is_so: Callable[[], bool], *, look: Callable[[], object] = lambda: None) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < until_s
        look()
        os.sched_yield()


@contextmanager
def tracking(
    run: Run, names: Sequence[str], said: list[str], clock: Callable[[], float] = time.monotonic
) -> Iterator[TrackersProcess]:
    trackers = TrackersProcess(run.folder, names, said.append, clock)
    assert trackers.start() == []
    try:
        yield trackers
    finally:
        trackers.stop(has_time=True)


def test_all_trackers_get_what_comes_until_the_end(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    said = list[str]()
    with tracking(run, ("tensorboard", "wandb", "csv"), said):
        run.add(*(logged(step) for step in range(1, 6)), rest='{"t": 9, "event": "lo')
        await_that(lambda: run.csv_steps == [1, 2, 3, 4, 5])
        run.add(rest='st"}\n')
        run.add(logged(6, worker=2), {"t": 1, "event": "evaluated", "epoch": 4, "accuracy": 0.5})
    rows = rows_of(run.folder / CSV_NAME)
    assert tuple(rows[0]) == COLUMNS
    assert [(r["name"], r["worker"], r["counts"], r["step"], r["value"]) for r in rows[-3:]] == [
        ("loss", "2", "step", "6", "3.0"), ("odd", "2", "step", "6", "nan"),
        ("test/accuracy", "", "epoch", "4", "0.5"),
    ]  # fmt: skip
    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss/worker_1")] == [
        (step, step / 2) for step in range(1, 6)
    ]
    assert [(e.step, e.value) for e in board.Scalars("test/accuracy")] == [(4, 0.5)]
    (told,) = said
    folder = Path(told.removeprefix("wandb: offline: wandb sync "))
    (file,) = folder.glob("*.wandb")
    assert b"loss/worker_2" in file.read_bytes()
    assert (run.folder / "wandb-id").read_text().strip() in folder.name


def test_a_tracker_that_fails_is_said_and_the_others_go_on(run: Run) -> None:
    (run.folder / "tensorboard").write_text("a file where a folder is to be")
    said, news = list[str](), list[News]()
    with tracking(run, ("tensorboard", "csv"), said) as trackers:
        run.add(logged(1))
        await_that(
            lambda: bool(news) and run.csv_steps == [1], look=lambda: news.extend(trackers.news())
        )
        run.add(logged(2))
        await_that(lambda: run.csv_steps == [1, 2])
    ((name, why),) = news
    assert name == "tensorboard"
    assert why
    assert [line for line in said if "tensorboard" not in line] == []


def test_a_process_that_is_killed_is_started_again_where_it_was(run: Run) -> None:
    clock, said = StillClock(), list[str]()
    with tracking(run, ("csv",), said, clock) as trackers:
        steps = 0
        for times in range(1, RESTARTS + 2):
            steps += 1
            run.add(logged(steps))
            before = trackers._at
            await_that(lambda b=before: trackers._at > b, look=trackers.news)  # type: ignore[misc]
            assert trackers._process is not None
            os.kill(trackers._process.pid, signal.SIGKILL)
            news = list[News]()
            await_that(lambda n=news: bool(n), look=lambda n=news: n.extend(trackers.news()))  # type: ignore[misc]
            assert news == [("trackers", "their process was ended by SIGKILL")]
            clock.skip(RESTART_S)
            assert trackers.news() == ([("trackers", "")] if times <= RESTARTS else [])
    assert run.csv_steps == list(range(1, steps + 1))
    assert said[-1].endswith("the run goes on without its trackers")


def test_it_ends_with_its_server_and_leaves_nothing_out(run: Run) -> None:
    trackers = TrackersProcess(run.folder, ("csv",), lambda _: None)
    trackers.start()
    run.add(logged(1))
    assert trackers._end is not None
    assert trackers._process is not None
    trackers._end.close()  # as when the server is killed
    assert trackers._process.wait(LIMIT_S) == 0
    assert run.csv_steps == [1]


def test_without_trackers_there_is_no_process(run: Run) -> None:
    trackers = TrackersProcess(run.folder, (), lambda _: None)
    assert trackers.start() == trackers.news() == []
    assert trackers._process is None
    trackers.stop(has_time=True)


def test_metrics_csv_goes_on_behind_a_line_that_was_cut(tmp_path: Path) -> None:
    point = Point(1_800_000_000.25, "a,b", 0, "epoch", 1, float("inf"))
    for _ in range(2):
        file = CsvFile(tmp_path)
        file.write([point])
        file.close()
        with (tmp_path / CSV_NAME).open("a") as cut:
            cut.write("2027-01-1")
    lines = (tmp_path / CSV_NAME).read_text().splitlines()
    row = '2027-01-15T08:00:00.250Z,"a,b",,epoch,1,inf'
    assert lines == [",".join(COLUMNS), row, "2027-01-1", row, "2027-01-1"]
