"""Measures trials, which take turns, round by round, in one run.

A machine's speed changes from second to second. Two figures are comparable only if they were
taken in turn, so every benchmark goes through all of its trials once, and then again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

Exchange: TypeAlias = Callable[[], Any]  # what is timed: an exchange, a kernel, a training step

WARMUP_S = 0.3


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


@dataclass(frozen=True, slots=True)
class Times:
    """The times that the rounds of one trial took."""

    warmup: int  # how many repeats all workers did before those that count
    by_worker: tuple[list[float], ...]  # each worker's repeats, in seconds


Round: TypeAlias = Callable[[float], list[list[float]]]  # seconds ▸ each worker's times


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
    rounds: int, round_s: float, trials: Mapping[Trial, Round], warmup_s: float | None = None
) -> dict[Trial, Times]:
    """Goes through all trials `rounds` times, after a warm-up of each."""
    before_s = min(WARMUP_S, round_s) if warmup_s is None else warmup_s
    warmup = {trial: sum(map(len, go(before_s))) for trial, go in trials.items()}
    results: dict[Trial, list[list[list[float]]]] = {trial: [] for trial in trials}
    for _ in range(rounds):
        for trial, go in trials.items():
            results[trial].append(go(round_s))
    return {
        trial: Times(warmup[trial], tuple(list(chain(*times)) for times in zip(*got, strict=True)))
        for trial, got in results.items()
    }
