import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps._core import Record
from leash.ps.errors import HeaderError, SegmentError, StoppingError
from leash.ps.policy import ASP, Rule
from leash.ps.runs.demo_logs import DemoLogs
from leash.ps.runs.events import EventLog
from leash.ps.runs.position import Position, SharePosition
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.worker_counts import WorkerCounts
from leash.ps.wire.messages import Report


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    made = Metrics(Rule(ASP, None), EventLog(None), step_events=1, now=clock)
    made.join(1, 7, "one", first_step=1)
    made.start([1])
    return made


def report(kind: str = "training", **fields: float) -> Report:
    values = {"loss": 0.5, "accuracy": 0.0, "compute_s": 0.0, "wait_s": 0.0, **fields}
    worker = 0 if kind == "evaluation" else 1
    return Report(worker, 7, kind, 1, 1, 1, **values)


def test_the_time_of_training_ends_with_the_last_worker(metrics: Metrics, clock: Clock) -> None:
    clock.now_s += 8
    metrics.end()
    clock.now_s += 100
    assert metrics.train_seconds == 8


def test_it_goes_on_when_a_worker_comes_back(metrics: Metrics, clock: Clock) -> None:
    clock.now_s += 8
    metrics.end()
    clock.now_s += 2
    metrics.join(1, 8, "one again", first_step=5)
    clock.now_s += 5
    assert metrics.train_seconds == 15


def test_waiting_is_shared_out_over_all_incarnations_of_a_rank(metrics: Metrics) -> None:
    metrics.report(report(compute_s=6.0, wait_s=2.0))
    metrics.join(1, 8, "one again", first_step=5)
    metrics.report(report(compute_s=0.0, wait_s=2.0))
    assert metrics.summary()["wait_fraction_by_worker"] == {"1": 0.4}


def test_before_anything_is_known_of_a_workers_time_its_waiting_is_unknown(
    metrics: Metrics,
) -> None:
    metrics.count_push(1, step=1, samples=5, at_s=0.0)
    summary = metrics.summary()
    assert (summary["wait_fraction"], summary["wait_fraction_by_worker"]) == (None, {"1": None})
    assert metrics.worker_state(1)["wait_fraction"] is None


def test_the_waiting_of_one_that_reports_nothing_is_what_the_server_sees(
    metrics: Metrics, clock: Clock
) -> None:
    """Its first step is none to go by: what it did before that is not known."""
    for step in range(1, 4):
        metrics.count_push(1, step=step, samples=5, at_s=clock.now_s)
        clock.now_s += 3
        metrics.count_reply(answer(at_s=clock.now_s))
        clock.now_s += 1
    assert metrics.summary()["wait_fraction_by_worker"] == {"1": 0.75}
    metrics.report(report(compute_s=1.0, wait_s=1.0))
    assert metrics.summary()["wait_fraction_by_worker"] == {"1": 0.5}


def test_the_waiting_of_all_is_that_of_their_time_together(metrics: Metrics) -> None:
    metrics.join(2, 8, "two", first_step=1)
    metrics.report(report(compute_s=6.0, wait_s=2.0))
    metrics.report(replace(report(compute_s=1.0, wait_s=1.0), worker=2))
    summary = metrics.summary()
    assert summary["wait_fraction_by_worker"] == {"1": 0.25, "2": 0.5}
    assert summary["wait_fraction"] == 0.3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_has_no_number_for_is_null(metrics: Metrics, value: float) -> None:
    metrics.evaluate(report("evaluation", accuracy=math.nan, loss=value))
    metrics.epoch = 1
    summary = metrics.summary()
    assert summary["test_accuracy"] is summary["test_loss"] is None
    assert summary["test_accuracy_by_epoch"] == [None]
    json.dumps(summary, allow_nan=False)


