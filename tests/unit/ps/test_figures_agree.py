"""One run has one waiting, one lag and one accuracy, wherever they are shown.

The figures of a run whose every second is known are read from each place that people see: the
terminal's table and lines, `leash status`, summary.json, the report's tiles and bars, the table of
experiments.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from leash.ps.commands.run_table import plain_line, result_lines, run_table, with_summary
from leash.ps.experiments.outcome import read_outcome
from leash.ps.experiments.outcome_table import outcome_table
from leash.ps.experiments.plan import Experiment
from leash.ps.page.several import sections_of_several
from leash.ps.page.view import sections
from leash.ps.report.analysis.diagnosis import diagnose
from leash.ps.report.analysis.figures import key_figures
from leash.ps.report.analysis.reading import read_run
from leash.ps.report.page import page_of
from leash.ps.report.pictures.bars import share_picture
from leash.ps.report.pictures.drawing import report_style
from leash.ps.report.pictures.lineup import line_up
from leash.ps.wire.messages import Report
from leash.ps.words import LAG_IS, WAITING_IS, percent
from support.runs import write_run
from support.sockless import SocklessServer

STEPS = 40
PARKED_S = 0.7  # of each step of worker 1: from the arrival of its push to its answer
TRAVEL_S = 0.1  # of each step of either, before and after that together
OWN_S = {1: 0.2, 2: 0.9}  # a step's computing
WAITED_S = {1: PARKED_S + TRAVEL_S, 2: TRAVEL_S}  # of each step, as the workers report it
ACCURACIES = (0.91236, 0.95634)


@dataclass
class Places:
    """What a person can see of one run. Its workers report how they spend their time, or do not."""

    reports: bool
    state: dict[str, Any]  # at its end, as `leash status --json` has it
    summary: dict[str, Any]
    folder: Path

    @property
    def waiting(self) -> dict[int, float]:
        """The oracle. Of workers that report nothing the server sees the time between a push and
        its answer, but not that on the way."""
        waited_s = WAITED_S if self.reports else {1: PARKED_S, 2: 0.0}
        return {rank: waited_s[rank] / (OWN_S[rank] + WAITED_S[rank]) for rank in OWN_S}

    @property
    def together(self) -> float:
        return sum(self.waiting.values()) / 2  # both were here for the same time


@pytest.fixture(scope="module", params=[True, False], ids=["reporting", "silent"])
def places(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Places:
    """Two workers under bsp: the second is slow, so that the first is held back."""
    server = SocklessServer("bsp", workers=2)
    events: list[dict[str, Any]] = []
    server.events.write = (  # type: ignore[method-assign]
        lambda event, at_s=None, **more: events.append(
            {"t": server.clock() if at_s is None else at_s, "event": event, **more}
        )
    )
    server.start()
    server.hello(0)
    (observer,) = server.members.observers

    def report(worker: int, kind: str, epoch: int, step: int, accuracy: float = 0.0) -> None:
        own_s, waited_s = OWN_S.get(worker, 0.0), WAITED_S.get(worker, 0.0)
        incarnation = server.incarnation(worker) if worker else observer
        server.ask(Report(
            worker, incarnation, kind, epoch, step, step, 0.5, accuracy, step * own_s,
            step * waited_s,
        ))  # fmt: skip

    for step in range(1, STEPS + 1):
        server.clock.skip(OWN_S[1] + TRAVEL_S / 2)
        server.push(1, step)
        server.clock.skip(PARKED_S)
        server.push(2, step)
        server.clock.skip(TRAVEL_S / 2)
        epoch, is_last = divmod(step, STEPS // 2)
        for worker in (1, 2) if request.param else ():
            report(worker, "training" if is_last else "epoch", epoch, step)
        if not is_last:
            report(0, "evaluation", epoch, step, ACCURACIES[epoch - 1])
    state = server.coordinator.state()
    for worker in (1, 2):
        server.bye(worker)
    summary = {**server.rule.settings(), **server.metrics.summary(), "ended": "done"}
    folder = tmp_path_factory.mktemp("run") / "run"
    write_run(folder, events, {"policy": "bsp", "batch_size": 1}, summary)
    return Places(request.param, state, summary, folder)


def text_of(what: Any) -> str:
    console = Console(file=io.StringIO(), width=160, record=True)
    console.print(what)
    return console.export_text()


def of_table(places: Places, state: dict[str, Any]) -> list[str]:
    """The waiting in each worker's row."""
    rows = [line for line in text_of(run_table(state)).splitlines() if "process" in line]
    return re.findall(r"\d+ %", "\n".join(rows))


def of_bars(*folders: Path) -> list[str]:
    picture = share_picture(line_up([read_run(folder) for folder in folders]))
    assert picture is not None
    with report_style():
        (axis,) = picture.make(4.3).axes
    return [text.get_text() for text in axis.texts]


