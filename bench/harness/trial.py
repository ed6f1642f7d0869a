"""What is measured, and how: trials take turns, round by round, in one run.

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
    """One thing that is measured, in the words of its row."""

    bench: str
    system: str  # leash, gloo, torch, memcpy, ...
    case: str = ""  # the kernel, policy or model; empty where there is but one
    transport: str = ""  # empty where nothing travels
    codec: str = "f32"
    nbytes: int = 0  # of the parameters, one way
    workers: int = 1
    shards: int = 1
    threads: int = 1  # of one process


@dataclass(frozen=True, slots=True)
class Times:
    """What the rounds of one trial gave."""

    warmup: int  # repeats before the first that counts, of all workers
    by_worker: tuple[list[float], ...]  # seconds of each repeat


Round: TypeAlias = Callable[[float], list[list[float]]]  # seconds ▸ each worker's times


def timed(exchange: Exchange, seconds: float) -> list[float]:
    """Repeats for so many seconds, but once at least."""
    times: list[float] = []
    end_s = time.perf_counter() + seconds
    while not times or time.perf_counter() < end_s:
        began_s = time.perf_counter()
        exchange()
        times.append(time.perf_counter() - began_s)
    return times


def alone(exchange: Exchange) -> Round:
    """The round of something that needs no other process."""
    return lambda seconds: [timed(exchange, seconds)]


def in_turn(
    rounds: int, round_s: float, trials: Mapping[Trial, Round], warmup_s: float | None = None
) -> dict[Trial, Times]:
    """Goes through all trials, `rounds` times, after a warm-up of each."""
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
