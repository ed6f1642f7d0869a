"""Diagnoses of runs whose slowness is known, because the test made it."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import pytest

from leash.ps.report.analysis.diagnosis import Diagnosis, diagnose
from leash.ps.report.analysis.reading import read_run
from support.runs import Event, simulate, write_run


def steady(seconds: float) -> Callable[[int], float]:
    return lambda _: seconds


def exponential(mean_s: float, seed: int) -> Callable[[int], float]:
    draw = random.Random(seed)
    return lambda _: draw.expovariate(1 / mean_s)


def of(
    tmp_path: Path, events: Sequence[Event], options: Event | None = None, steps: int = 100
) -> Diagnosis:
    return diagnose(read_run(write_run(tmp_path / "run", events, options, {"steps": steps})))


def test_a_lastingly_slow_worker_is_named_with_its_factor_and_a_cure(tmp_path: Path) -> None:
    times = [steady(0.1), steady(0.1), steady(0.1), steady(0.31)]
    told = of(tmp_path, simulate(times, steps=100, bound=3))
    assert told.kind == "persistent"
    assert told.slow_workers == (4,)
    assert told.headline == (
        "worker 4 is persistently 3.1 × slower: bounds cannot hide that; "
        "try --policy asp, --local-steps auto or --batch-plan weighted"
    )


OWN_LOOP: Event = {"script": "train.py --lr 0.1", "model": None, "dataset": None}
OF_A_SERVER: Event = {"model": None, "dataset": None}


@pytest.mark.parametrize(("options", "advice"), [
    ({"model": "mnist_cnn", "dataset": None},
     "; try --policy asp, --local-steps auto or --batch-plan weighted"),
    ({"data_plan": "static"},
     "; try --data-plan lease with --policy asp, --local-steps auto or --batch-plan weighted"),
    ({"hetero_allocation": "1-1-1-2"},
     "; try without --hetero-allocation --policy asp, --local-steps auto or --batch-plan weighted"),
    ({"local_steps": "auto"}, ", nor could its plan; try --policy asp"),
    ({"batch_plan": "weighted"}, ", nor could its plan; try --policy asp"),
    (OWN_LOOP, "; try --policy asp with a LeaseSampler in your loop or --local-steps auto with it "
               "and PSOptimizer(inner=…)"),
    (OF_A_SERVER, "; try --policy asp with a LeaseSampler in your loop or --local-steps auto with "
                  "it and PSOptimizer(inner=…)"),
    ({**OWN_LOOP, "local_steps": "auto"},
     ", nor could its plan; try --policy asp with a LeaseSampler in your loop"),
])  # fmt: skip
def test_advice_is_only_what_a_run_can_take(
    tmp_path: Path, options: Event, advice: str
) -> None:  # fmt: skip
    times = [steady(0.1), steady(0.1), steady(0.1), steady(0.31)]
    told = of(tmp_path, simulate(times, steps=100, bound=3), options)
    start = "worker 4 is persistently 3.1 × slower: bounds cannot hide that"
    assert told.headline == start + advice


def test_a_run_that_went_over_to_asp_is_not_told_to(tmp_path: Path) -> None:
    times = [steady(0.1), steady(0.1), steady(0.1), steady(0.31)]
    events = simulate(times, steps=100, bound=3)
    change: Event = {"t": 20.0, "event": "policy_changed", "policy": "asp", "bound": None}
    told = of(tmp_path, sorted([*events, change], key=lambda event: float(event["t"])))
    assert told.headline.endswith("; try --local-steps auto or --batch-plan weighted")


@pytest.mark.parametrize("bound", [3, None])
def test_a_short_run_does_not_tell_whether_a_slowness_lasts(
    tmp_path: Path, bound: int | None
) -> None:
    """All is as in longer runs, but over in 3.1 s; with a time scale it stands for 31 s."""
    events = simulate([steady(0.01)] * 3 + [steady(0.031)], steps=100, bound=bound)
    short = of(tmp_path, events)
    assert (short.kind, short.slow_workers) == ("unknown", (4,))
    assert short.headline == (
        "worker 4 is so far 3.1 × slower: 3.1 s of training are too few to tell whether that lasts"
    )
    assert "lastingly" not in " ".join(short.details)
    assert of(tmp_path / "scaled", events, {"time_scale": 0.1}).kind == "persistent"


@pytest.mark.parametrize("bound", [0, 3])
def test_in_lockstep_all_wait_for_the_slowest(tmp_path: Path, bound: int) -> None:
    """Each tick takes 0.4 s, of which the workers need 0.1, 0.2 and 0.4 s."""
    times = [steady(0.1), steady(0.2), steady(0.4)]
    told = of(tmp_path, simulate(times, steps=400, bound=bound))
    expected = 1 - fmean([0.1, 0.2, 0.4]) / 0.4
    assert told.costs.held == pytest.approx(expected, abs=0.01)
    assert told.costs.persistent == pytest.approx(expected, abs=0.01)
    assert told.costs.transient < 0.01


def test_several_slow_workers_share_a_sentence(tmp_path: Path) -> None:
    times = [steady(0.1)] * 4 + [steady(0.2), steady(0.25), steady(0.4)]
    told = of(tmp_path, simulate(times, steps=60, bound=0))
    assert told.headline.startswith("workers 5, 6 and 7 are persistently 2.0 to 4.0 × slower: ")


def test_beside_one_fast_worker_nobody_is_slow_but_it_waits(tmp_path: Path) -> None:
    told = of(tmp_path, simulate([steady(0.1), steady(0.5), steady(0.5)], steps=60, bound=0))
    assert told.slow_workers == ()
    assert told.headline.startswith("worker 1 is persistently 5.0 × faster: bounds cannot hide")


def test_steps_that_stumble_call_for_a_larger_bound(tmp_path: Path) -> None:
    times = [exponential(0.2, seed) for seed in range(10)]
    told = of(tmp_path, simulate(times, steps=300, bound=0))
    assert told.kind == "transient"
    assert "stumble now and then" in told.headline
    assert told.headline.endswith("a larger bound hides that; try --policy ssp --bound 10")
    # bsp's limit for exponential steps: the mean of 10 over the mean of their largest, 1 / H(10).
    assert told.costs.held == pytest.approx(1 - 1 / sum(1 / k for k in range(1, 11)), abs=0.02)
    assert told.costs.transient > 0.8 * told.costs.held


def test_both_kinds_are_told_apart_in_one_run(tmp_path: Path) -> None:
    times = [*(exponential(0.2, seed) for seed in range(5)), exponential(0.5, 9)]
    told = of(tmp_path, simulate(times, steps=300, bound=0))
    assert told.kind == "both"
    assert told.slow_workers == (6,)
    assert "bounds cannot hide that" in told.headline
    assert "Besides, steps stumble now and then" in told.headline


def test_what_was_slow_in_one_half_is_not_called_persistent(tmp_path: Path) -> None:
    times = [steady(0.1), steady(0.1), lambda step: 0.1 if step <= 150 else 0.4]
    told = of(tmp_path, simulate(times, steps=200, bound=0))
    assert told.headline.startswith("worker 3 is in the second half of the run 4.0 × slower: ")


def test_even_workers_are_left_in_peace(tmp_path: Path) -> None:
    told = of(tmp_path, simulate([steady(0.1), steady(0.105)], steps=100, bound=3))
    assert told.kind == "none"
    assert told.headline == (
        "no worker is slow: a step takes every worker about the same time (100 ms to 105 ms), and "
        "they were held back for 4 % of their time"
    ).replace("for 4 %", f"for {100 * told.costs.held:.0f} %")


def test_fixed_shares_under_asp_leave_the_fast_idle_at_the_end(tmp_path: Path) -> None:
    """Two workers are done after 10 s, the third after 30 s: 40 of 90 s are lost."""
    events = simulate([steady(0.1), steady(0.1), steady(0.3)], steps=100, bound=None)
    told = of(tmp_path, events, {"data_plan": "static"})
    assert told.kind == "persistent"
    assert told.costs.done_early == pytest.approx(40 / 90, abs=0.01)
    assert told.headline == (
        "worker 3 is persistently 3.0 × slower: the others had done their shares of the data up "
        "to 20 s before the end; try --data-plan lease"
    )
    told = of(tmp_path / "own", events, {**OWN_LOOP, "data_plan": "static"})
    assert told.headline.endswith(
        "; try --data-plan lease with a LeaseSampler in your loop, if it has none"
    )


def test_a_slow_worker_that_costs_nothing_is_told_calmly(tmp_path: Path) -> None:
    """Under asp each does steps as fast as it can, and all end at about the same time."""
    events = [
        event
        for event in simulate([steady(0.1), steady(0.1), steady(0.3)], steps=100, bound=None)
        if event["t"] <= 11 and event["event"] != "left"
    ]
    told = of(tmp_path, events)
    assert told.kind == "none"
    assert told.headline == (
        "worker 3 is persistently 3.0 × slower, and this run copes: 0 % of the workers' time was "
        "lost to it"
    )


def test_advice_that_was_taken_already_is_not_given_again(tmp_path: Path) -> None:
    events = simulate([steady(0.1), steady(0.1), steady(0.4)], steps=60, bound=0)
    told = of(tmp_path, events, {"local_steps": "auto"})
    assert "try --local-steps auto" not in told.headline


def test_waiting_among_even_workers_points_to_the_exchange(tmp_path: Path) -> None:
    """Each reply comes 30 ms late, whoever asks."""
    events = simulate([steady(0.05), steady(0.05)], steps=100, bound=None)
    delays = {"push": 0.0, "step": 0.0}
    late: list[Event] = []
    for event in events:
        if event["event"] == "push":
            delays[str(event["worker"])] = 0.03 * event["step"]
        shift = delays.get(str(event.get("worker")), 0.0)
        before = 0.03 if event["event"] == "push" else 0.0
        late.append({**event, "t": event["t"] + max(0.0, shift - before)})
    told = of(tmp_path, sorted(late, key=lambda event: float(event["t"])))
    assert told.kind == "exchange"
    assert told.costs.held == pytest.approx(3 / 8, abs=0.02)
    assert told.headline.endswith("; try a larger --batch-size, or --local-steps 8")
    told = of(tmp_path / "own", sorted(late, key=lambda event: float(event["t"])), OWN_LOOP)
    assert told.headline.endswith(
        "; try larger batches in your loop, or --local-steps 8 with PSOptimizer(inner=…)"
    )


def test_one_worker_has_nobody_to_wait_for(tmp_path: Path) -> None:
    told = of(tmp_path, simulate([steady(0.1)], steps=10, bound=0))
    assert (told.kind, told.headline) == (
        "none", "One worker alone: there was nobody to wait for.",
    )  # fmt: skip


def test_no_step_no_diagnosis(tmp_path: Path) -> None:
    started = simulate([steady(1.0)] * 2, steps=1, bound=0)[:4]
    assert of(tmp_path, started, steps=0).kind == "unknown"


def test_without_recorded_steps_the_workers_accounts_tell(tmp_path: Path) -> None:
    """Once a second: worker 2 computes all the time, worker 1 a third of it; a step is 0.3 s."""
    events: list[Event] = simulate([steady(1.0)] * 2, steps=1, bound=0)[:4]
    events[-1] = {**events[-1], "step_events": 0}
    for second in range(1, 21):
        for worker, compute_s in ((1, second / 3), (2, float(second))):
            events.append({
                "t": 1.0 + second, "event": "training", "worker": worker, "step": second * 10 // 3,
                "samples": 1, "loss": 0.5, "compute_s": compute_s, "wait_s": second - compute_s,
            })  # fmt: skip
    told = of(tmp_path, events)
    assert told.headline.startswith("worker 2 is persistently 3.0 × slower: bounds cannot hide")
    assert told.costs.held == pytest.approx(1 / 3, abs=0.02)


def test_without_anything_recorded_the_summary_is_all_there_is(tmp_path: Path) -> None:
    events = simulate([steady(1.0)] * 2, steps=1, bound=0)[:4]
    summary = {"steps": 10, "wait_fraction_by_worker": {"1": 0.5, "2": 0.1}}
    told = diagnose(read_run(write_run(tmp_path / "run", events, None, summary)))
    assert told.kind == "unknown"
    assert "Waiting, from a push to its answer: 30 % of their time." in told.headline


# Who was lost.


def without(
    events: Sequence[Event], worker: int, from_s: float, until_s: float | None, reason: str
) -> list[Event]:
    """The same run, but this worker had left, and came back if `until_s` is not None."""
    gone = until_s if until_s is not None else float("inf")
    kept = [e for e in events if e.get("worker") != worker or not from_s <= e["t"] <= gone]
    kept.append({"t": from_s, "event": "left", "worker": worker, "reason": reason})
    if until_s is not None:
        kept.append({"t": until_s, "event": "joined", "worker": worker, "incarnation": 9})
    return sorted(kept, key=lambda event: float(event["t"]))


EVEN = simulate([steady(0.1)] * 3, steps=200, bound=3)  # training is from 1 s to 21 s


@pytest.mark.parametrize(("reason", "why"), [
    ("evicted", "evicted"), ("failed", "failed"), ("timeout", "its time was over"),
])  # fmt: skip
def test_who_was_lost_for_good_is_told_first(tmp_path: Path, reason: str, why: str) -> None:
    told = of(tmp_path, without(EVEN, 2, 13.0, None, reason))
    assert told.kind == "lost"
    assert told.headline.startswith(f"worker 2 was gone from 12 s on ({why}). No worker is slow: ")


def test_who_came_back_is_told_too_behind_those_who_did_not(tmp_path: Path) -> None:
    back = without(EVEN, 2, 5.0, 9.0, "evicted")
    told = of(tmp_path, back)
    assert told.kind == "returned"
    assert told.headline.startswith(
        "worker 2 was gone from 4 s to 8 s (evicted; it came back). No worker is slow: "
    )
    told = of(tmp_path / "both", without(back, 3, 13.0, None, "failed"))
    assert told.kind == "lost"
    assert told.headline.startswith(
        "worker 3 was gone from 12 s on (failed) and worker 2 from 4 s to 8 s (evicted; it came "
        "back). No worker"
    )


def test_many_that_were_lost_are_counted(tmp_path: Path) -> None:
    events: Sequence[Event] = simulate([steady(0.1)] * 9, steps=100, bound=3)
    for worker in range(2, 9):
        events = without(events, worker, 1.0 + worker, None, "failed")
    told = of(tmp_path, events)
    assert "worker 6 from 6 s on (failed) and 2 more. " in told.headline


def test_a_slowness_keeps_its_advice_beside_the_lost(tmp_path: Path) -> None:
    events = simulate([steady(0.1)] * 3 + [steady(0.3)], steps=100, bound=3)
    told = of(tmp_path, without(events, 2, 16.0, None, "evicted"))
    assert told.kind == "lost"
    assert "(evicted). Worker 4 is persistently 3.0 × slower: bounds" in told.headline


@pytest.mark.parametrize("reason", ["done", "stopped", "resting", "replaced"])
def test_who_went_as_told_is_not_lost(tmp_path: Path, reason: str) -> None:
    assert "gone" not in of(tmp_path, without(EVEN, 2, 13.0, None, reason)).headline


def test_a_run_whose_time_was_over_has_lost_nobody(tmp_path: Path) -> None:
    events = without(EVEN, 2, 20.9, None, "timeout")
    run = write_run(tmp_path / "run", events, {}, {"steps": 600, "ended": "timeout"})
    assert "gone" not in diagnose(read_run(run)).headline


def test_a_run_that_lost_all_of_its_workers_before_a_step_says_so(tmp_path: Path) -> None:
    events = [*EVEN[:5], {"t": 3.0, "event": "left", "worker": 1, "reason": "failed"}]
    told = of(tmp_path, events, steps=0)
    assert told.kind == "lost"
    assert told.headline == (
        "worker 1 was gone from 2 s on (failed). No step was taken, so there is nothing to tell."
    )