def of_page(*folders: Path) -> list[str]:
    """The waiting beside the bars of the page."""
    runs = [read_run(folder) for folder in folders]
    parts = sections(runs[0]) if len(runs) == 1 else sections_of_several(line_up(runs))
    pictures = [picture for part in parts for picture in part["pictures"]]
    (shares,) = [picture for picture in pictures if picture["kind"] == "shares"]
    return [row["value"] for row in shares["rows"]]


def tile(places: Places, name: str) -> str:
    run = read_run(places.folder)
    return next(f.value for f in key_figures(run, diagnose(run)) if f.name == name)


def result(places: Places, name: str) -> str:
    (line,) = [line for line in result_lines(places.summary) if line.startswith(name)]
    return line.removeprefix(name).strip()


def experiment(places: Places) -> list[str]:
    """The cells of the run's row in an experiment's table."""
    row = read_outcome("a", places.folder, None)
    table = text_of(outcome_table(Experiment("x", "", None, (), {}), [row]))
    return re.split(r" {2,}", table.splitlines()[-1].strip())


WHERE: dict[str, Callable[[Places], list[str]]] = {
    "status and the live table": lambda p: of_table(p, p.state),
    "the last table": lambda p: of_table(p, with_summary(p.state, p.summary)),
    "the result": lambda p: re.findall(r"worker \d: (\d+ %)", result(p, "waiting")),
    "summary.json": lambda p: [
        percent(share) for share in p.summary["wait_fraction_by_worker"].values()
    ],
    "the report's bars": lambda p: of_page(p.folder),
    "the bars beside the report": lambda p: of_bars(p.folder),
}


@pytest.mark.parametrize("where", WHERE)
def test_a_workers_waiting_is_the_same_wherever_it_is_shown(places: Places, where: str) -> None:
    assert WHERE[where](places) == [percent(share) for share in places.waiting.values()]


def test_the_waiting_of_all_is_the_same_wherever_it_is_shown(places: Places) -> None:
    expected = percent(places.together)
    assert percent(places.summary["wait_fraction"]) == expected
    assert result(places, "waiting").startswith(f"{expected} of the workers' time")
    assert tile(places, "waiting") == expected
    assert of_bars(places.folder, places.folder) == [expected] * 2
    assert of_page(places.folder, places.folder) == [expected] * 2
    assert expected in experiment(places)


@pytest.mark.parametrize(
    "shown",
    [
        lambda p: text_of(run_table(p.state)),
        lambda p: result(p, "waiting"),
        lambda p: page_of(read_run(p.folder), diagnose(read_run(p.folder))),
    ],
    ids=["table", "result", "page"],
)
def test_where_waiting_is_shown_it_says_what_it_is(
    places: Places, shown: Callable[[Places], str]
) -> None:
    assert WAITING_IS in shown(places)


def test_the_bars_divide_the_waiting_into_exchanging_and_being_held_back(places: Places) -> None:
    picture = share_picture(line_up([read_run(places.folder)]))
    assert picture is not None
    with report_style():
        (axis,) = picture.make(4.3).axes
    lengths = [bar.get_width() for bar in axis.patches][:3]  # type: ignore[attr-defined]
    assert sum(lengths) == pytest.approx(1)
    assert lengths[0] == pytest.approx(1 - places.waiting[1])
    assert lengths[2] == pytest.approx(PARKED_S, abs=0.01)


def test_the_accuracy_is_the_same_wherever_it_is_shown(places: Places) -> None:
    expected = "95.63 %"
    assert plain_line(places.state).endswith(f"test accuracy {expected}")
    assert result(places, "test accuracy") == expected
    assert tile(places, "test accuracy") == expected
    assert "95.63" in experiment(places)
    if places.reports:
        assert re.search(r"test accuracy % +91\.24 +95\.63", text_of(run_table(places.state)))


def test_the_lag_is_the_same_wherever_it_is_shown(places: Places) -> None:
    largest = str(places.summary["max_lag"])
    assert result(places, "largest lag") == f"{largest} {LAG_IS}"
    assert tile(places, "largest lag") == experiment(places)[-1] == largest
    rows = places.state["table"]
    assert "lags " + " ".join(str(row["lag"]) for row in rows) in plain_line(places.state)


def test_one_that_takes_no_part_is_ahead_of_nobody(places: Places) -> None:
    gone = {**places.state["table"][0], "lag": 7, "state": "evicted"}
    (row,) = [
        line for line in text_of(run_table({**places.state, "table": [gone]})).splitlines()
        if "evicted" in line
    ]  # fmt: skip
    assert " 7 " not in row
    assert "lags" not in plain_line({**places.state, "table": [gone]})
