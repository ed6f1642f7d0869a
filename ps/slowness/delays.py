"""Draws a worker's delays from its slowness, one after the other.

Slow workers and the simulator draw the same delays from the same seed, so the simulator predicts
what a run will suffer.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from leash.ps.slowness.grammar import Draw, Pause, Slowness, Term

# The uses of delays, each with random numbers of its own:
SLEEPING: Final = 0  # --slow
COMPUTING: Final = 1  # --compute
TRAVELLING: Final = 2  # --network
FAILING: Final = 3  # --failures
_DELAYS: Final = 3  # sets the seeds of delays apart from all other seeds of a run
_NOTHING: Final = Draw("constant", (0.0,))
_BLOCK: Final = 64  # numbers are drawn in blocks, since one costs nearly as much as a block

Numbers: TypeAlias = npt.NDArray[np.float64]
DelayAt: TypeAlias = Callable[[float], float]  # seconds of the run so far ▸ seconds of delay


class Delays:
    """The delays of one worker. The same seed, rank and use always give the same ones."""

    def __init__(self, slowness: Slowness, *, seed: int, rank: int, use: int = SLEEPING) -> None:
        sources = [
            _source(term, seed_for(seed, rank, use, number))
            for number, term in enumerate(slowness.terms)
            if term.amount != _NOTHING
        ]
        # Seconds of the run so far ▸ by how many the step is delayed that begins then.
        self.next: Final[DelayAt] = _sum_of(sources)


def seed_for(seed: int, rank: int, use: int, number: int = 0) -> np.random.SeedSequence:
    """The seed of one worker's random numbers for one use."""
    return np.random.SeedSequence([_DELAYS, seed, rank, use, number])


def _sum_of(sources: list[DelayAt]) -> DelayAt:
    if len(sources) < 2:
        return sources[0] if sources else lambda _: 0.0
    return lambda at_s: sum([source(at_s) for source in sources], 0.0)


def _source(term: Term, seed: np.random.SeedSequence) -> DelayAt:
    source = _always(term.amount, term.from_s, seed)
    if (term.from_s, term.until_s) == (0.0, math.inf):
        return source
    return lambda at_s: source(at_s) if term.from_s <= at_s < term.until_s else 0.0


def _always(amount: Draw | Pause, from_s: float, seed: np.random.SeedSequence) -> DelayAt:
    if isinstance(amount, Pause):
        return _now_and_then(amount, from_s, _generator(seed))
    if amount.name == "constant":
        return _constant(*amount.parameters)
    numbers = _numbers(amount, _generator(seed))
    return lambda _: next(numbers)


def _generator(seed: np.random.SeedSequence) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _constant(delay_s: float) -> DelayAt:
    return lambda _: delay_s


def _now_and_then(pause: Pause, from_s: float, generator: np.random.Generator) -> DelayAt:
    # If all workers paused first at the same time, none would wait for another.
    due_s = from_s + generator.uniform(0.0, pause.every_s)

    def source(at_s: float) -> float:
        nonlocal due_s
        if at_s < due_s:
            return 0.0
        due_s = at_s + pause.for_s + pause.every_s
        return pause.for_s

    return source


def _numbers(amount: Draw, generator: np.random.Generator) -> Iterator[float]:
    while True:
        yield from _DRAWS[amount.name](generator, *amount.parameters).tolist()


def _chance(generator: np.random.Generator, chance: float, for_s: float) -> Numbers:
    return np.where(generator.random(_BLOCK) < chance, for_s, 0.0)


def _normal(generator: np.random.Generator, mean_s: float, deviation_s: float) -> Numbers:
    return np.maximum(generator.normal(mean_s, deviation_s, _BLOCK), 0.0)


def _pareto(generator: np.random.Generator, shape: float, scale_s: float) -> Numbers:
    # numpy's distribution begins at 0, Pareto's own at its scale.
    return scale_s * (1.0 + generator.pareto(shape, _BLOCK))


_DRAWS: Final[dict[str, Callable[..., Numbers]]] = {
    "exp": lambda generator, mean_s: generator.exponential(mean_s, _BLOCK),
    "uniform": lambda generator, low_s, high_s: generator.uniform(low_s, high_s, _BLOCK),
    "chance": _chance,
    "normal": _normal,
    "pareto": _pareto,
}
