import io
import re
from typing import Any

import pytest
from rich.console import Console

from leash.ps.commands.accuracy_rows import sparks
from leash.ps.commands.live_screen import LiveScreen, Screen, screen_for
from leash.ps.commands.run_table import MAX_WIDTH, plain_line, result_lines, run_table, with_summary
from leash.ps.words import SMALLER_RATE, duration

SUMMARY = {
    "epochs": 3, "steps": 4810, "samples": 481_000, "train_seconds": 63.4,
    "steps_per_second": 75.94, "test_accuracy": 0.9563, "test_loss": 0.1,
    "test_accuracy_by_epoch": [0.87, None, 0.9563], "max_lag": 3,
    "steps_by_worker": {"1": 2405, "2": 2405}, "wait_fraction": 0.255,
    "wait_fraction_by_worker": {"1": 0.5, "2": 0.01},
}  # fmt: skip


def row(worker: int, **changes: Any) -> dict[str, Any]:
    return {
        "worker": worker, "step": 1200 + worker, "epoch": 3, "lag": worker - 1, "samples": 120_000,
        "samples_per_s": 2342.4, "loss": 0.12345, "wait_fraction": 0.1 * worker,
        "name": f"workstation-with-a-long-name:{4000 + worker}", "state": "live", "silence_s": 0.1,
        **changes,
    }  # fmt: skip


def state(**changes: Any) -> dict[str, Any]:
    return {
        **SUMMARY, "policy": "ssp", "bound": 3, "model": "mnist_cnn", "dataset": "mnist",
        "planned_epochs": 10, "started": True, "finished": False, "stopping": "", "missing": [],
        "table": [row(1), row(2, state="evicted"), row(3), row(4, loss=None)], **changes,
    }  # fmt: skip


WAITING = state(
    started=False, missing=[2, 3], table=[row(1, step=0)], test_accuracy_by_epoch=[],
    test_accuracy=None,
)  # fmt: skip


def drawn(what: Any, width: int = 80, *, color: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=color, record=True)
    console.print(what)
    return console.export_text(styles=color)


COLUMNS = ["worker", "process", "state", "epoch", "step", "lag", "waiting", "samples/s", "loss"]
LONG = state(table=[row(1), row(2, state="replaced", step=1_234_567, samples_per_s=123_456.7)],
             test_accuracy_by_epoch=[0.9 + n / 300 for n in range(20)])  # fmt: skip


@pytest.mark.parametrize("width", [50, 60, 72, 80, 120])
@pytest.mark.parametrize("shown", [state(), WAITING, state(finished=True), LONG])
def test_no_line_is_wider_than_the_terminal_and_no_column_is_cut(
    shown: dict[str, Any], width: int
) -> None:
    lines = drawn(run_table(shown), width).splitlines()
    assert max(map(len, lines)) <= min(width, MAX_WIDTH)
    header = next(line for line in lines if line.strip().startswith("worker")).split()
    assert header == [name for name in COLUMNS if name in header]
    assert {"worker", "state", "step", "lag", "waiting"} <= set(header)
    if width >= 80:
        assert header == COLUMNS
    # The name of a process alone may be cut.
    cut = [line for line in lines if "…" in line]
    assert all("workstation"[:4] in line for line in cut)
    assert not cut or "process" in header


def test_a_narrow_terminal_shows_fewer_epochs_and_whole_words() -> None:
    lines = drawn(run_table(LONG), 60).splitlines()
    (figures,) = (line for line in lines if line.startswith("test accuracy %"))
    assert figures.split()[-1] == "96.33"
    assert len(figures.split()) == 3 + 6
    assert "lag: steps ahead of the slowest" in lines


def test_the_curve_is_on_the_scale_of_all_epochs_so_that_a_point_is_no_cliff() -> None:
    # 97.5 after 98.3, of a run that is at its end.
    assert sparks([0.983, 0.975]) == ["█", "▇"]
    assert sparks([0.5, 0.75, 1.0]) == ["▁", "▅", "█"]
    assert sparks([0.2] + [0.983, 0.975] * 4)[1:] == ["█"] * 8
    assert sparks([None, 0.5, 0.1]) == [" ", "█", "▁"]
    assert sparks([None]) == [" "]


def test_a_speed_that_is_not_known_yet_is_a_dash() -> None:
    shown = state(table=[row(1, samples=0, samples_per_s=0.0)])
    assert re.search(r"–\s+0\.1235", drawn(run_table(shown)))


