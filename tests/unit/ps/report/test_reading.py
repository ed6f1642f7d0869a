from pathlib import Path

import numpy as np
import pytest

from leash.ps.errors import UsageError
from leash.ps.report.analysis.paces import paces
from leash.ps.report.analysis.reading import read_run, read_runs
from leash.ps.report.analysis.run import Run
from leash.ps.report.analysis.spending import spending, spent
from support.runs import Event, simulate, write_run


def run_of(tmp_path: Path, events: list[Event], **files: Event) -> Run:
    return read_run(write_run(tmp_path / "run", events, **files))


def two_unequal(steps: int = 10) -> list[Event]:
    return simulate([lambda _: 0.1, lambda _: 0.3], steps, bound=0)


def test_times_count_from_the_start_of_the_training(tmp_path: Path) -> None:
    run = run_of(tmp_path, two_unequal())
    first, second = run.tracks
    assert first.steps.pushed_s[0] == pytest.approx(0.1)
    assert first.steps.replied_s[0] == pytest.approx(0.3)
    assert second.done_s == pytest.approx(3.0)
    assert run.seconds == pytest.approx(3.0)
    assert run.steps_at(np.array([0.2, 0.31, 3.0])) == pytest.approx([1, 2, 20])


def test_a_steps_own_time_is_from_a_reply_to_the_next_push(tmp_path: Path) -> None:
    run = run_of(tmp_path, two_unequal())
    assert paces(run)[1].own_s == pytest.approx([0.1] * 9)
    assert paces(run)[2].own_s == pytest.approx([0.3] * 9)


def test_time_is_shared_out_between_computing_and_being_held_back(tmp_path: Path) -> None:
    done = spent(run_of(tmp_path, two_unequal()))
    assert done[1].share("held_back") == pytest.approx(2 / 3)
    assert done[1].share("computing") == pytest.approx(1 / 3)
    assert done[2].share("held_back") == pytest.approx(0.0, abs=1e-9)


def test_every_bin_has_its_own_share(tmp_path: Path) -> None:
    """A tick of 0.3 s: worker 1 computes for the first 0.1 s of it, and waits for the rest."""
    run = run_of(tmp_path, two_unequal())
    done = spending(run, run.tracks[0], np.array([0.0, 0.1, 0.2, 0.3, 0.45]))
    assert done.computing == pytest.approx([0.1, 0.0, 0.0, 0.1])
    assert done.held_back == pytest.approx([0.0, 0.1, 0.1, 0.05])


def test_what_a_worker_waits_beyond_the_servers_waiting_is_exchanging(tmp_path: Path) -> None:
    """It computes 0.1 s and says so; half of what it takes for a step is on the way."""
    events = simulate([lambda _: 0.2], steps=100, bound=0)
    for second in range(1, 20):
        events.append({
            "t": 1.0 + second, "event": "training", "worker": 1, "step": 5 * second, "samples": 1,
            "loss": 1.0, "compute_s": 0.5 * second, "wait_s": 0.5 * second,
        })  # fmt: skip
    events.sort(key=lambda event: float(event["t"]))
    done = spent(run_of(tmp_path, events))[1]
    assert done.share("exchanging") == pytest.approx(0.5, abs=0.03)
    assert done.share("held_back") == pytest.approx(0.0, abs=1e-6)


def test_a_worker_that_comes_back_was_gone_in_between(tmp_path: Path) -> None:
    events = two_unequal(steps=3)[:4]
    events += [
        {"t": 2.0, "event": "left", "worker": 2, "reason": "evicted"},
        {"t": 5.0, "event": "joined", "worker": 2, "incarnation": 9},
        {"t": 9.0, "event": "left", "worker": 1, "reason": "done"},
        {"t": 9.0, "event": "left", "worker": 2, "reason": "done"},
    ]
    done = spent(run_of(tmp_path, events))
    assert done[2].gone.sum() == pytest.approx(3.0)
    assert done[1].gone.sum() == 0


def test_a_reply_to_a_process_before_this_one_is_not_its_own(tmp_path: Path) -> None:
    events = two_unequal(steps=3)[:4]
    events += [
        {"t": 2.0, "event": "push", "worker": 1, "step": 1},
        {"t": 3.0, "event": "left", "worker": 1, "reason": "replaced"},
        {"t": 3.0, "event": "joined", "worker": 1, "incarnation": 9},
        {"t": 4.0, "event": "step", "worker": 1, "step": 1, "lag": 0, "staleness": 0},
    ]
    assert len(run_of(tmp_path, events).tracks[0].steps.step) == 0


def test_a_changed_policy_and_dropped_gradients_are_known(tmp_path: Path) -> None:
    events = two_unequal(steps=3)
    place = next(i for i, event in enumerate(events) if event["event"] == "step")
    events[place] = {**events[place], "dropped": True}
    events.append({"t": 3.0, "event": "policy_changed", "policy": "ssp", "bound": 5})
    run = run_of(tmp_path, events)
    assert [(c.t, c.policy, c.bound) for c in run.changes] == [(2.0, "ssp", 5)]
    assert sum(track.steps.dropped for track in run.tracks) == 1


def test_a_killed_servers_last_line_may_be_half(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", two_unequal())
    with (path / "events.jsonl").open("a") as file:
        file.write('{"t": 9.0, "eve')
    run = read_run(path)
    assert run.is_cut
    assert run.steps == 20


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"t": 1}', '{"t": 1, "event": "push"}'])
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: str) -> None:
    path = write_run(tmp_path / "run", two_unequal())
    with (path / "events.jsonl").open("a") as file:
        file.write(line + "\n")
    number = len((path / "events.jsonl").read_text().splitlines())
    with pytest.raises(UsageError, match=f"line {number} is no event"):
        read_run(path)


def test_settings_that_are_none_are_named(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", two_unequal())
    (path / "config.yaml").write_text("a: [")
    with pytest.raises(UsageError, match=r"config.yaml: no file of settings"):
        read_run(path)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        write_run(tmp_path / folder / "run", two_unequal())
    names = [run.name for run in read_runs(tmp_path / f / "run" for f in ("first", "second"))]
    assert names == ["first/run", "second/run"]


def test_the_scale_of_time_is_known(tmp_path: Path) -> None:
    assert run_of(tmp_path, two_unequal(), options={"time_scale": 0.1}).scale == 0.1


def test_what_workers_log_is_there_with_its_step_and_time(tmp_path: Path) -> None:
    events = two_unequal()
    zero_s = next(e["t"] for e in events if e["event"] == "started")
    metrics = {"loss": 0.5, "worse": "nan", "worst": "-inf"}
    row = {"t": zero_s + 1.0, "event": "logged", "worker": 2, "step": 4, "metrics": metrics}
    (logged,) = run_of(tmp_path, [*events, row]).logged
    assert (logged.t, logged.worker, logged.step) == (pytest.approx(1.0), 2, 4)
    assert list(logged.metrics) == ["loss", "worse", "worst"]
    assert np.array_equal(list(logged.metrics.values()), [0.5, np.nan, -np.inf], equal_nan=True)
