"""A chunk in virtual time decides as a Shard does; and what each rule guarantees."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps._core import (
    ChunkSpec,
    Nonfinite,
    Outcome,
    Rule,
    SgdOptions,
    Shard,
    SimulatedChunk,
    SimulatedPush,
)

RULES = {
    "bsp": Rule(bound=0, gather="step"),
    "ssp": Rule(bound=2),
    "asp": Rule(),
    "dssp": Rule(bound=1, bound_max=5),
    "backup": Rule(gather="round", backup_workers=1),
    "drop": Rule(staleness_limit=2),
    "versions": Rule(bound=3, unit="versions"),
}
every_rule = pytest.mark.parametrize("name", RULES)


def chunk_of(rule: Rule, workers: int) -> SimulatedChunk:
    chunk = SimulatedChunk(rule)
    for worker in range(1, workers + 1):
        chunk.join(worker, 0)
    return chunk


def pushes(chunk: SimulatedChunk, *workers: int) -> list[SimulatedPush]:
    return [chunk.push(worker, now_s) for now_s, worker in enumerate(workers)]


# Beside a Shard.


class Both:
    """The same calls to a simulated chunk and to a shard of one chunk."""

    def __init__(self, rule: Rule) -> None:
        self.simulated = SimulatedChunk(rule)
        self.shard = Shard(
            [ChunkSpec(values=2, dtype="f32", kind="parameter")], SgdOptions(lr=0.5), rule=rule,
            nonfinite=Nonfinite.RAISE,
        )  # fmt: skip
        self.shard.init(0, np.zeros(2, np.float32))
        self.now_s = 0.0

    def join(self, worker: int) -> None:
        clock = self.shard.first_step() - 1
        self.simulated.join(worker, clock)
        self.shard.join(worker, clock)

    def leave(self, worker: int) -> None:
        released = self.simulated.leave(worker)
        assert {r.worker for r in self.shard.leave(worker)} == set(released)

    def set_rule(self, rule: Rule) -> None:
        released = self.simulated.set_rule(rule)
        assert {r.worker for r in self.shard.set_rule(rule)} == set(released)

    def push(self, worker: int, elapsed_s: int) -> None:
        self.now_s += elapsed_s
        step = self.shard.clock(0, worker) + 1
        gradient = np.ones(2, np.float32)
        result = self.shard.push(0, worker, step, 1, gradient, True, now_s=self.now_s)
        simulated = self.simulated.push(worker, self.now_s)
        assert simulated.clock == result.clock
        assert simulated.dropped == (result.outcome is Outcome.DROPPED)
        assert set(simulated.released) == {reply.worker for reply in result.replies}
        assert len(simulated.released) == len(result.replies)
        for reply in result.replies:
            if reply.worker == worker:
                assert reply.staleness == simulated.staleness
            assert reply.lag == self.simulated.lag(reply.worker)

    def check(self) -> None:
        assert self.simulated.version == self.shard.version(0)
        assert self.simulated.dropped == self.shard.stats().dropped
        assert self.simulated.minimum() == self.shard.minimum(0)
        waiting = [w for w in self.simulated.workers() if self.simulated.is_waiting(w)]
        assert len(waiting) == self.shard.parked()
        assert len(waiting) < max(1, len(self.simulated)), "somebody goes on in any case"


TURNS = st.lists(
    st.tuples(
        st.sampled_from(["push"] * 12 + ["join", "leave", "set"]),
        st.integers(1, 5),
        st.sampled_from([0, 1, 1, 2, 9]),
        st.sampled_from(sorted(RULES)),
    ),
    max_size=80,
)


@every_rule
@given(turns=TURNS)
def test_it_decides_as_a_shard_does(name: str, turns: list[tuple[str, int, int, str]]) -> None:
    both = Both(RULES[name])
    for worker in (1, 2, 3):
        both.join(worker)
    for what, worker, elapsed_s, other in turns:
        is_live = worker in both.simulated
        if what == "join" and not is_live:
            both.join(worker)
        elif what == "leave" and is_live:
            both.leave(worker)
        elif what == "set":
            both.set_rule(RULES[other])
        elif what == "push" and is_live and not both.simulated.is_waiting(worker):
            both.push(worker, elapsed_s)
        both.check()


# What the rules guarantee.


def play(chunk: SimulatedChunk, turns: list[int]) -> Iterator[tuple[int, SimulatedPush]]:
    """Whoever's turn it is and who does not wait pushes, at times that differ."""
    for now_s, worker in enumerate(turns):
        if not chunk.is_waiting(worker):
            yield worker, chunk.push(worker, now_s)


@given(turns=st.lists(st.integers(1, 4), max_size=120), bound=st.integers(0, 5))
def test_a_bound_in_versions_bounds_staleness(turns: list[int], bound: int) -> None:
    chunk = chunk_of(Rule(bound=bound, unit="versions"), 4)
    assert all(push.staleness <= bound + 3 for _, push in play(chunk, turns))


