"""The view of a run: what its page shows, beside what is known of the run."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leash.ps.page.bars import lag_view, shares_view, staleness_view
from leash.ps.page.curves import accuracy_views, logged_views, speed_view
from leash.ps.page.lanes import FULL, LANE_BINS, closer_view, lanes_view
from leash.ps.page.view import as_script_data, asset, sections
from leash.ps.report.analysis.histograms import LEAST_SEEN
from leash.ps.report.analysis.reading import read_run
from leash.ps.report.analysis.run import Run
from leash.ps.report.pictures.style import PAGE_VARIABLES
from support.runs import Event, simulate, write_run


def a_run(
    path: Path, slow: float = 0.3, steps: int = 400, bound: int = 2, more: tuple[Event, ...] = ()
) -> Run:
    events = simulate([lambda _: 0.1, lambda _: slow], steps=steps, bound=bound)
    events = sorted([*events, *more], key=lambda e: float(e["t"]))
    return read_run(write_run(path / "run", events, {}, {"steps": 2 * steps, "ended": "done"}))


def shares(view: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Worker × bin × state."""
    rows = [np.frombuffer(base64.b64decode(text), np.uint8) for text in view["shares"]]
    return np.array(rows, dtype=np.float64).reshape(len(rows), view["bins"], 4) / FULL


