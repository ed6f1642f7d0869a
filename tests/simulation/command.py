"""Runs simulated clusters: `python -m tests.simulation --seeds 10000`, or `--seed 17 --trace`."""

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from typing import Any, Final

from simulation.cluster import Outcome, simulate
from simulation.shrink import shrink
from simulation.trace import Trace

CHUNK: Final = 50  # seeds that a process takes at a time
TELL_S: Final = 30.0  # how far it is, is told so often


def parser() -> argparse.ArgumentParser:
    """Says what can be given."""
    made = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    made.add_argument("--seeds", type=int, metavar="N", help="run so many seeds; 0 for ever")
    made.add_argument("--first", type=int, default=0, metavar="SEED", help="begin with this one")
    made.add_argument("--seed", type=int, help="run this one alone")
    made.add_argument("--trace", action="store_true", help="with --seed: a line for each event")
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; default 1")
    made.add_argument("--workers", type=int, metavar="N", help="of each run, instead of drawn")
    made.add_argument("--steps", type=int, metavar="N", help="of each worker, likewise")
    made.add_argument("--no-faults", action="store_true", help="nothing goes wrong")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line says; gives the exit status, 1 if a violation was found."""
    gc.freeze()  # what is imported stays, so that nobody need look at it again and again
    gc.set_threshold(50_000)
    given = parser().parse_args(arguments)
    fixed: dict[str, Any] = {
        name: value for name in ("workers", "steps") if (value := getattr(given, name)) is not None
    }
    if given.no_faults:
        fixed["faults"] = []
    if given.seed is not None:
        return replay(given.seed, trace=given.trace, fixed=fixed)
    if given.seeds is None:
        print("give --seeds N, or --seed K")
        return 2
    seeds = count(given.first)
    return run_many(islice(seeds, given.seeds) if given.seeds else seeds, given.jobs, fixed)


def replay(seed: int, *, trace: bool, fixed: dict[str, Any]) -> int:
    """Runs one seed, and shows what happens."""
    lines = Trace() if trace else None
    outcome = simulate(seed, trace=lines, **fixed)
    print(outcome.scenario)
    for fault in outcome.faults:
        print(fault)
    if lines is not None:
        print(*lines.lines, sep="\n")
    print(verdict(outcome))
    if outcome.violation:
        tell_shrunken(outcome, fixed)
    return bool(outcome.violation)


def verdict(outcome: Outcome) -> str:
    """How a run ended, in a line."""
    if outcome.violation:
        return f"seed {outcome.scenario.seed}: {outcome.violation}"
    return f"seed {outcome.scenario.seed}: {outcome.how} at {outcome.now_s:.3f} s"


def tell_shrunken(outcome: Outcome, fixed: dict[str, Any]) -> None:
    """Shows the fewest faults with which a seed fails."""
    seed, others = outcome.scenario.seed, {k: v for k, v in fixed.items() if k != "faults"}
    kept = shrink(outcome.faults, lambda f: bool(simulate(seed, faults=f, **others).violation))
    print(f"seed {seed}: {len(kept)} of {len(outcome.faults)} faults are enough:")
    for fault in kept:
        print(f"  {fault}")
    print(verdict(simulate(seed, faults=kept, **others)))
    words = [f"--{name} {fixed[name]}" for name in ("workers", "steps") if name in fixed]
    print(f"replay: python -m tests.simulation --seed {seed} --trace", *words)


def run_some(seeds: Sequence[int], fixed: dict[str, Any]) -> list[Outcome]:
    """Runs seeds, one after the other."""
    return [simulate(seed, **fixed) for seed in seeds]


def run_many(seeds: Iterable[int], jobs: int, fixed: dict[str, Any]) -> int:
    """Runs seeds in several processes; tells of each that fails, and in the end of all."""
    began_s, endings, failed = time.monotonic(), Counter[str](), 0
    told_s = began_s
    for outcome in outcomes(iter(seeds), jobs, fixed):
        failed += bool(outcome.violation)
        if outcome.violation:
            print(verdict(outcome), flush=True)
            tell_shrunken(outcome, fixed)
        else:
            endings[outcome.how] += 1
        if time.monotonic() >= told_s + TELL_S:
            told_s = time.monotonic()
            print(f"{failed + endings.total()} seeds, {failed} violations so far", file=sys.stderr)
    seconds = time.monotonic() - began_s
    for ending, times in endings.most_common():
        print(f"{times:8d}  {ending}")
    total = failed + endings.total()
    print(
        f"{total} seeds, {failed} violations, {seconds:.1f} s, {60 * total / seconds:.0f} a minute"
    )
    return bool(failed)


def outcomes(seeds: Any, jobs: int, fixed: dict[str, Any]) -> Iterable[Outcome]:
    """The outcomes of seeds, in no particular order, as they come."""
    portions = iter(lambda: list(islice(seeds, CHUNK)), [])
    if jobs == 1:
        for portion in portions:
            for seed in portion:
                yield simulate(seed, **fixed)
        return
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(run_some, portion, fixed) for portion in islice(portions, 2 * jobs)]
        while waiting:
            done = waiting.pop(0)
            waiting.extend(pool.submit(run_some, portion, fixed) for portion in islice(portions, 1))
            yield from done.result()
