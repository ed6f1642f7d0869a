"""The simulator: the same seed is the same run, and a fault that is taken out moves no other."""

import re

import pytest

from simulation import command, faults
from simulation.cluster import simulate
from simulation.faults import KINDS, Fault, Kind, draw_faults
from simulation.machines.world import Process, World
from simulation.scenario import draw
from simulation.shrink import shrink
from simulation.trace import Trace


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_is_the_same_run_to_the_message(seed: int) -> None:
    traces = Trace(), Trace()
    outcomes = [simulate(seed, trace=trace) for trace in traces]
    assert traces[0].lines == traces[1].lines
    assert outcomes[0].now_s == outcomes[1].now_s
    assert len(traces[0].lines) > 10


@pytest.mark.parametrize("left_out", KINDS, ids=lambda kind: kind.name)
def test_without_one_kind_all_other_faults_stay_the_same(
    left_out: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenarios = [draw(seed) for seed in range(100)]
    before = [draw_faults(scenario) for scenario in scenarios]
    monkeypatch.setattr(faults, "KINDS", [kind for kind in KINDS if kind is not left_out])
    after = [draw_faults(scenario) for scenario in scenarios]
    others = [[fault for fault in drawn if fault.kind != left_out.name] for drawn in before]
    assert after == others
    assert before != others  # some seed had it


def test_a_fault_that_is_taken_out_leaves_the_others_when_they_were() -> None:
    seed = next(s for s in range(100) if len(draw_faults(draw(s))) >= 4)
    drawn = draw_faults(draw(seed))
    trace = Trace()
    simulate(seed, faults=drawn[1:], trace=trace)
    told = [line.split("  fault      ")[1] for line in trace.lines if "  fault      " in line]
    assert told == [str(fault) for fault in drawn[1:]][: len(told)]
    assert told


def test_shrinking_finds_the_two_faults_that_are_needed_together() -> None:
    drawn = [Fault("cut", number, float(number)) for number in range(50)]
    needed = {drawn[7], drawn[31]}
    assert set(shrink(drawn, lambda kept: needed <= set(kept))) == needed


def test_shrinking_needs_no_fault_where_it_fails_without_any() -> None:
    assert shrink([Fault("cut", 0, 0.0)], lambda kept: True) == []


def test_a_clock_that_drifts_shows_what_its_rate_says() -> None:
    world = World()
    process = Process(world, "slow", rate=0.5, began_s=10.0)
    shown: list[tuple[float, float]] = []
    process.after(1.0, lambda _: shown.append((world.now_s, process.clock())))
    world.run(5.0)
    assert shown == [(2.0, 11.0)]


def test_a_paused_process_does_afterwards_what_was_due_in_its_order() -> None:
    world = World()
    process = Process(world, "paused")
    done: list[tuple[int, float]] = []
    for number in (1, 2):
        process.after(float(number), lambda n: done.append((n, world.now_s)), number)
    process.pause(3.0)
    world.run(10.0)
    assert done == [(1, 3.0), (2, 3.0)]


def test_nothing_of_a_killed_process_happens_not_even_in_its_next_life() -> None:
    world = World()
    process = Process(world, "killed")
    done: list[int] = []
    process.after(1.0, done.append, 1)
    process.kill()
    process.restart()
    process.after(2.0, done.append, 2)
    world.run(10.0)
    assert done == [2]


def test_an_end_that_is_not_right_is_a_violation_and_shrinks_to_its_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("simulation.machines.server.SHARD_RESTARTS", 0)
    seed = next(
        s for s in range(1000)
        if any(fault.kind == "kill shard" for fault in draw_faults(draw(s)))
        and simulate(s).violation
    )  # fmt: skip
    assert command.main(["--seed", str(seed)]) == 1
    told = capsys.readouterr().out
    kept, drawn = map(int, re.findall(r"(\d+) of (\d+) faults are enough", told)[0])
    assert kept < drawn
    assert "  kill shard[" in told
    assert "ended as 'shard " in told
