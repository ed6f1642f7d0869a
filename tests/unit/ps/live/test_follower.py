"""Following the events of a run while somebody writes them."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import pytest

from leash.ps._core import Record
from leash.ps.live.follower import MOST_STEPS_PER_S, WINDOW_S, RunFollower
from leash.ps.policy import ASP, Rule
from leash.ps.report.analysis.reading import read_run
from leash.ps.runs.events import EventLog
from leash.ps.shard.metrics import Metrics
from support.runs import Event, simulate, write_run

SUMMARY: Event = {"steps": 1}

Follow: TypeAlias = Callable[..., RunFollower]


@pytest.fixture
def follow() -> Iterator[Follow]:
    with ExitStack() as stack:

        def make(*args: Any, **options: Any) -> RunFollower:
            return stack.enter_context(closing(RunFollower(*args, **options)))

        yield make


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def reply(step: int) -> Record:
    """The answer to worker 1."""
    return cast(
        Record,
        SimpleNamespace(worker=1, step=step, lag=0, staleness=0, dropped=False, at_s=step / 1e4),
    )


def append(path: Path, events: list[Event]) -> None:
    with (path / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def test_what_is_followed_bit_by_bit_is_what_is_read_at_once(
    tmp_path: Path, follow: Follow
) -> None:
    events = simulate([lambda _: 0.1, lambda _: 0.3], steps=100, bound=3)
    whole = write_run(tmp_path / "whole", events)
    (tmp_path / "grows").mkdir()
    follower = follow(tmp_path / "grows", Clock(), keeps_all=True)
    assert not follower.poll()  # there is no file yet
    for start in range(0, len(events), 7):
        append(tmp_path / "grows", events[start : start + 7])
        assert follower.poll()
        follower.run(SUMMARY)  # looking changes nothing
    run, expected = follower.run({}), read_run(whole)
    assert run.seconds == expected.seconds
    for track, other in zip(run.tracks, expected.tracks, strict=True):
        assert track.present == other.present
        assert track.reasons == other.reasons
        assert track.steps.replied_s.tolist() == other.steps.replied_s.tolist()
        assert track.steps.lag.tolist() == other.steps.lag.tolist()


def test_a_line_counts_once_it_is_written_to_its_end(tmp_path: Path, follow: Follow) -> None:
    follower = follow(tmp_path, Clock())
    line = json.dumps({"t": 1.0, "event": "joined", "worker": 1, "incarnation": 1}) + "\n"
    (tmp_path / "events.jsonl").write_text(line[:20])
    assert not follower.poll()
    (tmp_path / "events.jsonl").write_text(line)
    assert follower.poll()
    assert [event["worker"] for event in follower.told] == [1]


def test_a_damaged_line_costs_that_line(tmp_path: Path, follow: Follow) -> None:
    follower = follow(tmp_path, Clock())
    (tmp_path / "events.jsonl").write_bytes(b'\xff{"t": nonsense\n{"t": 1.0, "event": "started"}\n')
    follower.poll()
    assert [event["event"] for event in follower.told] == ["started"]


def test_the_next_server_of_a_run_begins_a_file_of_its_own(tmp_path: Path, follow: Follow) -> None:
    follower = follow(tmp_path, Clock())
    append(tmp_path, simulate([lambda _: 0.1], steps=50, bound=None))
    follower.poll()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"t": 99.0, "event": "left", "wor')  # it was killed
    (tmp_path / "events.jsonl").rename(tmp_path / "events-1.jsonl")
    assert not follower.poll()
    append(tmp_path, simulate([lambda _: 0.1, lambda _: 0.2], steps=5, bound=None))
    assert follower.poll()
    run = follower.run(SUMMARY)
    assert [len(track.steps.step) for track in run.tracks] == [5, 5]


def test_only_the_last_minutes_are_kept_of_a_run_that_goes_on(
    tmp_path: Path, follow: Follow
) -> None:
    follower = follow(tmp_path, Clock())
    events = simulate([lambda _: 0.1], steps=20_000, bound=None)
    for start in range(0, len(events), 5000):
        append(tmp_path, events[start : start + 5000])
        follower.poll()
    run = follower.run(SUMMARY)
    (track,) = run.tracks
    kept_s = run.seconds - track.steps.replied_s[0]
    assert WINDOW_S <= kept_s < 1.5 * WINDOW_S
    assert track.present[0][0] == pytest.approx(run.seconds - WINDOW_S)


def test_of_very_many_steps_only_some_are_read_and_that_is_said(
    tmp_path: Path, follow: Follow
) -> None:
    clock = Clock()
    follower = follow(tmp_path, clock)
    events = simulate([lambda _: 0.0001] * 2, steps=5000, bound=None)
    append(tmp_path, events[:4000])
    follower.poll()
    assert follower.run(SUMMARY).step_events == 1
    clock.s = 2.1  # 2,000 steps in 2.1 s are few enough; 10,000 in 0.1 s would not be
    append(tmp_path, events[4000 : 4000 + 6 * MOST_STEPS_PER_S])
    follower.poll()
    append(tmp_path, events[4000 + 6 * MOST_STEPS_PER_S :])
    clock.s = 2.2
    follower.poll()
    assert follower.run(SUMMARY).step_events == 10


def test_of_very_many_events_all_are_read_that_are_no_steps(tmp_path: Path, follow: Follow) -> None:
    clock = Clock()
    follower = follow(tmp_path, clock)
    steps = simulate([lambda _: 0.0001] * 2, steps=MOST_STEPS_PER_S * 15, bound=None)
    append(tmp_path, steps[:-2000])
    follower.poll()
    clock.s = 2.5
    follower.poll()  # it knows now how many they are
    before = {track.worker: len(track.steps.step) for track in follower.run(SUMMARY).tracks}
    metrics = {"step": 10.0, "event": 3.0, "push": 1.0}  # names that people may take
    t = steps[-1]["t"]
    others: list[Event] = [
        {"t": t, "event": "training", "worker": 1, "step": 7, "loss": 0.5, "compute_s": 1.0,
         "wait_s": 2.0},
        {"t": t, "event": "logged", "worker": 1, "step": 3, "metrics": metrics},
        {"t": t, "event": "joined", "worker": 3, "incarnation": 5, "name": ', "event": "push"'},
        {"t": t, "event": "evaluated", "epoch": 1, "accuracy": 0.5, "loss": 1.0},
    ]  # fmt: skip
    append(tmp_path, [*steps[-2000:-1000], *others, *steps[-1000:]])
    follower.poll()
    run = follower.run(SUMMARY)
    assert [dict(row.metrics) for row in run.logged] == [metrics]
    assert [track.worker for track in run.tracks] == [1, 2, 3]
    assert (run.evaluations[0].accuracy, run.tracks[0].accounts.loss.tolist()) == (0.5, [0.5])
    for track in run.tracks[:2]:
        new = track.steps.step[before[track.worker] :].tolist()
        expected = {e["step"] for e in steps[-2000:]
                    if e["worker"] == track.worker and e["event"] == "step"}  # fmt: skip
        assert new == sorted(step for step in expected if step % run.step_events == 0)


def test_the_steps_that_are_kept_are_found_in_what_the_server_writes(
    tmp_path: Path, follow: Follow
) -> None:
    clock = Clock()
    follower = follow(tmp_path, clock)
    log = EventLog(tmp_path / "events.jsonl", now=clock)
    metrics = Metrics(Rule(ASP, None), log, step_events=1, now=clock)
    metrics.join(1, 7, "one", first_step=1)
    metrics.start([1])

    def take(steps: range) -> None:
        for step in steps:
            metrics.count_push(1, step=step, samples=1, at_s=step / 1e4)
            metrics.count_reply(reply(step))
        log.flush()
        follower.poll()

    many = 3 * MOST_STEPS_PER_S
    take(range(1, many))
    clock.s = 2.1
    take(range(many, many + 1))
    take(range(many + 1, many + 101))
    log.close()
    run = follower.run(SUMMARY)
    assert run.step_events == 10
    expected = [*range(1, many + 1), *range(many + 10, many + 101, 10)]
    assert run.tracks[0].steps.step.tolist() == expected