def test_a_running_run_shows_its_rule_its_task_its_speed_and_its_workers() -> None:
    text = drawn(run_table(state()), 120)
    for words in ("ssp(3)  mnist_cnn on mnist", "1:03  75.9 steps/s", "epoch 4 of 10  ━━",
                  "workstation-with-a-long-name:4001", "evicted", "1203", "30 %", "2342", "0.1235",
                  "87.00  -  95.63"):  # fmt: skip
        assert words in text


def test_a_waiting_run_shows_whom_it_waits_for() -> None:
    text = drawn(run_table(WAITING))
    assert "starting: waiting for workers 2-3" in text
    assert text.count("awaited") == 2
    assert "steps/s" not in text
    assert "test accuracy" not in text


def test_a_run_that_lacks_only_its_evaluator_says_so() -> None:
    shown = {**WAITING, "missing": []}
    assert "waiting for the evaluator" in drawn(run_table(shown))


def test_a_finished_run_says_so() -> None:
    assert "finished after 3 epochs" in drawn(run_table(state(finished=True)))


def test_a_stopping_run_says_why() -> None:
    assert "ending: its time was over" in drawn(run_table(state(stopping="timeout")))


def test_only_the_newest_eight_epochs_are_listed() -> None:
    text = drawn(run_table(state(test_accuracy_by_epoch=[n / 100 for n in range(20)])))
    assert "19.00" in text
    assert "12.00" in text
    assert "11.00" not in text


def test_a_lag_at_its_bound_is_coloured_and_a_smaller_one_is_not() -> None:
    def colours(lag: int, bound: int | None) -> bool:
        shown = state(table=[row(1, lag=lag, wait_fraction=0.0)], bound=bound)
        return "\x1b[1;33m" in drawn(run_table(shown), color=True)

    assert colours(3, 3)
    assert not colours(2, 3)
    assert not colours(0, 0)  # bsp
    assert not colours(9, None)  # asp


def test_a_run_without_names_and_plan_can_be_drawn() -> None:
    shown = state(model=None, dataset=None, planned_epochs=None, policy="asp", bound=None)
    assert "epoch 4" in drawn(run_table(shown))


def test_the_plain_line_says_it_all_in_one() -> None:
    assert plain_line(state()) == (
        "epoch 4 of 10, 4810 steps, 75.9/s, lags 0 2 3, test accuracy 95.63 %"
    )
    assert plain_line(WAITING) == "starting: waiting for workers 2-3"
    assert plain_line({**WAITING, "missing": [2]}) == "starting: waiting for worker 2"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0:00"), (63.4, "1:03"), (3723, "1:02:03"), (36000, "10:00:00")]
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_last_picture_has_the_figures_of_the_summary() -> None:
    last = with_summary(state(table=[row(1), row(2)]), {**SUMMARY, "ended": "done", "epochs": 10})
    assert last["finished"]
    assert [(r["step"], r["state"], r["epoch"]) for r in last["table"]] == [(2405, "done", 10)] * 2
    assert "finished after 10 epochs" in drawn(run_table(last))


def test_the_last_picture_of_an_interrupted_run_says_what_ended_it() -> None:
    last = with_summary(state(table=[row(1)]), {**SUMMARY, "ended": "SIGINT"})
    assert not last["finished"]
    assert "ending: stopped by Ctrl-C" in drawn(run_table(last))


LEFT = {"worker": 2, "state": "evicted", "epochs": "2-5", "samples": 4365}
MISSING = "worker 2 (evicted): epochs 2-5 of its share, 4365 samples"


def test_the_last_picture_of_a_run_that_is_not_done_says_what_is_missing() -> None:
    live = state(table=[row(1), row(2)])  # as it stood when the state was last asked for
    last = with_summary(live, {**SUMMARY, "ended": "incomplete", "unfinished": [LEFT]})
    assert f"over, but not done: {MISSING}" in drawn(run_table(last), width=100)
    assert [r["state"] for r in last["table"]] == ["done", "evicted"]
    assert "finished after" not in drawn(run_table(last))


def test_the_result_of_a_run_that_is_not_done_says_what_is_missing() -> None:
    lines = result_lines({**SUMMARY, "ended": "incomplete", "unfinished": [LEFT]})
    assert lines[:2] == ["ended early     incomplete", f"not trained     {MISSING}"]


def test_gradients_that_were_left_out_are_told_of() -> None:
    lines = result_lines({**SUMMARY, "ended": "done", "dropped_pushes": 5, "nonfinite_chunks": 3})
    assert "dropped         5 gradients of chunks, too stale" in lines
    assert f"not finite      3 gradients of chunks; {SMALLER_RATE}" in lines


