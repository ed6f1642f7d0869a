"""How long does it take to push a gradient and pull the parameters that it led to?

Workers and servers are processes on this machine. For one size and one number of workers, all
systems run side by side and take turns, round by round: Leash with each transport and codec, other
systems that do the same, and the limits that no parameter server can beat. With --bandwidth-gbit 1
there is a slow network between workers and server, of so many Gbit/s each way
(harness/slow_network.py). What cannot go over it is left out, and that is said.

Beside the times are the instructions that all workers and servers of a row execute in user space
for one exchange. The processor's counters tell them (harness/instructions.py). Where a machine has
none, --instructions has each row do a handful of exchanges under callgrind (harness/callgrind.py).

    python -m leash.bench.push_pull [--short] [--sizes 87e3,64e6] [--workers 1,2] [--json FILE] ...
"""

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from leash.bench.command import bench_main
from leash.bench.harness.callgrind import (
    count_under_callgrind,
    require_callgrind,
    under_callgrind,
)
from leash.bench.harness.crew import crew
from leash.bench.harness.instructions import counted, why_not_counted
from leash.bench.harness.process_tree import own_processes
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.slow_network import slow_network, through_relay
from leash.bench.harness.trial import Round, Times, Trial, in_turn
from leash.bench.harness.workload import SSP_BOUND
from leash.bench.options import (
    MEASURED_CODECS,
    MEASURED_POLICIES,
    TRANSPORTS,
    BenchOptions,
    parse_sizes,
    parse_words,
)
from leash.bench.show.row_table import size_of
from leash.bench.systems import LIMITS, SYSTEMS, System
from leash.ps.errors import LeashError, UsageError
from leash.ps.options.base import parse_counts

TITLE = "push_pull, processes on one machine"
PEERS = ("gloo", "ddp", "rpc", "ray", "lane_echo", "zmq_echo", "fused_sgd")

EXCHANGE_SIZES, SHORT_EXCHANGE_SIZES = "87e3,4e6,64e6,256e6", "87e3,4e6"
# More workers and more shards are measured at two sizes only, and without codecs.
MANY_SIZES = (4_000_000, 64_000_000)
MANY_WORKERS, MANY_SHARDS = "1,2,4,8", "1,2"
PERF_EVENT: Final = "perf_event"
CALLGRIND: Final = "callgrind"


def measure(options: BenchOptions, doing: Callable[[str, float], None]) -> list[Row]:
    """Measures all rows.

    Args:
        options: of `leash bench`.
        doing: is told what comes next, and which part of the whole is done, from 0 to 1.
    """
    rounds, round_s = options.rounds or (3 if options.short else 5), options.round_s or 0.5
    systems, missing = systems_of(options)
    for name, why in missing.items():
        print(f"push_pull: without {name}: {why}")
    if options.bandwidth_gbit is not None:
        systems = _over_network(systems)
    count = _counter(options)
    groups = plan(options, systems)
    if options.systems is not None:
        _check_each_takes_part(systems, groups)
    rows: list[Row] = []
    for i, trials in enumerate(groups):
        first = trials[0]
        doing(f"{size_of(first.nbytes)}, workers {first.workers}", i / len(groups))
        with ExitStack() as stack:
            running = {trial: _start(trial, stack) for trial in trials}
            for_one: dict[Trial, list[float]] = {trial: [] for trial in trials}
            times = in_turn(rounds, round_s, {
                trial: counted(go, processes, for_one[trial]) if count == PERF_EVENT else go
                for trial, (go, processes) in running.items()
            })  # fmt: skip
        for trial in trials:
            if count == PERF_EVENT:
                del for_one[trial][0]  # of the warm-up
            if count == CALLGRIND:
                doing(f"instructions of {trial.system}", i / len(groups))
                for_one[trial] += _by_callgrind(trial)
        rows += [_row(trial, times[trial], count, for_one[trial]) for trial in trials]
    return rows


def _row(trial: Trial, times: Times, count: str | None, for_one: list[float]) -> Row:
    """Makes a row, with the median of what the rounds counted for one exchange."""
    if not for_one:
        return make_row(trial, times)
    return make_row(trial, times, instructions=statistics.median(for_one), instructions_by=count)


def _counter(options: BenchOptions) -> str | None:
    """What counts instructions: says so if nothing does.

    Raises:
        LeashError: callgrind has to, and is not installed.
    """
    why = why_not_counted()
    if why is None:
        return PERF_EVENT
    if options.instructions:
        require_callgrind()
        return CALLGRIND
    print(f"push_pull: without instructions: {why}; --instructions counts them by callgrind")
    return None


def _by_callgrind(trial: Trial) -> list[float]:
    """Counts in processes that are started for that; says so if that is not possible."""
    if (SYSTEMS | LIMITS)[trial.system].has_daemons:
        print(f"push_pull: without instructions of {trial.system}, whose daemons are not followed")
        return []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            with under_callgrind(folder):
                go, processes = _start(trial, stack)
            return [count_under_callgrind(go, processes, folder)]
        except LeashError as error:
            print(f"push_pull: without instructions of {trial.system}: {error}")
            return []


