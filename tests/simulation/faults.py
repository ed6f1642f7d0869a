"""What goes wrong: each kind of fault is drawn from a stream of its own, all of it in advance.

So the faults of a seed are a list. Whoever takes one out moves no other: the same things befall
what is left, at the same times. `cluster.Cluster` has them happen.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from simulation.scenario import Scenario, stream


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    number: int  # among those of its kind
    at_s: float
    who: int = 0  # a worker or a shard
    numbers: tuple[float, ...] = ()  # what they mean depends on the kind

    def __str__(self) -> str:
        numbers = ", ".join(f"{number:g}" for number in self.numbers)
        return f"{self.kind}[{self.number}] at {self.at_s:.6f} s: {self.who} ({numbers})"


Draw = Callable[[random.Random, Scenario], tuple[int, tuple[float, ...]]]


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    name: str
    probability: float  # that a seed has any of it
    more: float  # that there is another one, after each
    draw: Draw


def _seconds(rng: random.Random, low: float, high: float) -> float:
    """Draws a time whose logarithm is evenly spread."""
    return float(low * (high / low) ** rng.random())


def _worker(rng: random.Random, scenario: Scenario) -> int:
    return rng.randrange(1, scenario.workers + 1)


def _cut(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """Which of its connections; messages spared each way; until it connects; how late it hears."""
    late_s = rng.choice((0.0, 0.0, _seconds(rng, 0.0005, 0.02), _seconds(rng, 0.02, 0.25)))
    spared = rng.choice((0, 0, 1, 2, 8)), rng.choice((0, 0, 1, 2, 8))
    return _worker(rng, scenario), (
        rng.random(), *spared, _seconds(rng, 0.001, 0.3), late_s
    )  # fmt: skip


def _partition(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """Up, down; for so long."""
    up, down = rng.choice(((1, 1), (1, 0), (0, 1)))
    return _worker(rng, scenario), (up, down, _seconds(rng, 0.01, 9.0))


def _outage(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """Whether of everybody; up, down; for so long."""
    everybody = rng.choice((0, 0, 1))
    up, down = rng.choice(((1, 1), (1, 1), (1, 0), (0, 1)))
    return _worker(rng, scenario), (everybody, up, down, _seconds(rng, 3.0, 120.0))


def _kill(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """When it is started again, below 0 for never; messages of each connection that still go."""
    back_s = -1.0 if rng.random() < 0.2 else _seconds(rng, 0.01, 10.0)
    return _worker(rng, scenario), (back_s, rng.choice((0, 1, 2, 64)))


def _pause(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    return _worker(rng, scenario), (_seconds(rng, 0.005, 12.0),)


def _pause_server(rng: random.Random, _: Scenario) -> tuple[int, tuple[float, ...]]:
    return 0, (_seconds(rng, 0.005, 25.0),)


def _go(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """When it is started again, below 0 for never."""
    return _worker(rng, scenario), (-1.0 if rng.random() < 0.3 else _seconds(rng, 0.01, 5.0),)


def _leave(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """When it is started again, below 0 for never."""
    return _worker(rng, scenario), (-1.0 if rng.random() < 0.3 else _seconds(rng, 0.01, 5.0),)


def _come(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """Nobody, where all workers are expected from the beginning on."""
    return (_worker(rng, scenario) if scenario.least is not None else 0), ()


def _late(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    return _worker(rng, scenario), (_seconds(rng, 0.01, 3.0),)


def _set(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """A policy, by its place in the table; a limit; how much more the upper one is."""
    return 0, (rng.randrange(7), rng.choice((1, 2, 3, 8)), rng.choice((1, 4, 12)))


def _shard(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    return rng.randrange(1, max(2, scenario.shards)), (_seconds(rng, 0.005, 8.0),)


def _server(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """When it is started again; how soon then it is killed once more.

    And how soon after it a worker is, and when that comes back; how soon after its start somebody
    asks for a checkpoint. Below 0 for never.
    """
    back_s = -1.0 if rng.random() < 0.1 else _seconds(rng, 0.01, 5.0)
    again_s = rng.choice((-1.0, -1.0, -1.0, _seconds(rng, 0.0005, 0.05), _seconds(rng, 0.05, 3.0)))
    with_s = rng.choice((-1.0, -1.0, 0.0, _seconds(rng, 0.01, 6.0)))
    save_s = rng.choice((-1.0, -1.0, -1.0, _seconds(rng, 0.001, 1.0)))
    worker_back_s = _kill(rng, scenario)[1][0]
    return _worker(rng, scenario), (back_s, again_s, with_s, worker_back_s, save_s)


def _nothing(_: random.Random, __: Scenario) -> tuple[int, tuple[float, ...]]:
    return 0, ()


def _slow(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """So much more for each message; for so long."""
    return _worker(rng, scenario), (_seconds(rng, 0.001, 0.5), _seconds(rng, 0.01, 3.0))


def _disk(rng: random.Random, _: Scenario) -> tuple[int, tuple[float, ...]]:
    """Where in a file; for so long; how slow."""
    return 0, (rng.random(), _seconds(rng, 0.01, 3.0), _seconds(rng, 0.01, 4.0))


def _strange(rng: random.Random, scenario: Scenario) -> tuple[int, tuple[float, ...]]:
    """Which message, by its place in a table; to which shard; a number."""
    return _worker(rng, scenario), (rng.random(), rng.random(), rng.random())


def _ask(rng: random.Random, _: Scenario) -> tuple[int, tuple[float, ...]]:
    """Which reason."""
    return 0, (rng.randrange(2),)


KINDS: Final = (
    Kind("cut", 0.5, 0.7, _cut),
    Kind("partition", 0.3, 0.5, _partition),
    Kind("outage", 0.15, 0.3, _outage),
    Kind("slow", 0.2, 0.5, _slow),
    Kind("kill", 0.3, 0.5, _kill),
    Kind("pause", 0.2, 0.4, _pause),
    Kind("go", 0.15, 0.3, _go),
    Kind("late", 0.15, 0.3, _late),
    Kind("come", 0.9, 0.8, _come),
    Kind("leave", 0.2, 0.5, _leave),
    Kind("set", 0.2, 0.5, _set),
    Kind("save", 0.1, 0.3, _nothing),
    Kind("strange", 0.3, 0.7, _strange),
    Kind("strange control", 0.2, 0.7, _strange),
    Kind("wrong key", 0.5, 0.8, _strange),
    Kind("revoke key", 0.15, 0.2, _go),
    Kind("pause server", 0.1, 0.3, _pause_server),
    Kind("pause shard", 0.1, 0.3, _shard),
    Kind("kill shard", 0.06, 0.5, _shard),
    Kind("kill server", 0.15, 0.5, _server),
    Kind("stop server", 0.04, 0.0, _nothing),
    Kind("ask to stop", 0.03, 0.3, _ask),
    Kind("disk slow", 0.06, 0.3, _disk),
    Kind("disk full", 0.06, 0.3, _disk),
    Kind("disk lost", 0.04, 0.3, _disk),
    Kind("disk torn", 0.04, 0.3, _disk),
    Kind("disk flipped", 0.04, 0.3, _disk),
)


def draw_faults(scenario: Scenario) -> list[Fault]:
    """Draws what goes wrong in a scenario, in the order in which it happens."""
    drawn = []
    for kind in KINDS:
        rng = stream(scenario.seed, kind.name)
        happens, number = rng.random() < kind.probability, 0
        while happens:
            at_s = rng.random() * scenario.span_s
            who, numbers = kind.draw(rng, scenario)
            drawn.append(Fault(kind.name, number, at_s, who, numbers))
            number += 1
            happens = rng.random() < kind.more
    return sorted(drawn, key=lambda fault: fault.at_s)