def test_the_result_names_accuracy_speed_waiting_and_lag() -> None:
    assert result_lines({**SUMMARY, "ended": "done"}) == [
        "test accuracy   95.63 %",
        "speed           75.9 steps/s (4810 steps in 63.4 s)",
        "waiting         26 % of the workers' time, from a push to its answer (worker 1: 50 %, "
        "worker 2: 1 %)",
        "largest lag     3 steps ahead of the slowest",
    ]
    ended = {**SUMMARY, "ended": "timeout"}
    assert result_lines(ended, 10)[0] == "ended early     its time was over, in epoch 4 of 10"


def test_what_was_used_twice_is_told_of() -> None:
    lines = result_lines({**SUMMARY, "ended": "done", "samples_twice": 7})
    assert "used twice      7 samples, after a worker had gone" in lines


@pytest.mark.parametrize(
    "word",
    ["live", "resting", "done", "awaited", "timeout", "stopped", "evicted", "replaced", "failed"],
)
def test_every_state_of_a_worker_is_shown_in_a_style_of_its_own(word: str) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system="standard")
    console.print(run_table(state(table=[row(1, state=word)])))
    assert re.search(rf"\x1b\[[0-9;]+m{word}", out.getvalue())


def test_one_that_rests_takes_part_and_is_done_in_the_end() -> None:
    shown = state(table=[row(1), row(2, state="resting")])
    assert "resting" in drawn(run_table(shown))
    last = with_summary(shown, {**SUMMARY, "ended": "done"})
    assert [r["state"] for r in last["table"]] == ["done", "done"]


def test_without_a_terminal_a_line_comes_with_every_epoch_and_every_ten_seconds() -> None:
    out, now = io.StringIO(), [0.0]
    screen = Screen(Console(file=out, width=80), now=lambda: now[0])
    for now[0], shown in [
        (0.0, WAITING),
        (0.5, WAITING),
        (1.0, state(epochs=0, steps=1)),
        (2.0, state(epochs=0, steps=2)),
        (2.9, state(epochs=1, steps=3)),  # too soon
        (3.0, state(epochs=1, steps=4)),
        (5.0, state(epochs=2, steps=5)),
        (14.9, state(epochs=2, steps=6)),
        (15.0, state(epochs=2, steps=7)),
    ]:
        screen.show(shown)
    starts = [line.split(", ")[:2] for line in out.getvalue().splitlines()]
    assert starts == [
        ["starting: waiting for workers 2-3"],
        ["epoch 1 of 10", "1 steps"],
        ["epoch 2 of 10", "4 steps"],
        ["epoch 3 of 10", "5 steps"],
        ["epoch 3 of 10", "7 steps"],
    ]


def test_a_terminal_gets_a_live_table_and_keeps_what_was_said() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with screen_for(console) as screen:
        assert isinstance(screen, LiveScreen)
        screen.show(WAITING)
        screen.say("worker 2 was killed")
        screen.show(state())
    assert "worker 2 was killed" in out.getvalue()
    shown_cursor = "\x1b[?25h\n"
    assert out.getvalue().endswith(f"\n{shown_cursor}")  # what comes next stands apart
    assert "samples/s" in out.getvalue()
    assert not isinstance(screen_for(Console(file=io.StringIO())), LiveScreen)


def test_several_shards_are_told_of() -> None:
    assert "2 shards" in drawn(run_table(state(shards=2)))
    assert "shard" not in drawn(run_table(state(shards=1)))


def test_what_cannot_be_written_is_shown_while_a_run_goes_on_and_in_its_result() -> None:
    told = ["checkpoints: No space left on device", "events.jsonl: Read-only file system"]
    shown = state(not_written=told)
    text = drawn(run_table(shown))
    for line in told:
        assert f"cannot write {line}" in text
        assert f"cannot write {line}" in plain_line(shown)
    trouble = {"why": "No space left on device", "times": 3}
    summary = {
        **SUMMARY, "ended": "done", "events_missing": 312,
        "not_written": {
            "checkpoints": {**trouble, "lasts": False}, "events.jsonl": {**trouble, "lasts": True}
        },
    }  # fmt: skip
    lines = result_lines(summary)
    assert "not written     events.jsonl: No space left on device" in lines
    assert "missing         312 events, which could not be written" in lines
    assert not any("checkpoints" in line for line in lines)
    assert not any("written" in line for line in result_lines({**SUMMARY, "ended": "done"}))


def test_refused_connections_are_told_where_there_are_any() -> None:
    told = "3 connections, for want of a key that the server knows"
    assert f"refused: {told}" in drawn(run_table(state(refused_connections=3)))
    assert "refused" not in drawn(run_table(state(refused_connections=0)))
    summary = {**SUMMARY, "ended": "done", "refused_connections": 3}
    assert f"refused         {told}" in result_lines(summary)
