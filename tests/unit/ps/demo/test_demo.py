"""The demo: what it tells of two runs, as words, as a table and as a picture."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from leash.ps.demo.options import DemoOptions
from leash.ps.demo.outcome import SideOutcome, read_side
from leash.ps.demo.picture import draw_sides
from leash.ps.demo.side_screen import SIDES_WIDTH, BothSides, SideView, sides_table
from leash.ps.demo.sides import both_sides, machines_of
from leash.ps.demo.verdict import compared, verdict, waited
from leash.ps.errors import UsageError

SLOW_CURVE = ((4.0, 0.83), (8.0, 0.89), (12.0, 0.91))
FAST_CURVE = ((0.8, 0.82), (1.5, 0.89), (2.0, 0.92))


def outcome(curve: tuple[tuple[float, float], ...], wait: float, speed: float) -> SideOutcome:
    return SideOutcome(
        seconds=curve[-1][0], steps=270, steps_per_second=speed, waits=(wait, wait, 0.01),
        accuracies=curve,
    )  # fmt: skip


LOCKSTEP, LEASH = outcome(SLOW_CURVE, 0.86, 24.0), outcome(FAST_CURVE, 0.03, 130.0)


def state(**changes: Any) -> dict[str, Any]:
    rows = [
        {"worker": rank, "epoch": 2, "state": "live", "wait_fraction": share}
        for rank, share in ((1, 0.86), (2, 0.0), (3, None), (4, 1.0))
    ]
    return {
        "started": True, "finished": False, "missing": [], "table": rows, "epochs": 2,
        "planned_epochs": 6, "steps_per_second": 23.96, "train_seconds": 11.7,
        "test_accuracy": 0.91, "test_accuracy_by_epoch": [0.83, None, 0.91], **changes,
    }  # fmt: skip


# Both sides.


def test_both_sides_differ_in_nothing_but_the_policy_and_the_folder() -> None:
    lockstep, leash = both_sides(DemoOptions(slower=4), Path("out"))
    assert (lockstep.options.policy, leash.options.policy) == ("bsp", "asp")
    told = [vars(side.options) | {"policy": "", "run_dir": ""} for side in (lockstep, leash)]
    assert told[0] == told[1]
    assert lockstep.options.slow == "0.02,0.02,0.02,0.08"
    for side in (lockstep, leash):
        side.options.check()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"workers": 1}, "--workers 1: one machine waits for nobody; give at least 2"),
        ({"slower": 0.5}, "--slower 0.5: give a number from 1"),
        ({"slower": float("nan")}, "--slower nan: give a number from 1"),
        ({"epochs": 0}, "--epochs 0"),
        ({"picture": "demo.gif"}, "--picture demo.gif: give a name that ends in .svg"),
    ],
)
def test_a_wrong_option_is_refused_by_name(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as refused:
        DemoOptions(**wrong).check()
    assert str(refused.value).startswith(told)


def test_the_slow_machine_is_named_unless_there_is_none() -> None:
    assert "machine 3 is 2.5 times slower" in machines_of(DemoOptions(workers=3, slower=2.5))
    assert "all are equally fast" in machines_of(DemoOptions(slower=1))


# Their outcome.


def test_an_accuracy_counts_from_when_it_was_known(tmp_path: Path) -> None:
    events = [
        {"t": 5.0, "event": "started"},
        {"t": 5.5, "event": "step", "worker": 1, "step": 1},
        {"t": 6.0, "event": "epoch_completed", "epoch": 1},
        {"t": 6.5, "event": "evaluated", "epoch": 1, "accuracy": 0.8},
        {"t": 8.0, "event": "evaluated", "epoch": 2, "accuracy": None},
        {"t": 9.0, "event": "evaluated", "epoch": 3, "accuracy": 0.93},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    summary = {"train_seconds": 4.0, "steps": 10, "steps_per_second": 2.5,
               "wait_fraction_by_worker": {"10": 0.1, "2": None, "1": 0.3}}  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    side = read_side(tmp_path)
    assert side.accuracies == ((1.5, 0.8), (4.0, 0.93))
    assert (side.seconds_to(0.9), side.seconds_to(0.8), side.seconds_to(0.95)) == (4.0, 1.5, None)
    assert side.waits == (0.3, None, 0.1)


# In words.


def test_the_verdict_is_the_ratio_of_the_times_to_the_same_accuracy() -> None:
    assert verdict(LOCKSTEP, LEASH) == (
        "To 90 % of the test digits right: in lockstep 12.0 s, on the leash 2.0 s: 6.0 times as "
        "fast."
    )
    assert verdict(LEASH, LOCKSTEP).endswith("6.0 times as slow.")


def test_the_verdict_says_who_did_not_come_so_far() -> None:
    short = outcome(SLOW_CURVE[:2], 0.86, 24.0)
    speeds = "Steps a second: 24.0 in lockstep, 130.0 on the leash."
    assert verdict(short, LEASH) == (
        "On the leash it took 2.0 s to 90 % of the test digits right; lockstep did not come so "
        f"far. {speeds}"
    )
    too_short = outcome(FAST_CURVE[:1], 0.03, 130.0)
    assert verdict(LOCKSTEP, too_short).startswith("In lockstep it took 12.0 s")
    assert verdict(short, too_short) == (
        f"Neither came to 90 % of the test digits right: give more --epochs. {speeds}"
    )


def test_two_times_that_are_nearly_equal_are_told_as_equal() -> None:
    assert compared(1.04) == compared(0.96) == "about as fast"
    assert compared(1.2) == "1.2 times as fast"
    assert compared(0.5) == "2.0 times as slow"


def test_the_slow_machine_does_not_count_among_those_that_waited() -> None:
    assert waited(LOCKSTEP, LEASH) == (
        "The fast machines waited 86 % of their time in lockstep, 3 % on the leash."
    )


# On the screen.


def views() -> list[SideView]:
    lockstep, leash = (SideView(side) for side in both_sides(DemoOptions(), Path("out")))
    lockstep.note(state())
    return [lockstep, leash]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("shown", [state(), state(started=False, missing=[1, 2, 3, 4])])
def test_the_table_is_no_wider_than_the_terminal(shown: dict[str, Any], width: int) -> None:
    both = views()
    both[1].note(shown)
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(sides_table(both))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= min(width, SIDES_WIDTH)
    assert sum("machine" in line for line in lines) == 4


def test_the_table_shows_who_waits_and_when_the_target_was_reached() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(sides_table(views()))
    text = console.export_text()
    for words in ("in lockstep", "on the leash", "comes next", "machine 1 waits   █████████░ 86 %",
                  "machine 2 waits   ░░░░░░░░░░ 0 %", "machine 3 waits   –", "24.0", "91.00 %",
                  "90 % after        11.7 s"):  # fmt: skip
        assert words in text


def test_without_a_terminal_each_side_has_a_title_and_lines_and_the_table_comes_last() -> None:
    out = io.StringIO()
    with BothSides(both_sides(DemoOptions(), Path("out")), Console(file=out, width=80)) as both:
        for view in both.views:
            both.screen_of(view).show(state(started=False, missing=[2]))
        both.draw_at_last()
    lines = [line for line in out.getvalue().splitlines() if line.strip()]
    assert lines[:4] == [
        "in lockstep (bsp, equal shares)", "starting: waiting for worker 2",
        "on the leash (asp, leases)", "starting: waiting for worker 2",
    ]  # fmt: skip
    assert lines[4].split() == ["in", "lockstep", "on", "the", "leash"]


def test_on_a_terminal_a_line_says_of_which_side_it_is() -> None:
    out = io.StringIO()
    sides = both_sides(DemoOptions(), Path("out"))
    with BothSides(sides, Console(file=out, width=80, force_terminal=True)) as both:
        both.screen_of(both.views[1]).say("worker 2 was killed")
    assert "on the leash: worker 2 was killed" in out.getvalue()


# As a picture.


def test_the_picture_tells_both_times_and_how_many_times_faster(tmp_path: Path) -> None:
    draw_sides("Four machines.", LOCKSTEP, LEASH, tmp_path / "new" / "demo.svg")
    text = (tmp_path / "new" / "demo.svg").read_text("utf-8")
    for words in ("Four machines.", "12.0 s", "2.0 s", "6.0 times as fast", "machine 3", "waits"):
        assert words in text


def test_runs_that_came_nowhere_can_be_drawn(tmp_path: Path) -> None:
    nothing = SideOutcome(1.0, 0, 0.0, (None, None), ())
    draw_sides("Nothing.", nothing, nothing, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
