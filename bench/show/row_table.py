"""Writes rows as a table: what differs is in columns, what all rows share stands below."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from leash.bench.harness.foreign import MOST_FOREIGN
from leash.bench.harness.rows import Row

MARK: Final = "!"  # of a row whose processors others took too much of
NARROWEST: Final = 80
WIDEST: Final = 400


@dataclass(frozen=True, slots=True)
class Column:
    """A column; if all rows agree, it becomes a condition below the table."""

    title: str
    text: Callable[[Row], str]  # its cell; empty if the row has no value for it
    left: bool = False
    is_figure: bool = False  # whether it is measured, and so never a condition


def _ms(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        ms: float = getattr(row, name) * 1e3
        return f"{ms:.3f}" if ms >= 0.01 else f"{ms:.2g}"

    return text


def _optional_ms(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = getattr(row, name)
        return "" if value is None else f"{value * 1e3:.0f}"

    return text


def _us(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = getattr(row, name)
        return "" if value is None else f"{value * 1e6:.1f}"

    return text


def _percent(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = getattr(row, name)
        return "" if value is None else f"{value:.0%}"

    return text


def _last_loss(of_seeds: Callable[[list[float]], float]) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        if row.losses is None:
            return ""
        last = [curve[-1] for curve in row.losses]
        numbers = [loss for loss in last if loss is not None]
        return f"{of_seeds(numbers):.3f}" if len(numbers) == len(last) else "no number"

    return text


def _others(row: Row) -> str:
    if row.foreign_share is None:
        return ""
    return f"{row.foreign_share:.1%}{f' {MARK}' if _is_loud(row) else ''}"


def _is_loud(row: Row) -> bool:
    return row.foreign_share is not None and row.foreign_share >= MOST_FOREIGN


def _instructions(row: Row) -> str:
    return "" if row.instructions is None else f"{row.instructions:,.0f}"


def _longest(row: Row) -> str:
    return "" if row.longest_s is None else f"{row.longest_s * 1e3:.0f}"


def _to_target(row: Row) -> str:
    if row.target is None:
        return ""
    return "never" if row.to_target_s is None else f"{row.to_target_s:.1f}"


def _accuracy(row: Row) -> str:
    return "" if row.accuracy is None else f"{row.accuracy:.2%}"


def _peak(row: Row) -> str:
    return "" if row.server_peak_nbytes is None else size_of(row.server_peak_nbytes)


COLUMNS: Final = (
    Column("case", lambda row: row.case, left=True),
    Column("size", lambda row: size_of(row.nbytes) if row.nbytes else ""),
    Column("system", lambda row: row.system, left=True),
    Column("transport", lambda row: row.transport, left=True),
    Column("codec", lambda row: row.codec, left=True),
    Column("policy", lambda row: row.policy, left=True),
    Column("workers", lambda row: str(row.workers)),
    Column("shards", lambda row: str(row.shards)),
    Column("threads", lambda row: str(row.threads)),
    Column("Gbit/s", lambda row: "" if row.bandwidth_gbit is None else f"{row.bandwidth_gbit:g}"),
    Column("loss", _last_loss(statistics.fmean), is_figure=True),
    Column("lowest", _last_loss(min), is_figure=True),
    Column("highest", _last_loss(max), is_figure=True),
    Column("counted by", lambda row: row.instructions_by or "", left=True),
    Column("repeats", lambda row: str(row.repeats), is_figure=True),
    Column("median ms", _ms("median_s"), is_figure=True),
    Column("p99 ms", _ms("p99_s"), is_figure=True),
    Column("/s", lambda row: f"{row.per_s:,.1f}", is_figure=True),
    Column("GB/s", lambda row: f"{row.gbytes_per_s:.3f}" if row.nbytes else "", is_figure=True),
    Column("instructions", _instructions, is_figure=True),
    Column("of bandwidth", _percent("bandwidth_share"), is_figure=True),
    Column("server CPU µs", _us("server_cpu_s"), is_figure=True),
    Column("loop µs", _us("server_loop_s"), is_figure=True),
    Column("core µs", _us("server_core_s"), is_figure=True),
    Column("hidden", _percent("hidden_share"), is_figure=True),
    Column("kept", _percent("kept"), is_figure=True),
    Column("page CPU", _percent("page_cpu_share"), is_figure=True),
    Column("age, 95 %, ms", _optional_ms("page_age_p95_s"), is_figure=True),
    Column("s to target", _to_target, is_figure=True),
    Column("accuracy", _accuracy, is_figure=True),
    Column("longest ms", _longest, is_figure=True),
    Column("server peak", _peak, is_figure=True),
    Column("others", _others, is_figure=True),
)


def print_table(title: str, rows: Sequence[Row], peers: Sequence[str]) -> None:
    """Prints every row, with its ratio to each peer that was measured in the same run.

    Args:
        title: of the table.
        rows: to print.
        peers: systems, in the order of their columns.
    """
    table = Table(title=title, caption=caption(rows))
    columns = [c for c in (*COLUMNS, *_ratios(rows, peers)) if _differs(c, rows)]
    for column in columns:
        table.add_column(column.title, justify="left" if column.left else "right")
    many = Counter(map(_where, rows))
    for row, following in zip(rows, (*rows[1:], rows[-1]), strict=True):
        ends = _where(following) != _where(row) and many[_where(row)] + many[_where(following)] > 2
        table.add_row(*(column.text(row) for column in columns), end_section=ends)
    console = Console()
    console.width = WIDEST
    # The table is so wide that no column is cut, even in a file.
    longest = max(map(len, caption(rows).splitlines()))
    console.width = max(NARROWEST, console.measure(table).maximum, longest)
    console.print(table)


def caption(rows: Sequence[Row]) -> str:
    """Writes the conditions, which hold for all rows, and what a mark means if a row has one."""
    same = [
        f"{c.title} {text}"
        for c in COLUMNS
        if not c.is_figure and not _differs(c, rows) and (text := c.text(rows[0]))
    ]
    row, loud = rows[0], sum(map(_is_loud, rows))
    warning = (
        f"\n{MARK} {loud} of {len(rows)} rows: other processes took {MOST_FOREIGN:.0%} of the "
        "processors or more, each time that a round was tried"
    )
    return (
        f"{', '.join(same)}\n{row.cpu}, {row.cores} cores, {row.instruction_set}; "
        f"{row.versions}; commit {row.commit}{warning if loud else ''}"
    )


def size_of(nbytes: int) -> str:
    """Writes a size: 87000 ▸ 87 KB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes} B"


def _differs(column: Column, rows: Sequence[Row]) -> bool:
    texts = {column.text(row) for row in rows}
    return texts != {""} if column.is_figure else len(texts) > 1


def _ratios(rows: Sequence[Row], peers: Sequence[str]) -> list[Column]:
    return [
        Column(f"× {peer}", _ratio(rows, peer), is_figure=True)
        for peer in peers
        if any(row.system == peer for row in rows)
    ]


def _ratio(rows: Sequence[Row], peer: str) -> Callable[[Row], str]:
    """Makes a column of ratios to a peer in the same case, at the same size and number.

    A peer that takes only one worker is compared with any number of workers.
    """
    per_s = {_where(row): row.per_s for row in rows if row.system == peer}
    only_one = all(workers == 1 for _, _, workers in per_s)

    def text(row: Row) -> str:
        case, nbytes, workers = _where(row)
        base = per_s.get((case, nbytes, 1 if only_one else workers))
        return "" if base is None or row.system == peer else f"{row.per_s / base:.2f}"

    return text


def _where(row: Row) -> tuple[str, int, int]:
    return row.case, row.nbytes, row.workers
