"""Measures trials, which take turns, round by round, in one run.

A machine's speed changes from second to second. Two figures are comparable only if they were
taken in turn, so every benchmark goes through all of its trials once, and then again. A round
during which others took too much of the processors does not count, and is repeated.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any, Final, TypeAlias

from leash.bench.harness.foreign import MOST_FOREIGN, watched

Exchange: TypeAlias = Callable[[], Any]  # what is timed: an exchange, a kernel, a training step

WARMUP_S = 0.3
TRIES: Final = 3  # of a round, for one during which others take little


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One thing to measure, in the words of its row."""

    bench: str
    system: str  # leash, gloo, torch, memcpy, ...
    case: str = ""  # the kernel, policy or model; empty if there is only one
    transport: str = ""  # empty if nothing travels
    codec: str = "f32"
    nbytes: int = 0  # size of the parameters, one way
    workers: int = 1
    shards: int = 1
    threads: int = 1  # those of one process
    policy: str = ""  # of a parameter server that has several; empty: asp
    # Of the server's link, each way, where its TCP is paced; None where it goes over the loopback.
    bandwidth_gbit: float | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """The times that the rounds of one trial took."""

    warmup: int  # how many repeats all workers did before those that count
    by_worker: tuple[list[float], ...]  # each worker's repeats, in seconds
    # The largest that others took of the processors during a round; None where nothing tells it.
    foreign_share: float | None = None


TimesOfRound: TypeAlias = list[list[float]]  # each worker's
Round: TypeAlias = Callable[[float], TimesOfRound]  # is told for how many seconds
# Runs something; gives its result, and the share of the processors that others took meanwhile.
Watch: TypeAlias = Callable[[Callable[[], TimesOfRound]], tuple[TimesOfRound, float | None]]


def timed(
    exchange: Exchange, seconds: float, ends: Callable[[bool], bool] = lambda is_over: is_over
) -> list[float]:
    """Repeats an exchange for this many seconds, but at least once; gives each one's seconds.

    Args:
        exchange: what is timed.
        seconds: for how long.
        ends: is told before each further exchange whether the time is over, and says whether the
            round ends there.
    """
    times: list[float] = []
    end_s = time.perf_counter() + seconds
    while not times or not ends(time.perf_counter() >= end_s):
        began_s = time.perf_counter()
        exchange()
        times.append(time.perf_counter() - began_s)
    return times


def alone(exchange: Exchange) -> Round:
    """Makes the round of an exchange that needs no other process."""
    return lambda seconds: [timed(exchange, seconds)]


def in_turn(
    rounds: int, round_s: float, trials: Mapping[Trial, Round], warmup_s: float | None = None,
    *, tries: int = TRIES, watch: Watch = watched,
) -> dict[Trial, Times]:  # fmt: skip
    """Goes through all trials `rounds` times, after a warm-up of each.

    Args:
        rounds: of each trial that count.
        round_s: the length of one.
        trials: each with the function that runs a round of it.
        warmup_s: the length of the warm-up.
        tries: how often a round is begun at most, for one during which others take little.
        watch: runs a round, and tells what others took meanwhile.
    """
    before_s = min(WARMUP_S, round_s) if warmup_s is None else warmup_s
    warmup = {trial: sum(map(len, go(before_s))) for trial, go in trials.items()}
    kept: dict[Trial, list[tuple[TimesOfRound, float | None]]] = {trial: [] for trial in trials}
    for _ in range(rounds):
        for trial, go in trials.items():
            kept[trial].append(_quietest(partial(go, round_s), tries, watch))
    return {trial: _together(warmup[trial], of_trial) for trial, of_trial in kept.items()}


def _quietest(
    go: Callable[[], TimesOfRound], tries: int, watch: Watch
) -> tuple[TimesOfRound, float | None]:
    """Runs a round until one is quiet, or gives the one of `tries` in which others took least."""
    loud: list[tuple[TimesOfRound, float]] = []
    while len(loud) < tries:
        times, share = watch(go)
        if share is None or share < MOST_FOREIGN:
            return times, share
        loud.append((times, share))
    return min(loud, key=itemgetter(1))


def _together(warmup: int, rounds: list[tuple[TimesOfRound, float | None]]) -> Times:
    by_worker = zip(*(times for times, _ in rounds), strict=True)
    shares = [share for _, share in rounds if share is not None]
    return Times(warmup, tuple(list(chain(*of_worker)) for of_worker in by_worker),
                 max(shares, default=None))  # fmt: skip
