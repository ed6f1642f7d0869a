import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps._core import StepClock
from leash.ps.policy import choose_rule
from leash.ps.runs.audit import audit, audit_run

Event = dict[str, Any]


def started(bound: int | None) -> Event:
    return {"event": "started", "policy": "ssp", "bound": bound, "workers": [], "step_events": 1}


def joined(worker: int, first_step: int = 1) -> Event:
    return {"event": "joined", "worker": worker, "first_step": first_step}


def left(worker: int) -> Event:
    return {"event": "left", "worker": worker, "reason": "done"}


def push(worker: int, step: int) -> Event:
    return {"event": "push", "worker": worker, "step": step}


def step(worker: int, number: int, lag: int, **more: Any) -> Event:
    told = {"event": "step", "worker": worker, "step": number, "lag": lag, "staleness": 0}
    return {**told, **more}


def rule(event: str, policy: str, *limits: Any, max_staleness: int | None = None) -> Event:
    told = choose_rule(policy, *(limits or (None,)), max_staleness=max_staleness).settings()
    return {"event": event, **told, "workers": [], "step_events": 1}


def test_a_run_that_kept_its_bound_is_clean() -> None:
    events = [
        joined(0), joined(1), joined(2), started(1),
        push(1, 1), step(1, 1, lag=1), push(1, 2),
        push(2, 1), step(2, 1, lag=0), step(1, 2, lag=1),
        left(2), push(1, 3), step(1, 3, lag=0),
        joined(2, first_step=4), push(2, 4), step(2, 4, lag=1),
    ]  # fmt: skip
    assert audit(events) == []


def test_a_reply_beyond_the_bound_is_found() -> None:
    events = [joined(1), joined(2), started(1), push(1, 1), push(1, 2), step(1, 2, lag=2)]
    (violation,) = audit(events)
    assert "lag 2 is beyond the bound 1" in violation


def test_without_a_bound_no_lag_is_too_large() -> None:
    events = [joined(1), joined(2), started(None), *(push(1, n) for n in range(1, 50))]
    assert audit([*events, step(1, 49, lag=49)]) == []


def test_a_lag_that_was_told_wrongly_is_found() -> None:
    events = [joined(1), joined(2), started(3), push(1, 1), step(1, 1, lag=0)]
    (violation,) = audit(events)
    assert "the lag was 1" in violation


@pytest.mark.parametrize("steps", [[1, 1], [1, 3], [2], [1, 2, 1]])
def test_a_step_taken_twice_or_out_of_order_is_found(steps: list[int]) -> None:
    (violation,) = audit([joined(1), started(0), *(push(1, n) for n in steps)])
    assert "expected step" in violation


def test_a_push_of_one_that_has_left_is_found() -> None:
    assert len(audit([joined(1), joined(2), started(0), left(1), push(1, 1)])) == 1


def test_the_upper_limit_is_what_dssp_is_held_to() -> None:
    ahead = [joined(1), joined(2), rule("started", "dssp", 1, 3), *(push(1, n) for n in (1, 2, 3))]
    assert audit([*ahead, step(1, 3, lag=3)]) == []
    (violation,) = audit([*ahead, push(1, 4), step(1, 4, lag=4)])
    assert "lag 4 is beyond the bound 3" in violation


@pytest.mark.parametrize(
    ("policy", "limit", "staleness", "dropped"),
    [
        ("drop", 2, 2, False), ("drop", 2, 3, True), ("backup", None, 0, False),
        ("backup", None, 1, True), ("asp", None, 99, False),
    ],
)  # fmt: skip
def test_what_is_dropped_is_what_is_too_stale(
    policy: str, limit: int | None, staleness: int, dropped: bool
) -> None:
    events = [joined(1), rule("started", policy, max_staleness=limit), push(1, 1)]
    told = {"staleness": staleness, "dropped": dropped}
    assert audit([*events, step(1, 1, lag=0, **told)]) == []
    (violation,) = audit([*events, step(1, 1, lag=0, **{**told, "dropped": not dropped})])
    assert f"a gradient of staleness {staleness}" in violation


def test_a_bound_in_versions_is_one_of_staleness() -> None:
    begun = [
        joined(1), joined(2), rule("started", "ssp", 1, None, None, "versions"),
        push(1, 1), step(1, 1, lag=1), push(1, 2), step(1, 2, lag=2), push(1, 3),
    ]  # fmt: skip
    assert audit([*begun, step(1, 3, lag=3, staleness=2)]) == []
    (violation,) = audit([*begun, step(1, 3, lag=3, staleness=3)])
    assert "staleness 3 is beyond 2, which ssp(1 versions) allows" in violation


def test_a_change_of_the_policy_counts_from_its_event_on() -> None:
    ahead = [joined(1), joined(2), rule("started", "asp"), *(push(1, n) for n in range(1, 6))]
    to_ssp = rule("policy_changed", "ssp", 3)
    assert audit([*ahead, step(1, 5, lag=5), to_ssp]) == []
    (violation,) = audit([*ahead, to_ssp, step(1, 5, lag=5)])
    assert "lag 5 is beyond the bound 3" in violation
    assert audit([*ahead, to_ssp, rule("policy_changed", "asp"), step(1, 5, lag=5)]) == []


@given(st.lists(st.integers(1, 3), max_size=60), st.integers(0, 3))
def test_what_the_clock_admits_is_clean(turns: list[int], bound: int) -> None:
    clock = StepClock(bound)
    events = [joined(w) for w in (1, 2, 3)] + [started(bound)]
    for worker in (1, 2, 3):
        clock.join(worker, 0)
    waiting: set[int] = set()
    for worker in turns:
        if worker in waiting:
            continue
        events.append(push(worker, clock.tick(worker)))
        waiting.add(worker)
        for other in [w for w in waiting if clock.admits(w)]:
            waiting.discard(other)
            events.append(step(other, clock.clock(other), clock.lag(other)))
    assert audit(events) == []


def test_a_run_directory_is_read(tmp_path: Path) -> None:
    events = [joined(1), started(0), push(1, 2)]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (tmp_path / "events.jsonl").write_text(lines, encoding="utf-8")
    assert len(audit_run(tmp_path)) == 1


def test_a_run_that_recorded_some_steps_only_cannot_be_audited() -> None:
    with pytest.raises(ValueError, match="--step-events 1"):
        audit([{**started(0), "step_events": 10}])


def test_events_that_are_missing_are_said_instead_of_a_result(tmp_path: Path) -> None:
    rows = [
        {"t": 0.0, "event": "started", "step_events": 1, **choose_rule("asp", None).settings()},
        {"t": 0.1, "event": "events_lost", "events": 7},
        {"t": 0.2, "event": "push", "worker": 9, "step": 44},
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="7 events are missing, which could not be written"):
        audit_run(tmp_path)
    path.write_text(json.dumps(rows[0]) + "\n")
    assert audit_run(tmp_path) == []
    (tmp_path / "summary.json").write_text('{"events_missing": 12}')
    with pytest.raises(ValueError, match="12 events are missing"):
        audit_run(tmp_path)
