"""The view of several runs side by side, beside what is known of each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leash.ps.page.curves import speed_view
from leash.ps.page.keys import run_key
from leash.ps.page.several import sections_of_several
from leash.ps.page.view import as_script_data, asset
from leash.ps.report.analysis.reading import read_runs
from leash.ps.report.analysis.run import Run
from leash.ps.report.pictures.lineup import line_up
from leash.ps.report.pictures.style import LINE_STYLES, RUN_COLORS
from support.runs import Event, simulate, write_run

DONE: Event = {"ended": "done", "steps": 80}


def events(
    *reached: float, slow: float = 0.3, bound: int | None = 2, loss: float | None = 0.5
) -> list[Event]:
    """Two workers, of which one is slow, and an evaluation each second."""
    made = simulate([lambda _: 0.1, lambda _: slow], steps=40, bound=bound)
    made += [
        {"t": 2.0 + i, "event": "evaluated", "epoch": i + 1, "accuracy": value, "loss": loss}
        for i, value in enumerate(reached)
    ]
    return sorted(made, key=lambda e: float(e["t"]))


def runs_of(path: Path, **made: tuple[list[Event], Event, Event]) -> list[Run]:
    return read_runs([
        write_run(path / name, of_run, options, summary)
        for name, (of_run, options, summary) in made.items()
    ])  # fmt: skip


def pictures(runs: list[Run]) -> dict[str, dict[str, Any]]:
    parts = sections_of_several(line_up(runs))
    json.loads(as_script_data({"sections": parts}))
    made = [picture for part in parts for picture in part["pictures"]]
    assert len({picture["name"] for picture in made}) == len(made)
    return {picture["name"]: picture for picture in made}


def two(path: Path) -> list[Run]:
    return runs_of(
        path, fast=(events(0.5, 0.9, slow=0.2), {"lr": 1.0}, DONE),
        slow=(events(0.5, 0.6, 0.7, bound=None), {"lr": 2.0}, DONE),
    )  # fmt: skip


def test_a_run_has_its_values_and_one_line_in_every_curve(tmp_path: Path) -> None:
    runs = two(tmp_path)
    shown = pictures(runs)
    accuracy = shown["accuracy-over-time"]
    assert [s["y"] for s in accuracy["series"]] == [[50, 90], [50, 60, 70]]
    assert [s["x"] for s in accuracy["series"]] == [[1, 2], [1, 2, 3]]
    assert accuracy["end"] == pytest.approx(max(run.seconds for run in runs))
    keys = [run_key(s) for s in line_up(runs)]
    for name in ("accuracy-over-time", "accuracy-over-steps", "loss-over-time", "speed"):
        lines = [{key: s[key] for key in keys[0]} for s in shown[name]["series"]]
        assert lines == keys
        assert shown[name]["keys"] == []  # the page has one legend for all
    in_steps = runs[0].steps_at(np.array([1.0, 2.0]))
    assert in_steps is not None
    assert shown["accuracy-over-steps"]["series"][0]["x"] == in_steps.tolist()


def test_runs_that_differ_in_the_seed_alone_share_a_line(tmp_path: Path) -> None:
    made = {
        f"r{lr:.0f}{seed}": (events(0.5), {"lr": lr, "seed": seed}, DONE)
        for lr in (1.0, 2.0)
        for seed in (1, 2)
    }
    series = pictures(runs_of(tmp_path, **made))["accuracy-over-time"]["series"]
    assert [s["label"] for s in series] == ["lr 1"] * 2 + ["lr 2"] * 2
    assert series[0]["color"] == series[1]["color"] != series[2]["color"] == series[3]["color"]


def test_many_runs_are_told_apart_by_colour_and_dashes(tmp_path: Path) -> None:
    made = {f"r{i}": (events(0.5), {"lr": float(i)}, DONE) for i in range(9)}
    series = pictures(runs_of(tmp_path, **made))["accuracy-over-time"]["series"]
    assert len({(s["color"], tuple(s["dash"])) for s in series}) == 9
    assert all(f"{s['color']}: #" in asset("page.css") for s in series)
    assert len(RUN_COLORS) * len(LINE_STYLES) > 9


def test_times_of_scaled_runs_are_at_full_scale(tmp_path: Path) -> None:
    runs = runs_of(
        tmp_path, whole=(events(0.5, 0.9), {"lr": 1.0}, DONE),
        scaled=(events(0.5, 0.9), {"lr": 2.0, "time_scale": 0.1}, DONE),
    )  # fmt: skip
    shown = pictures(runs)
    accuracy, speed = shown["accuracy-over-time"], shown["speed"]
    assert [s["x"] for s in accuracy["series"]] == [[1, 2], [10, 20]]
    assert accuracy["time_is"] == "time at full scale"
    assert accuracy["end"] == pytest.approx(10 * runs[1].seconds)
    alone = speed_view(runs[0])
    assert alone is not None
    assert speed["series"][0]["y"] == alone["series"][0]["y"]
    slower = [y / 10 for y in alone["series"][0]["y"]]
    assert speed["series"][1]["y"] == pytest.approx(slower, rel=1e-4)


def test_a_run_without_a_curve_is_named(tmp_path: Path) -> None:
    told: Event = {"t": 5.0, "event": "training", "worker": 1, "step": 1, "loss": 0.25,
                   "compute_s": 1.0, "wait_s": 0.0}  # fmt: skip
    trained = sorted([*events(), told], key=lambda e: float(e["t"]))
    shown = pictures(runs_of(
        tmp_path, tested=(events(0.5), {"lr": 1.0}, DONE), trained=(trained, {"lr": 2.0}, DONE),
        neither=(events(), {"lr": 3.0}, DONE),
    ))  # fmt: skip
    accuracy, loss = shown["accuracy-over-time"], shown["loss-over-time"]
    assert accuracy["note"] == "Unknown of trained and neither."
    assert [s["y"] for s in loss["series"]] == [[0.5], [0.25]]
    assert loss["note"] == (
        "Test loss, but of trained training loss; mean per sample. Unknown of neither."
    )


def test_lanes_have_axes_of_one_length_and_say_who_ended_early(tmp_path: Path) -> None:
    runs = runs_of(
        tmp_path, whole=(events(slow=0.5), {"lr": 1.0}, DONE),
        early=(events()[:40], {"lr": 2.0}, {**DONE, "ended": "SIGINT"}),
        killed=(events()[:40], {"lr": 3.0}, {}),
    )  # fmt: skip
    shown = pictures(runs)
    lanes = [shown[f"lanes-{number}"] for number in (1, 2, 3)]
    assert [lane["title"] for lane in lanes] == [
        "Workers of whole", "Workers of early, which ended early", "Workers of killed",
    ]  # fmt: skip
    assert {lane["end"] for lane in lanes} == {max(run.seconds for run in runs)}
    assert not any(lane["wide"] for lane in lanes)


def test_the_steps_of_a_run_that_was_short_beside_another_are_not_drawn_one_by_one(
    tmp_path: Path,
) -> None:
    runs = runs_of(
        tmp_path, long=(events(slow=0.9), {"lr": 1.0}, DONE),
        half=(events(slow=0.5), {"lr": 2.0}, DONE), short=(events(), {"lr": 3.0}, DONE),
    )  # fmt: skip
    shown = pictures(runs)
    assert [shown[f"lanes-{n}"]["kind"] for n in (1, 2, 3)] == ["steps", "steps", "lanes"]
    assert shown["lanes-3"]["bin"] * shown["lanes-3"]["bins"] == pytest.approx(runs[2].seconds)
    assert shown["lanes-3"]["end"] == runs[0].seconds


def test_histograms_have_common_bars_and_each_run_its_own_bound(tmp_path: Path) -> None:
    shown = pictures(two(tmp_path))
    lag = shown["lag"]
    assert [row["bound"] for row in lag["rows"]] == [2, None]
    assert lag["rows"][0]["about"].endswith(", bound 2")
    assert "The bound is the dashed line." in lag["note"]
    for view in (lag, shown["staleness"]):
        for row in view["rows"]:
            assert len(row["shares"]) == len(view["starts"])
            assert sum(row["shares"]) == pytest.approx(1, abs=0.01)
    assert not any(row["bound"] for row in shown["staleness"]["rows"])
    # Of the slower run nobody waits: its fast worker is far ahead.
    assert sum(lag["rows"][0]["shares"][3:]) == 0 < sum(lag["rows"][1]["shares"][3:])


def test_shares_of_time_are_of_whole_runs_and_say_what_is_unknown(tmp_path: Path) -> None:
    told: Event = {"t": 5.0, "event": "training", "worker": 1, "step": 1, "loss": 0.25,
                   "compute_s": 1.0, "wait_s": 0.0}  # fmt: skip
    exact = sorted([*events(), told], key=lambda e: float(e["t"]))
    runs = runs_of(
        tmp_path, exact=(exact, {"lr": 1.0}, {**DONE, "wait_fraction": 0.4}),
        vague=(events(), {"lr": 2.0}, {**DONE, "wait_fraction": 0.25}),
        nothing=([e for e in events() if e["event"] not in ("push", "step")][:4], {"lr": 3.0}, {}),
    )  # fmt: skip
    shares = pictures(runs)["time-shares"]
    assert [(row["label"], row["value"]) for row in shares["rows"]] == [
        ("exact", "40 %"), ("vague", "25 %"),
    ]  # fmt: skip
    assert [sum(row["shares"]) for row in shares["rows"]] == pytest.approx([1, 1])
    assert len(shares["keys"]) == 3
    assert "Unknown of nothing." in shares["note"]
    assert "All waiting of vague is shown as held back" in shares["note"]


def logs(*rows: tuple[float, int, dict[str, float]]) -> list[Event]:
    """The events of two workers, and what their loops log: second, worker and metrics."""
    told: list[Event] = [
        {"t": 1.0 + t, "event": "logged", "worker": worker, "step": 1, "metrics": metrics}
        for t, worker, metrics in rows
    ]
    return sorted([*events(), *told], key=lambda e: float(e["t"]))


def test_what_loops_logged_stands_side_by_side(tmp_path: Path) -> None:
    """Of both workers it is the mean, at the mean of their times; a NaN is a gap."""
    runs = runs_of(
        tmp_path, one=(logs((2.0, 1, {"f1": 0.2}), (2.0, 2, {"f1": 0.4}), (4.0, 1, {"f1": 0.8})),
                       {"lr": 1.0}, DONE),
        other=(logs((3.0, 1, {"f1": 0.5, "rouge <b>": 7.0}), (5.0, 1, {"f1": float("nan")})),
               {"lr": 2.0}, DONE),
        none=(events(), {"lr": 3.0}, DONE),
    )  # fmt: skip
    shown = pictures(runs)
    f1, rouge = shown["logged-f1"], shown["logged-rouge <b>"]
    assert f1["title"] == "f1"
    assert [s["x"] for s in f1["series"]] == [[2, 4], [3, 5]]
    assert [s["y"] for s in f1["series"]] == [[0.3, 0.8], [0.5, None]]
    assert f1["note"] == "Mean of each run's workers. Unknown of none."
    keys = [run_key(s) for s in line_up(runs)]
    assert [{key: s[key] for key in keys[0]} for s in f1["series"]] == keys[:2]
    assert [s["color"] for s in rouge["series"]] == [keys[1]["color"]]
    assert rouge["note"] == "Unknown of one and none."


def test_no_more_than_a_dozen_names_are_drawn(tmp_path: Path) -> None:
    many = logs((2.0, 1, {f"m{number}": 1.0 for number in range(40)}))
    shown = pictures(runs_of(tmp_path, a=(many, {"lr": 1.0}, DONE), b=(many, {"lr": 2.0}, DONE)))
    assert [name for name in shown if name.startswith("logged-")] == [
        f"logged-m{number}" for number in range(12)
    ]
