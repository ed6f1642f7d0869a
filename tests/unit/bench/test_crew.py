import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest

from leash.bench import push_pull
from leash.bench.harness.crew import CommonEnd, crew
from leash.bench.harness.rows import make_row
from leash.bench.harness.trial import Times, Trial
from leash.bench.options import BenchOptions
from leash.bench.systems import SYSTEMS, ddp
from leash.ps.errors import UsageError
from support.bench.checked_ddp import join_checked


def test_ddp_updates_by_the_mean_and_its_workers_stop_after_the_same_all_reduce() -> None:
    trial = Trial(bench="push_pull", system="ddp", transport="tcp", nbytes=4000, workers=3)
    with ddp.meet(trial) as address, crew(trial, join_checked, address, ahead=0) as go:
        rounds = [go(seconds) for seconds in (0.0, 0.05, 0.0)]
    for times in rounds:
        assert len({len(of_worker) for of_worker in times}) == 1
    # A round in which several fit in has several: it has not stopped at the first.
    assert len(rounds[1][0]) > 2


def test_an_all_reduce_of_n_workers_counts_as_n_exchanges() -> None:
    trial = Trial(bench="push_pull", system="ddp", nbytes=8_000_000, workers=4)
    made = make_row(trial, Times(1, ([0.5, 0.5],) * 4))
    assert (made.per_s, made.gbytes_per_s) == pytest.approx((8.0, 0.064))


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_workers_end_after_the_same_exchange_whoever_leaves_it_first(order: tuple[int]) -> None:
    last = SimpleNamespace(value=0)
    ends = {rank: CommonEnd(last, rank) for rank in (1, 2, 3)}
    done = dict.fromkeys(ends, 0)
    for _ in range(2):  # rounds
        going, exchange = set(ends), 0
        while going:
            exchange += 1
            for rank in going:  # the exchange, which all of them do or none
                done[rank] += 1
            assert going == set(ends)
            # The time is over for one after the other: for the first in this order at once.
            going -= {r for i, r in enumerate(order) if ends[r](exchange > i)}
    assert len(set(done.values())) == 1
    assert done[1] <= 2 * (2 + len(order))


@pytest.mark.parametrize("rank", [1, 2])  # which is as far ahead as it may
def test_workers_end_after_the_same_exchange_also_where_one_is_ahead(rank: int) -> None:
    last, ahead = SimpleNamespace(value=0), 3
    ends = {1: CommonEnd(last, 1, ahead), 2: CommonEnd(last, 2, ahead)}
    done, going = {1: 0, 2: 0}, {1, 2}
    while going:
        behind = 3 - rank
        may_go = rank in going and done[rank] < done[behind] + ahead
        goes = rank if may_go else behind
        assert goes in going, "it waits for one that has ended"
        done[goes] += 1
        if ends[goes](done[1] > 5):
            going.remove(goes)
    assert done[1] == done[2] > 5


@pytest.mark.parametrize(("workers", "takes"), [(1, False), (2, True), (8, True)])
def test_ddp_takes_part_where_there_is_somebody_to_reduce_with(workers: int, takes: bool) -> None:
    options = BenchOptions(benchmark="push_pull", workers=str(workers), sizes="4e3")
    (trials,) = push_pull.plan(options, SYSTEMS)
    assert ("ddp" in {trial.system for trial in trials}) is takes


def test_policies_are_those_of_leash_and_none_is_asked_for_by_default() -> None:
    options = BenchOptions(benchmark="push_pull", workers="2", sizes="4e3", systems="leash,ddp",
                           transports="shm", policies="bsp,ssp")  # fmt: skip
    for asked, policies in ((options, ["bsp", "ssp"]), (replace(options, policies=None), [""])):
        (trials,) = push_pull.plan(asked, push_pull.systems_of(asked)[0])
        assert [trial.policy for trial in trials if trial.system == "leash"] == policies
        assert [trial.policy for trial in trials if trial.system == "ddp"] == [""]


def test_ddp_that_is_asked_for_with_one_worker_alone_is_a_wrong_argument() -> None:
    options = BenchOptions(benchmark="push_pull", workers="1", sizes="4e3", systems="ddp")
    with pytest.raises(UsageError, match="--systems ddp: give --workers 2 or more"):
        push_pull.measure(options, lambda *_: None)