def test_the_limit_of_staleness_under_a_bound_in_versions_is_reached() -> None:
    chunk = chunk_of(Rule(bound=2, unit="versions"), 4)
    ahead = pushes(chunk, 1, 2, 1, 2, 3)  # worker 4 computes with version 0 all the time
    assert [push.released for push in ahead] == [[1], [2], [], [], []]
    (last,) = pushes(chunk, 4)
    assert (last.staleness, sorted(last.released)) == (2 + 4 - 1, [1, 2, 3, 4])


@given(turns=st.lists(st.integers(1, 4), max_size=120))
def test_dssp_never_passes_its_upper_limit(turns: list[int]) -> None:
    chunk = chunk_of(Rule(bound=1, bound_max=4), 4)
    for _, push in play(chunk, turns):
        assert all(chunk.lag(worker) <= 4 for worker in push.released)


@pytest.mark.parametrize(
    ("slow_s", "extra"),
    [
        (1.0, 0),  # its next push is as near as it can be: at once
        (2.0, 1),
        (4.0, 3),
        (6.0, 4),  # five would be best, and are beyond the upper limit
        (100.0, 4),
    ],
)
def test_dssp_grants_the_steps_after_which_the_wait_is_the_shortest(
    slow_s: float, extra: int
) -> None:
    """Worker 1 takes a second a step, the other `slow_s`, whose second push was just now."""
    chunk = chunk_of(Rule(bound=2, bound_max=6), 2)
    now_s = 2 * slow_s
    times = [(1, 0.0), (2, now_s - slow_s), *((1, now_s - 2 + n) for n in range(3)), (2, now_s)]
    for worker, push_s in sorted(times, key=lambda turn: turn[1]):
        chunk.push(worker, push_s)
    taken = 0
    while not chunk.is_waiting(1):
        now_s += 1.0
        chunk.push(1, now_s)
        taken += 1
    assert chunk.lag(1) == 2 + extra + 1


def test_a_round_goes_on_without_the_slowest_whose_gradient_is_dropped() -> None:
    chunk = chunk_of(Rule(gather="round", backup_workers=1), 3)
    first, second, late = pushes(chunk, 3, 1, 2)
    assert (first.released, sorted(second.released), chunk.version) == ([], [1, 3], 1)
    assert (late.dropped, late.staleness, late.released) == (True, 1, [2])
    assert (chunk.version, chunk.dropped) == (1, 1)


def test_a_round_that_waited_for_one_who_leaves_is_complete() -> None:
    chunk = chunk_of(Rule(gather="round"), 3)
    pushes(chunk, 1, 2)
    assert sorted(chunk.leave(3)) == [1, 2]
    assert chunk.version == 1
    pushes(chunk, 1)
    chunk.leave(1)  # its gradient goes with it
    (alone,) = pushes(chunk, 2)
    assert (alone.released, chunk.version) == ([2], 2)


def test_a_gradient_beyond_the_limit_is_dropped_and_the_next_is_fresh() -> None:
    chunk = chunk_of(Rule(staleness_limit=2), 2)
    assert [p.dropped for p in pushes(chunk, 1, 1, 1, 2, 2)] == [False, False, False, True, False]
    assert (chunk.version, chunk.dropped) == (4, 1)


@every_rule
def test_nobody_of_many_workers_is_left_waiting(name: str) -> None:
    chunk = chunk_of(RULES[name], 1000)
    steps = dict.fromkeys(range(1, 1001), 0)
    for worker, push in play(chunk, [*range(1, 1001)] * 6):
        assert push.clock == chunk.clock(worker)
        for released in push.released:
            steps[released] += 1
    assert min(steps.values()) >= 3


# What is refused.


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"bound": 1, "gather": "step"}, "gather 'step': expected bound 0"),
        ({"bound": 1, "gather": "round"}, "gather 'round': expected no bound"),
        ({"backup_workers": 1}, "backup_workers: expected 0, or gather 'round'"),
        ({"gather": "round", "staleness_limit": 1}, "staleness_limit: expected gather 'each'"),
        ({"unit": "versions"}, "unit 'versions': expected a bound"),
        ({"bound": 3, "bound_max": 2}, "bound_max: expected gather 'each', and at least"),
        ({"bound": 3, "bound_max": 2000}, "bound_max: expected at most 1024 above"),
        ({"gather": "all"}, "gather: expected 'each' 'step' 'round', got 'all'"),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(
    limits: dict[str, int | str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Rule(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["leave", "is_waiting", "clock", "lag"])
def test_a_worker_that_is_not_live_is_a_key_error(method: str) -> None:
    chunk = chunk_of(Rule(), 1)
    with pytest.raises(KeyError, match="worker 7 is not live"):
        getattr(chunk, method)(7)
    with pytest.raises(KeyError, match="worker 7 is not live"):
        chunk.push(7, 0.0)
