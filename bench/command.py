"""The `leash bench` command: runs benchmarks, prints their tables, writes and draws their rows."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console
from rich.progress import Progress

from leash.bench.harness.needs import require
from leash.bench.harness.rows import Row, write_json
from leash.bench.options import BenchOptions
from leash.bench.show.row_table import print_table
from leash.ps import cli
from leash.ps.options.base import make_folder

NEEDS: Final = {
    "kernels": "torch",
    "training": "torch",
    "compensation": "torch",
    "scaling": "psutil",
    "page": "psutil",
    "em": "sklearn",
    "unequal": "torch",
}

Doing = Callable[[str, float], None]


class Benchmark(Protocol):
    """The contents of a module of this package that is a benchmark."""

    TITLE: str
    PEERS: tuple[str, ...]  # the table shows ratios to these systems

    @staticmethod
    def measure(options: BenchOptions, doing: Doing) -> list[Row]: ...


def run(options: BenchOptions) -> int:
    """Runs the benchmarks that were chosen; returns the exit status.

    Raises:
        LeashError: a package that they need is missing.
    """
    for name in options.chosen:
        if name in NEEDS:
            require(NEEDS[name], name)
    if options.picture is not None:
        require("matplotlib", "--picture")
    for option_flag, place in (("--json", options.json), ("--picture", options.picture)):
        if place is not None:  # with all benchmarks, a folder for a file of each
            is_folder = options.benchmark == "all"
            make_folder(option_flag, Path(place) if is_folder else Path(place).parent)
    for name in options.chosen:
        rows = run_benchmark(name, options)
        if options.json is not None:
            write_json(_place(options, options.json, f"{name}.json"), rows)
        if options.picture is not None:
            from leash.bench.show.pictures import draw

            draw(rows, _place(options, options.picture, f"{name}.svg"))
    return 0


def run_benchmark(name: str, options: BenchOptions) -> list[Row]:
    """Runs one benchmark, shows how far it is, and prints its table."""
    benchmark: Benchmark = importlib.import_module(f"leash.bench.{name}")  # type: ignore[assignment]
    # Progress goes to stderr, since a program may read the table.
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=1)

        def doing(what: str, done: float) -> None:
            progress.update(task, description=f"{name}: {what}", completed=done)

        rows = benchmark.measure(options, doing)
    print_table(benchmark.TITLE, rows, benchmark.PEERS)
    return rows


def _place(options: BenchOptions, path: str, name: str) -> Path:
    return Path(path) / name if options.benchmark == "all" else Path(path)


def bench_main(name: str, argv: Sequence[str] | None) -> int:
    """`python -m bench.NAME` is `leash bench NAME`. Never returns: exits with the status."""
    cli.main(["bench", name, *(sys.argv[1:] if argv is None else argv)])
