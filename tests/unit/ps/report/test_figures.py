"""What figures show: their data, not their pixels."""

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from matplotlib.figure import Figure

from leash.ps.report.analysis.histograms import histogram
from leash.ps.report.analysis.lanes import MAX_LANES, chosen_tracks, closer_window
from leash.ps.report.analysis.reading import read_run, read_runs
from leash.ps.report.analysis.run import Run
from leash.ps.report.analysis.series import accuracy, binned_mean, speed, training_loss
from leash.ps.report.analysis.settings import (
    differing_settings,
    effective,
    mattering_settings,
)
from leash.ps.report.analysis.spending import Spending
from leash.ps.report.pictures.bars import lag_picture, share_picture, staleness_picture
from leash.ps.report.pictures.curves import curve_pictures
from leash.ps.report.pictures.drawing import Key, Picture, new_figure, report_style, write_png
from leash.ps.report.pictures.lineup import line_up
from leash.ps.report.pictures.style import LINE_STYLES, PAGE_VARIABLES, RUN_COLORS, STATE_COLORS
from leash.ps.report.pictures.timeline import (
    LANE,
    lane_shapes,
    timeline_picture,
)
from support.runs import Event, simulate, write_run


def a_run(path: Path, **options: object) -> Path:
    events = simulate([lambda _: 0.1, lambda _: 0.3], steps=40, bound=2)
    return write_run(path, events, options, {"steps": 80})


def drawn(picture: Picture | None) -> list[object]:
    assert picture is not None
    with report_style():
        return list(picture.make(4.3).axes)


def test_speed_counts_all_steps(tmp_path: Path) -> None:
    run = read_run(a_run(tmp_path / "run"))
    t, per_s = speed(run)
    assert fmean(per_s) * run.seconds == pytest.approx(80)
    assert 0 < t[0] < t[-1] < run.seconds


def test_accuracy_is_of_the_evaluations_that_have_one(tmp_path: Path) -> None:
    events: list[Event] = simulate([lambda _: 0.1], steps=10, bound=0)
    for t, value in ((1.4, 0.5), (1.8, None), (2.0, 0.75)):
        events.append({"t": t, "event": "evaluated", "epoch": 1, "accuracy": value, "loss": 1.0})
    x, y = accuracy(read_run(write_run(tmp_path / "run", events)))
    assert x == pytest.approx([0.4, 1.0])
    assert y == pytest.approx([50, 75])


@pytest.mark.parametrize(
    ("reached", "ticks"),
    [
        ((0.78, 0.951, 0.984), [80, 90, 95, 98]),  # errors of 22 and 1.6 %
        ((0.78, 1.0), [80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99]),
        ((0.97, 0.975, 0.984), None),
        ((1.0,), None),
    ],
)
def test_accuracies_far_apart_are_drawn_by_their_errors(
    tmp_path: Path, reached: tuple[float, ...], ticks: list[float] | None
) -> None:
    events: list[Event] = simulate([lambda _: 0.1], steps=10, bound=0)
    for epoch, value in enumerate(reached, start=1):
        events.append({"t": 1.0 + 0.1 * epoch, "event": "evaluated", "epoch": epoch,
                       "accuracy": value, "loss": 1.0})  # fmt: skip
    run = write_run(tmp_path / "run", events)
    picture, *_ = curve_pictures(line_up([read_run(run)]))
    with report_style():
        (axis,) = picture.make(4.3).axes
    assert (axis.get_yscale() == "function") is (ticks is not None)
    if ticks is not None:
        assert axis.get_yticks().tolist() == ticks
        heights = axis.transData.transform([(0, 80), (0, 90), (0, 98), (0, 99)])[:, 1]
        assert heights[1] - heights[0] == pytest.approx(heights[3] - heights[2])


def test_training_loss_is_the_mean_of_what_the_workers_told(tmp_path: Path) -> None:
    events: list[Event] = simulate([lambda _: 1.0] * 2, steps=100, bound=0)
    for worker, loss in ((1, 2.0), (2, 4.0), (1, None)):
        events.append({"t": 51.0, "event": "training", "worker": worker, "step": 1, "loss": loss,
                       "compute_s": 1.0, "wait_s": 0.0})  # fmt: skip
    x, y = training_loss(read_run(write_run(tmp_path / "run", events)))
    assert (x.tolist(), y.tolist()) == ([50.0], [3.0])


def test_a_bins_mean_is_that_of_its_own_values() -> None:
    t, means = binned_mean(np.array([0.1, 0.3, 2.5]), np.array([1.0, 3.0, 7.0]), np.arange(4.0))
    assert t == pytest.approx([0.2, 2.5])
    assert means == pytest.approx([2.0, 7.0])


@pytest.mark.parametrize("largest", [0, 1, 39, 40, 1000])
def test_a_histogram_loses_no_step(largest: int) -> None:
    values = np.arange(largest + 1, dtype=np.float64)
    found = histogram(values, largest)
    assert found is not None
    assert found.shares.sum() == pytest.approx(1)
    assert len(found.shares) <= 41
    assert found.mean == pytest.approx(largest / 2)


def test_an_empty_histogram_is_none() -> None:
    assert histogram(np.empty(0), 3) is None


def test_a_lane_is_divided_as_the_time_was() -> None:
    half, full = np.array([0.5, 0.0]), np.array([0.5, 1.0])
    shapes = lane_shapes(Spending(full, half * 0, half, half * 0), np.array([0.0, 1, 2]), lane=3)
    (held_back,) = shapes["held back"]
    assert sorted({float(y) for _, y in held_back}) == pytest.approx([3.0, 3 + LANE / 2])
    assert {float(x) for x, _ in held_back} == {0.0, 1.0}
    (computing,) = shapes["computing"]
    assert sorted({float(y) for _, y in computing}) == pytest.approx(
        [3 - LANE / 2, 3.0, 3 + LANE / 2]
    )
    assert shapes["gone"] == []