def test_a_lane_divides_each_bin_as_the_worker_divided_its_time(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    view = lanes_view(run)
    assert view is not None
    assert view["workers"] == [1, 2]
    assert 12 <= view["bins"] <= LANE_BINS
    told = shares(view)
    assert told.sum(axis=2) == pytest.approx(1.0, abs=0.02)
    middle = told[:, view["bins"] // 4 : view["bins"] // 2]
    # A step of 0.1 s beside one of 0.3 s: the fast worker is held back two thirds of its time.
    assert middle[0, :, 2].mean() == pytest.approx(2 / 3, abs=0.03)
    assert middle[1, :, 0].mean() == pytest.approx(1.0, abs=0.01)


def test_lanes_of_given_edges_are_of_that_time_alone(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    view = lanes_view(run, np.arange(20.0, 51.0))
    assert view is not None
    assert (view["begin"], view["bin"], view["bins"]) == (20.0, 1.0, 30)
    assert shares(view)[1, :, 0] == pytest.approx(1.0, abs=0.01)


def test_few_steps_are_drawn_one_by_one_and_there_is_no_closer_look(tmp_path: Path) -> None:
    run = a_run(tmp_path, steps=10)
    view = lanes_view(run)
    assert view is not None
    assert view["kind"] == "steps"
    held = [span for span in view["spans"][0] if span[2] == 2]
    assert len(held) == 10
    assert closer_view(run) is None


def test_a_closer_look_is_of_the_middle_or_of_the_end(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    middle, end = closer_view(run), closer_view(run, at_the_end=True)
    assert middle is not None
    assert end is not None
    assert middle["end"] < run.seconds * 0.8
    assert end["end"] == pytest.approx(run.seconds)
    for view in (middle, end):
        assert view["end"] - view["begin"] == pytest.approx(3.0, rel=0.1)  # ten steps of the slower
        pushes = [b for _, b, state in view["spans"][1] if state == 2]
        assert 8 <= len(pushes) <= 25


def test_nobody_is_gone_who_has_nothing_left_to_do(tmp_path: Path) -> None:
    events = simulate([lambda _: 0.1, lambda _: 0.3], steps=400, bound=None)
    resting = [
        {**e, "reason": "resting"} if e["event"] == "left" and e["worker"] == 1 else e
        for e in events
    ]
    done = {"t": events[-1]["t"] + 0.01, "event": "left", "worker": 1, "reason": "done"}
    run = read_run(write_run(tmp_path / "run", [*resting, done], {}, {"steps": 800}))
    view = lanes_view(run)
    assert view is not None
    assert "gone" not in [key["label"] for key in view["keys"]]
    assert shares(view)[:, :, 3].max() == 0.0
    assert run.tracks[0].done_s == pytest.approx(40.0, abs=0.1)


def test_who_was_lost_is_gone_until_it_comes_back(tmp_path: Path) -> None:
    lost = (
        {"t": 31.0, "event": "left", "worker": 2, "reason": "evicted"},
        {"t": 61.0, "event": "joined", "worker": 2, "incarnation": 2},
    )
    view = lanes_view(a_run(tmp_path, more=lost), np.arange(0.0, 101.0))
    assert view is not None
    assert "gone" in [key["label"] for key in view["keys"]]
    assert shares(view)[1, 32:59, 3] == pytest.approx(1.0)
    assert shares(view)[1, 62:90, 3].max() == 0.0


def test_lag_and_staleness_have_their_mean_and_bound_where_the_numbers_lie(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    lag, staleness = lag_view(run), staleness_view(run)
    assert lag is not None
    assert staleness is not None
    marks = {mark["label"].split()[0]: mark["x"] for mark in lag["marks"]}
    assert marks["bound"] == 2.0
    assert lag["starts"] == [0.0, 1.0, 2.0]
    assert sum(lag["shares"]) == pytest.approx(1.0, abs=0.02)
    mean = next(mark for mark in staleness["marks"] if mark["label"].startswith("mean"))
    assert mean["x"] == pytest.approx(1.0, abs=0.1)
    assert not mean["dash"]


def test_one_step_of_many_can_still_be_seen(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    run.tracks[0].steps.staleness[7] = 9
    view = staleness_view(run)
    assert view is not None
    assert view["shares"][9] == pytest.approx(1 / 800, rel=0.001)  # told as it is,
    assert view["least"] == LEAST_SEEN  # and drawn at least so high beside the highest


def test_shares_of_time_add_up(tmp_path: Path) -> None:
    view = shares_view(a_run(tmp_path))
    assert view is not None
    for row in view["rows"]:
        assert sum(row["shares"]) == pytest.approx(1.0, abs=0.001)
        assert len(row["shares"]) == len(view["keys"])


def test_speed_is_what_was_measured_or_what_was_recorded(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    recorded = speed_view(run)
    measured = speed_view(run, (np.array([1.0, 2.0]), np.array([10.0, 20.0])))
    assert recorded is not None
    assert measured is not None
    assert np.mean(recorded["series"][0]["y"]) == pytest.approx(800 / run.seconds, rel=0.05)
    assert measured["series"][0]["y"] == [10.0, 20.0]


def test_accuracies_that_differ_in_their_errors_are_drawn_by_them(tmp_path: Path) -> None:
    def evaluated(t: float, accuracy: float) -> Event:
        return {"t": t, "event": "evaluated", "epoch": 1, "accuracy": accuracy, "loss": 0.1}

    close = a_run(tmp_path / "a", more=(evaluated(2.0, 0.96), evaluated(3.0, 0.97)))
    wide = a_run(tmp_path / "b", more=(evaluated(2.0, 0.5), evaluated(3.0, 0.99)))
    assert accuracy_views(close)[0]["scale"] == "linear"
    assert accuracy_views(wide)[0]["scale"] == "errors"


def test_what_a_loop_logs_has_a_picture_for_each_name(tmp_path: Path) -> None:
    logged: list[Event] = [
        {"t": 2.0 + t, "event": "logged", "worker": worker, "step": t, "metrics": {"f1": 0.1 * t}}
        for worker in (1, 2)
        for t in range(5)
    ]
    (view,) = logged_views(a_run(tmp_path, more=tuple(logged)))
    assert view["title"] == "f1"
    assert [series["label"] for series in view["series"]] == ["worker 1", "worker 2"]
    assert view["series"][0]["y"] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_a_view_is_json_that_cannot_end_its_script(tmp_path: Path) -> None:
    change = {"t": 4.0, "event": "policy_changed", "policy": "</script><b>", "bound": None}
    view = {"sections": sections(a_run(tmp_path, more=(change,)))}
    written = as_script_data(view)
    assert "<" not in written
    assert json.loads(written) == json.loads(json.dumps(view))
    assert "</script><b>" in json.dumps(view)


def test_every_colour_of_a_view_is_one_of_the_style_sheet(tmp_path: Path) -> None:
    style = asset("page.css")
    for variable in PAGE_VARIABLES.values():
        assert f"{variable}: #" in style
