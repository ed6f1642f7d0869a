"""A worker's delays, drawn one after the other. ps.slowness says what there is to draw.

The laboratory's workers and the simulator use the same draws: what a run suffers is what is
predicted for its seed.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ps.slowness import Draw, Pause, Slowness, Term

SLEEPING: Final = 0  # what the numbers are drawn for: --slow,
COMPUTING: Final = 1  # --compute,
TRAVELLING: Final = 2  # --network,
FAILING: Final = 3  # --failures
_DELAYS: Final = 3  # no other seed of a run begins like this one
_BLOCK: Final = 64  # numbers drawn at a time: a single one costs nearly as much

Numbers: TypeAlias = npt.NDArray[np.float64]
Source: TypeAlias = Callable[[float], float]  # seconds of the run so far ▸ seconds of delay


class Delays:
    """The same for the same seed, rank and use, whoever asks."""

    def __init__(self, slowness: Slowness, *, seed: int, rank: int, use: int = SLEEPING) -> None:
        self._sources: Final = [
            _source(term, seed_for(seed, rank, use, number))
            for number, term in enumerate(slowness.terms)
        ]

    def next(self, at_s: float) -> float:
        """Seconds that the step is delayed which begins `at_s` seconds after the run began."""
        delay_s = 0.0
        for source in self._sources:
            delay_s += source(at_s)
        return delay_s


def seed_for(seed: int, rank: int, use: int, number: int = 0) -> np.random.SeedSequence:
    return np.random.SeedSequence([_DELAYS, seed, rank, use, number])


def _source(term: Term, seed: np.random.SeedSequence) -> Source:
    amount = term.amount
    if isinstance(amount, Draw) and amount.name == "constant":
        source = _constant(*amount.parameters)
    elif isinstance(amount, Pause) and amount.every_s is not None:
        source = _now_and_then(amount.for_s, amount.every_s, term.from_s, _generator(seed))
    else:
        source = _drawn(amount, _generator(seed))
    if (term.from_s, term.until_s) == (0.0, math.inf):
        return source
    return lambda at_s: source(at_s) if term.from_s <= at_s < term.until_s else 0.0


def _generator(seed: np.random.SeedSequence) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _constant(delay_s: float) -> Source:
    return lambda _: delay_s


def _now_and_then(
    for_s: float, every_s: float, from_s: float, generator: np.random.Generator
) -> Source:
    # Were the first pauses of all workers at the same time, nobody would wait for anybody.
    due_s = from_s + generator.uniform(0.0, every_s)

    def source(at_s: float) -> float:
        nonlocal due_s
        if at_s < due_s:
            return 0.0
        due_s = at_s + for_s + every_s
        return for_s

    return source


def _drawn(amount: Draw | Pause, generator: np.random.Generator) -> Source:
    numbers = _numbers(amount, generator)
    return lambda _: next(numbers)


def _numbers(amount: Draw | Pause, generator: np.random.Generator) -> Iterator[float]:
    while True:
        if isinstance(amount, Pause):
            yield from np.where(generator.random(_BLOCK) < amount.chance, amount.for_s, 0.0).tolist()
        else:
            yield from _DRAWS[amount.name](generator, *amount.parameters).tolist()


def _normal(generator: np.random.Generator, mean_s: float, deviation_s: float) -> Numbers:
    return np.maximum(generator.normal(mean_s, deviation_s, _BLOCK), 0.0)


def _pareto(generator: np.random.Generator, shape: float, scale_s: float) -> Numbers:
    # numpy's begins at 0.
    return scale_s * (1.0 + generator.pareto(shape, _BLOCK))


_DRAWS: Final[dict[str, Callable[..., Numbers]]] = {
    "exp": lambda generator, mean_s: generator.exponential(mean_s, _BLOCK),
    "uniform": lambda generator, low_s, high_s: generator.uniform(low_s, high_s, _BLOCK),
    "normal": _normal,
    "pareto": _pareto,
}