def test_the_closer_look_lies_within_the_run(tmp_path: Path) -> None:
    run = read_run(a_run(tmp_path / "run"))
    window = closer_window(run, run.tracks)
    assert window is not None
    assert 0 <= window[0] < window[1] <= run.seconds
    assert window[1] - window[0] == pytest.approx(10 * 0.3, rel=0.1)


def test_a_crowd_is_thinned_evenly(tmp_path: Path) -> None:
    events = simulate([lambda _: 1.0] * 200, steps=1, bound=0)
    ranks = [track.worker for track in chosen_tracks(read_run(write_run(tmp_path / "r", events)))]
    assert len(ranks) == MAX_LANES
    assert (ranks[0], ranks[-1]) == (1, 200)


def test_every_worker_has_a_lane_and_every_run_a_bar(tmp_path: Path) -> None:
    runs = read_runs([a_run(tmp_path / "a", lr=1.0), a_run(tmp_path / "b", lr=2.0)])
    (axis,) = drawn(timeline_picture(runs[0]))
    assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "2"]  # type: ignore[attr-defined]
    (axis,) = drawn(share_picture(line_up(runs)))
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]  # type: ignore[attr-defined]
    assert len(drawn(staleness_picture(line_up(runs)))) == len(drawn(lag_picture(line_up(runs))))


def some_runs(tmp_path: Path, settings: list[dict[str, object]]) -> list[Run]:
    return read_runs([a_run(tmp_path / f"r{i}", **c) for i, c in enumerate(settings)])


def test_seeds_of_the_same_settings_share_a_colour(tmp_path: Path) -> None:
    runs = some_runs(
        tmp_path, [{"lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (1, 2, 3)]
    )
    shown = line_up(runs)
    assert [s.label for s in shown] == ["lr 0.1"] * 3 + ["lr 0.2"] * 3
    assert len({s.color for s in shown[:3]}) == len({s.color for s in shown[3:]}) == 1
    assert shown[0].color != shown[3].color


def test_many_runs_are_told_apart_by_colour_and_line(tmp_path: Path) -> None:
    shown = line_up(some_runs(tmp_path, [{"lr": float(i)} for i in range(12)]))
    assert len({(s.color, str(s.line)) for s in shown}) == 12
    assert len(RUN_COLORS) * len(LINE_STYLES) >= 24


def test_settings_that_differ_are_those_and_no_bookkeeping(tmp_path: Path) -> None:
    runs = some_runs(tmp_path, [
        {"lr": 0.1, "epochs": 3, "data_dir": "a"}, {"lr": 0.2, "epochs": 3, "local_steps": "8"},
    ])  # fmt: skip
    assert differing_settings(runs) == {"lr": ["0.1", "0.2"], "local_steps": ["–", "8"]}


def test_settings_that_matter_are_the_usual_and_the_changed(tmp_path: Path) -> None:
    (run,) = some_runs(tmp_path, [{"lr": 0.1, "codec": "bf16", "nesterov": False, "eps": None}])
    mattering = mattering_settings(run, {"lr": 0.1, "codec": "f32", "nesterov": False})
    assert mattering == {"policy": "ssp", "bound": "2", "lr": "0.1", "codec": "bf16"}


def test_every_colour_of_a_figure_has_another_in_the_dark() -> None:
    assert {*RUN_COLORS, *STATE_COLORS.values()} <= PAGE_VARIABLES.keys()


def test_a_name_in_a_picture_is_never_a_formula(tmp_path: Path) -> None:
    name = "a $\\frac$ <b> & name\u2603"

    def make(width_in: float) -> Figure:
        figure, (axis,) = new_figure(width_in, 2)
        axis.set_title(name)
        return figure

    with report_style():
        write_png(Picture("p", name, make, (Key(name, RUN_COLORS[0]),)), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


TRAINED = simulate([lambda _: 0.1] * 2, steps=5, bound=2)
OF_A_SCRIPT: Event = {
    "script": "train.py", "batch_size": 32, "codec": "f32", "device": "cpu", "model": None,
    "dataset": None, "epochs": 3, "lr": 0.1, "seed": 2,
}  # fmt: skip


def test_what_a_script_decides_itself_is_no_setting_of_its_run(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", TRAINED, OF_A_SCRIPT, {}))
    assert effective(run).keys() == {"script", "lr", "seed", "policy", "bound"}
    shown = mattering_settings(run, {})
    assert shown["script"] == "train.py"
    assert "batch_size" not in shown
    other = {**OF_A_SCRIPT, "script": None, "dataset": "digits"}
    assert effective(read_run(write_run(tmp_path / "own", TRAINED, other, {})))["batch_size"] == 32


def test_runs_differ_in_what_they_train_by_and_not_in_how_they_are_watched(tmp_path: Path) -> None:
    watched: Event = {
        "page": True, "page_at": "127.0.0.1:29580", "log": "csv", "report": True, "run_dir": "a",
        "state_fd": 7, "fresh": True, "demo_logs": True, "python": "py", "sync": "d",
        "address": "box", "port": 9, "bind": "tcp://*:1", "keys": "k",
    }  # fmt: skip
    runs = [
        read_run(write_run(tmp_path / name, TRAINED, options, {}))
        for name, options in (
            ("a", {"lr": 0.1, "timeout_s": 5.0, **watched}),
            ("b", {"lr": 0.2, "timeout_s": 9.0, **dict.fromkeys(watched)}),
        )
    ]
    assert differing_settings(runs).keys() == {"lr", "timeout_s"}
    assert not effective(runs[0]).keys() & watched.keys()
