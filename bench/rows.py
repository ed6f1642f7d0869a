"""What every benchmark shares: a row with its conditions, a table, and a JSON file."""

import json
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

TABLE_WIDTH = 100  # no column is cut, even in a file


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. Sizes in bytes, times in seconds, GB are 10^9 bytes."""

    bench: str
    system: str  # leash, gloo, ...
    transport: str
    codec: str
    nbytes: int  # of the parameters that travel, one way
    workers: int
    shards: int
    warmup: int
    repeats: int
    median_s: float
    p99_s: float
    per_s: float
    gbytes_per_s: float
    commit: str
    cpu: str


def make_row(
    bench: str, system: str, transport: str, nbytes: int, times_s: Sequence[float], warmup: int
) -> Row:
    """The row of one worker's repeated exchanges of `nbytes` bytes each way."""
    median_s = statistics.median(times_s)
    return Row(
        bench=bench, system=system, transport=transport, codec="f32", nbytes=nbytes, workers=1,
        shards=1, warmup=warmup, repeats=len(times_s), median_s=median_s,
        p99_s=sorted(times_s)[min(len(times_s) - 1, int(0.99 * len(times_s)))],
        per_s=1 / median_s, gbytes_per_s=nbytes / median_s / 1e9, commit=commit(), cpu=cpu(),
    )  # fmt: skip


def commit() -> str:
    """The commit that was measured, with a + where the tree has changes."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown"


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text("utf-8").splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def size_of(nbytes: int) -> str:
    """87000 ▸ 87 KB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes} B"


def write_json(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")


def print_table(title: str, rows: Sequence[Row], base: str) -> None:
    """Every row, with its ratio to the row of system `base` of the same size."""
    by_size = {row.nbytes: row for row in rows if row.system == base}
    table = Table(title=title, caption=f"{rows[0].cpu}, commit {rows[0].commit}")
    for name in ("size", "system", "transport", "codec", "repeats", "median ms", "p99 ms", "/s",
                 "GB/s", f"× {base}"):  # fmt: skip
        table.add_column(name, justify="left" if name in ("system", "transport") else "right")
    for row in rows:
        ratio = row.per_s / by_size[row.nbytes].per_s if row.nbytes in by_size else float("nan")
        table.add_row(
            size_of(row.nbytes), row.system, row.transport, row.codec, str(row.repeats),
            f"{row.median_s * 1e3:.3f}", f"{row.p99_s * 1e3:.3f}", f"{row.per_s:.1f}",
            f"{row.gbytes_per_s:.3f}", f"{ratio:.2f}",
        )  # fmt: skip
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    console.print(table)