def test_a_lack_of_memory_is_told_without_the_place_where_it_was_noticed(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(error: Exception) -> None:
        raise error

    metrics.attempt("a checkpoint failed", partial(fail, MemoryError()))
    assert [r.getMessage() for r in caplog.records] == [
        "out of memory: a checkpoint failed; the run goes on"
    ]
    assert caplog.records[0].exc_info is None
    metrics.attempt("a checkpoint failed", partial(fail, KeyError("a defect")))
    assert caplog.records[1].exc_info is not None


def test_what_a_normal_run_has_is_no_refusal(metrics: Metrics) -> None:
    metrics.count_refusal(StoppingError("SIGTERM"))
    metrics.count_refusal(SegmentError("of another container"))
    metrics.count_refusal(HeaderError("what is this?"))
    assert metrics.summary()["refused_messages"] == 1


def test_reports_become_events_once_a_second(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "events.jsonl"
    events = EventLog(path, now=clock)
    metrics = Metrics(Rule(ASP, None), events, step_events=0, now=clock)
    metrics.join(1, 7, "one", first_step=1)
    for _ in range(10):
        metrics.report(report(loss=math.nan, compute_s=0.25, wait_s=0.5))
        clock.now_s += 0.25
    events.close()
    training = [row for row in map(json.loads, path.read_text().splitlines())
                if row["event"] == "training"]  # fmt: skip
    assert [row["t"] for row in training] == [0.0, 1.0, 2.0]
    assert training[0] == {
        "t": 0.0, "event": "training", "worker": 1, "step": 1, "samples": 1, "loss": None,
        "compute_s": 0.25, "wait_s": 0.5,
    }  # fmt: skip


def test_samples_are_answered_with_the_reply(metrics: Metrics) -> None:
    counts = metrics.workers[1]
    metrics.count_push(1, step=1, samples=5, at_s=0.0)
    assert (counts.answered, counts.unanswered) == (0, 5)
    metrics.count_reply(answer())
    assert (counts.answered, counts.unanswered) == (5, 0)


def test_the_demos_logs_get_every_step_report_epoch_and_evaluation(
    tmp_path: Path, clock: Clock
) -> None:
    logs = DemoLogs(tmp_path, "M")
    metrics = Metrics(Rule(ASP, None), EventLog(None), 0, clock, logs)
    metrics.join(1, 7, "one", first_step=1)
    metrics.start([1])
    for number, (samples, staleness) in enumerate(((5, 2), (3, 0)), start=1):
        metrics.count_push(1, step=number, samples=samples, at_s=0.0)
        metrics.count_reply(answer(staleness=staleness))
    metrics.report(replace(report(loss=2.0), epoch=0, samples=5))
    metrics.report(replace(report("epoch", loss=4.0), epoch=1, samples=8))
    clock.now_s += 8
    metrics.complete(1)
    metrics.evaluate(replace(report("evaluation", accuracy=0.75), epoch=1))
    logs.close()
    assert (tmp_path / "stalenessM.txt").read_text() == "0\t1\t5\t2\n0\t1\t3\t0\n"
    line = "0\t2.75\t1.0\t8.0\t8.0\t0\t75.0000%\n"
    assert (tmp_path / "trainlossM.txt").read_text() == line


def test_what_a_process_has_no_answer_for_is_not_its_successors(metrics: Metrics) -> None:
    metrics.count_push(1, step=1, samples=5, at_s=0.0)
    metrics.join(1, 8, "one again", first_step=2)
    assert metrics.workers[1].unanswered == 0


def answer(staleness: int = 0, at_s: float = 0.0) -> Record:
    return cast(
        Record,
        SimpleNamespace(worker=1, step=1, lag=0, staleness=staleness, dropped=False, at_s=at_s),
    )


# How far a rank is in a share of its own.


def train(counts: WorkerCounts, samples: int) -> None:
    """So many of its samples are answered."""
    counts.answered += samples


def test_a_rank_is_as_far_in_its_share_as_its_samples_were_answered() -> None:
    counts = WorkerCounts()
    counts.plan(3, 50)
    assert counts.position == SharePosition(0, 0, 50)
    train(counts, 20)
    assert counts.position == SharePosition(0, 20, 50)
    train(counts, 40)
    assert counts.position == SharePosition(1, 10, 50)  # before it has reported the first epoch
    counts.complete(1)
    assert counts.position == SharePosition(1, 10, 50)


def test_one_that_has_told_no_plan_has_no_share() -> None:
    counts = WorkerCounts()
    train(counts, 20)
    assert counts.position.share == 0


def test_a_rank_goes_on_where_the_run_before_was_and_counts_from_there() -> None:
    counts = WorkerCounts()
    counts.begin_again()
    counts.go_on(SharePosition(2, 20, 50))
    assert counts.position == SharePosition(2, 20, 50)
    counts.plan(4, 50)
    assert counts.position == SharePosition(2, 20, 50)
    train(counts, 30)
    assert counts.position == SharePosition(3, 0, 50)
    counts.complete(3)
    assert (counts.epochs_left, counts.samples_left) == ([4], 50)


def test_a_share_of_another_size_begins_with_the_whole_of_the_next_epoch() -> None:
    counts = WorkerCounts()
    counts.go_on(SharePosition(2, 20, 50))
    counts.plan(4, 60)
    assert counts.position == SharePosition(2, 0, 60)
    train(counts, 30)
    assert counts.position == SharePosition(2, 30, 60)
    assert (counts.epochs_left, counts.samples_left) == ([3, 4], 90)


def test_a_rank_of_which_only_the_epoch_is_known_begins_with_the_whole_of_the_next() -> None:
    counts = WorkerCounts()
    counts.go_on(SharePosition(2))
    counts.plan(4, 60)
    train(counts, 30)
    assert counts.position == SharePosition(2, 30, 60)


def test_one_that_comes_in_place_of_another_goes_on_with_its_samples() -> None:
    counts = WorkerCounts()
    counts.plan(3, 50)
    train(counts, 20)
    counts.begin_again()
    counts.plan(3, 50)
    assert counts.position == SharePosition(0, 20, 50)


def test_an_epoch_that_a_process_did_not_live_to_report_is_complete_all_the_same() -> None:
    counts = WorkerCounts()
    counts.plan(3, 50)
    train(counts, 70)
    counts.begin_again()
    assert counts.position == SharePosition(1, 20, 50)
    counts.plan(3, 60)  # and its successor, whose share is another, begins behind it
    assert counts.position == SharePosition(1, 0, 60)
    assert counts.epochs_left == [2, 3]


def test_an_epoch_that_is_reported_after_an_eviction_counts_once() -> None:
    """The same process: it is evicted between its last answer and the report of the epoch."""
    counts = WorkerCounts()
    counts.plan(3, 50)
    train(counts, 50)
    counts.begin_again()
    counts.complete(1)
    train(counts, 20)
    assert counts.position == SharePosition(1, 20, 50)
    assert (counts.epochs_left, counts.samples_left) == ([2, 3], 80)


@given(
    share=st.integers(1, 60),
    batch=st.integers(1, 60),
    begins=st.tuples(st.integers(0, 2), st.integers(0, 59)),
    happens=st.lists(st.sampled_from(["step", "late step", "again", "evicted"]), max_size=40),
)
def test_a_rank_is_where_a_count_of_its_samples_has_it(
    share: int, batch: int, begins: tuple[int, int], happens: list[str]
) -> None:
    """Whenever epochs are reported, and whoever takes its place: against a plain count."""
    epochs, samples = begins[0], begins[1] % share
    counts = WorkerCounts()
    counts.begin_again()
    counts.go_on(SharePosition(epochs, samples, share))
    counts.plan(100, share)
    unreported = []
    for what in happens:
        if what in ("again", "evicted"):
            counts.begin_again()
            if what == "again":  # another process, which knows nothing of what was not reported
                unreported.clear()
                counts.plan(100, share)
        else:
            taken = min(batch, share - samples)
            train(counts, taken)
            samples += taken
            if samples == share:
                epochs, samples = epochs + 1, 0
                unreported.append(epochs)
            if what == "step":
                while unreported:
                    counts.complete(unreported.pop(0))
        assert counts.position == SharePosition(epochs, samples, share)


# Going on where another run was.


def test_a_run_that_goes_on_tells_the_position_of_ranks_that_have_not_come_yet(
    clock: Clock,
) -> None:
    metrics = Metrics(Rule(ASP, None), EventLog(None), step_events=1, now=clock)
    shares = {1: SharePosition(2, 20, 50), 2: SharePosition(3, 0, 50)}
    metrics.go_on(Position(5, 2, shares))
    assert (metrics.epoch, metrics.shares()) == (2, shares)
    assert metrics.position_of(1) == SharePosition()  # before it has joined, nobody asks
    metrics.join(1, 7, "one", first_step=1)
    assert metrics.position_of(1) == shares[1]
    assert metrics.shares() == shares
    metrics.count_push(1, step=1, samples=5, at_s=0.0)
    metrics.count_reply(answer())
    assert metrics.shares() == {1: SharePosition(2, 25, 50), 2: shares[2]}
    metrics.join(1, 8, "one again", first_step=5)
    assert metrics.position_of(1) == SharePosition(2, 25, 50)


def test_a_run_that_goes_on_and_ends_before_any_plan_is_as_far_as_the_one_before(
    clock: Clock,
) -> None:
    metrics = Metrics(Rule(ASP, None), EventLog(None), step_events=1, now=clock)
    shares = {1: SharePosition(2), 2: SharePosition(2)}
    metrics.go_on(Position(5, 2, shares))
    for worker in (1, 2):
        metrics.join(worker, 7, "", first_step=1)
    assert metrics.shares() == shares


def test_workers_without_plans_have_no_shares(metrics: Metrics) -> None:
    metrics.count_push(1, step=1, samples=5, at_s=0.0)
    metrics.count_reply(answer())
    metrics.report(report("epoch"))
    assert metrics.shares() == {}


def test_a_speed_is_told_as_soon_as_there_are_samples(metrics: Metrics, clock: Clock) -> None:
    assert metrics.worker_state(1)["samples_per_s"] == 0.0
    clock.now_s += 0.5
    metrics.count_push(1, step=1, samples=20, at_s=clock.now_s)
    assert metrics.worker_state(1)["samples_per_s"] == 40.0
    clock.now_s += 0.5
    assert metrics.worker_state(1)["samples_per_s"] == 20.0