def _start(trial: Trial, stack: ExitStack) -> tuple[Round, set[int]]:
    """Starts a trial; gives the function that runs a round, and the servers and workers in it."""
    system, others = (SYSTEMS | LIMITS)[trial.system], own_processes()
    address = stack.enter_context(system.serve(trial))
    if trial.bandwidth_gbit is not None:
        assert system.ports is not None
        servers = own_processes()
        stack.enter_context(slow_network(system.ports(address), trial.bandwidth_gbit))
        others |= own_processes() - servers
        address = through_relay(address)
    go = stack.enter_context(crew(trial, system.join, address, ahead=_ahead(trial, system)))
    return go, own_processes() - others


def _ahead(trial: Trial, system: System) -> int | None:
    """By how many exchanges one of its workers may be ahead of another; None: by any number."""
    if system.all_at_once:
        return 0
    return {"bsp": 0, "ssp": SSP_BOUND}.get(trial.policy)


def systems_of(options: BenchOptions) -> tuple[dict[str, System], dict[str, str]]:
    """The systems that were asked for, with the limits; and why some of them are missing."""
    asked = parse_words("--systems", options.systems or ",".join(SYSTEMS), tuple(SYSTEMS))
    missing = {name: why for name in asked if (why := SYSTEMS[name].why_missing()) is not None}
    return {name: SYSTEMS[name] for name in asked if name not in missing} | LIMITS, missing


def _over_network(systems: Mapping[str, System]) -> dict[str, System]:
    """Those that can go over a slow network; says which cannot.

    Raises:
        UsageError: none of them can.
    """
    over = {name: system for name, system in systems.items() if system.ports is not None}
    near = [name for name in systems if name not in over]
    if not over.keys() & SYSTEMS.keys():
        can = ", ".join(name for name, system in SYSTEMS.items() if system.ports is not None)
        raise UsageError(f"--bandwidth-gbit: nothing goes over that network; give --systems {can}")
    if near:
        print(f"push_pull: without {', '.join(near)}: the network of --bandwidth-gbit carries TCP "
              "to a server, at the address that a worker is told")  # fmt: skip
    return over


def _check_each_takes_part(
    systems: Mapping[str, System], groups: Sequence[Sequence[Trial]]
) -> None:
    """Raises UsageError for a system that was named, but takes none of the numbers of workers."""
    measured = {trial.system for trials in groups for trial in trials}
    for name in systems:
        if name in SYSTEMS and name not in measured:
            raise UsageError(f"--systems {name}: give --workers {SYSTEMS[name].fewest} or more")


def plan(options: BenchOptions, systems: Mapping[str, System]) -> list[list[Trial]]:
    """Yields the trials, in groups that take turns."""
    return [
        [t for name, system in systems.items() for t in _trials(options, name, system, *condition)]
        for condition in _conditions(options)
    ]


def _conditions(options: BenchOptions) -> Iterator[tuple[int, int]]:
    """Yields sizes and numbers of workers: by default all sizes with one, and two with more."""
    sizes = parse_sizes(
        options.sizes or (SHORT_EXCHANGE_SIZES if options.short else EXCHANGE_SIZES)
    )
    if options.workers is not None or options.short:
        yield from itertools.product(sizes, parse_counts("--workers", options.workers or "1"))
        return
    yield from ((nbytes, 1) for nbytes in sizes)
    many = [n for n in parse_counts("--workers", MANY_WORKERS) if n > 1]
    yield from itertools.product([n for n in sizes if n in MANY_SIZES], many)


def _trials(
    options: BenchOptions, name: str, system: System, nbytes: int, workers: int
) -> Iterator[Trial]:
    if not system.takes(workers):
        return
    if not system.is_leash:
        yield Trial(bench="push_pull", system=name, transport=_transport_of(name), nbytes=nbytes,
                    workers=workers, bandwidth_gbit=options.bandwidth_gbit)  # fmt: skip
        return
    asked = options.policies
    policies = [""] if asked is None else parse_words("--policies", asked, MEASURED_POLICIES)
    variants = _leash_variants(options, system, nbytes, workers)
    for (transport, codec, shards), policy in itertools.product(variants, policies):
        yield Trial(bench="push_pull", system=name, transport=transport, codec=codec,
                    nbytes=nbytes, workers=workers, shards=shards, policy=policy,
                    bandwidth_gbit=options.bandwidth_gbit)  # fmt: skip


def _leash_variants(
    options: BenchOptions, system: System, nbytes: int, workers: int
) -> Iterator[tuple[str, str, int]]:
    carried = TRANSPORTS if options.bandwidth_gbit is None else ("tcp",)
    transports = parse_words("--transports", options.transports or ",".join(carried), TRANSPORTS)
    for transport in transports:
        # In shared memory nothing travels, so by default no codec is measured there.
        every = ",".join(MEASURED_CODECS) if (transport, workers) == ("tcp", 1) else "f32"
        asked = options.codecs or system.codecs or every
        for codec in parse_words("--codecs", asked, MEASURED_CODECS):
            for shards in _shards(options, nbytes, codec):
                yield transport, codec, shards


def _shards(options: BenchOptions, nbytes: int, codec: str) -> list[int]:
    if options.shards is not None:
        return parse_counts("--shards", options.shards)
    alone = options.short or codec != "f32" or nbytes not in MANY_SIZES
    return [1] if alone else parse_counts("--shards", MANY_SHARDS)


def _transport_of(system: str) -> str:
    return {"memcpy": "", "fused_sgd": "", "ray": "shm"}.get(system, "tcp")


def main(argv: Sequence[str] | None = None) -> int:
    return bench_main("push_pull", argv)


if __name__ == "__main__":
    raise SystemExit(main())
