"""How fast are the core's kernels, beside torch and numpy, and as a share of memory bandwidth?

They run with one thread, unless a row says otherwise. torch and numpy compute the same result, with
as many passes over memory as they need for it.

    python -m leash.bench.kernels [--short] [--sizes 1e6,64e6] [--json FILE] [--picture FILE]
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from leash.bench.bandwidth import REFERENCES, reference
from leash.bench.command import bench_main
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.trial import Trial, alone, in_turn
from leash.bench.kernel_table import KERNELS, Kernel
from leash.bench.options import BenchOptions, parse_sizes
from leash.bench.show.row_table import size_of

TITLE = "kernels"
PEERS = ("memcpy", "torch", "numpy")

KERNEL_SIZES, SHORT_KERNEL_SIZES = "1e6,4e6,16e6,64e6,256e6", "1e6,64e6"
KERNEL_WARMUP_S = 0.02
PEAK_SIDE = 1024


def measure(options: BenchOptions, doing: Callable[[str, float], None]) -> list[Row]:
    """Measures all rows; leash.bench.push_pull explains the arguments."""
    torch.set_num_threads(1)
    sizes = parse_sizes(options.sizes or (SHORT_KERNEL_SIZES if options.short else KERNEL_SIZES))
    rounds, round_s = options.rounds or (2 if options.short else 5), options.round_s or 0.05
    rows = [peak(rounds, round_s)]
    for i, nbytes in enumerate(sizes):
        for k, kernel in enumerate(KERNELS):
            doing(f"{kernel.name}, {size_of(nbytes)}", (i + k / len(KERNELS)) / len(sizes))
            rows += measure_kernel(kernel, nbytes, rounds, round_s)
    return rows


def measure_kernel(kernel: Kernel, nbytes: int, rounds: int, round_s: float) -> list[Row]:
    """Times a kernel, the systems that can do the same, memcpy of the parameters, and memory."""
    values = nbytes // 4
    target, source = np.ones(values, np.float32), np.ones(values, np.float32)
    memory, moved = reference(kernel.traffic, int(kernel.arrays * nbytes), kernel.threads)
    runs = {
        **kernel.systems(values), "memcpy": lambda: np.copyto(target, source), "memory": memory,
    }  # fmt: skip
    trials = {
        Trial(bench="kernels", system=system, case=kernel.name, nbytes=nbytes,
              threads=1 if system == "memcpy" else kernel.threads): alone(run)
        for system, run in runs.items()
    }  # fmt: skip
    times = in_turn(rounds, round_s, trials, KERNEL_WARMUP_S)
    rows = {trial.system: make_row(trial, times[trial]) for trial in trials}
    bandwidth = moved / rows["memory"].median_s
    return [_with_traffic(kernel, row, moved, bandwidth) for row in rows.values()]


def _with_traffic(kernel: Kernel, row: Row, moved: int, bandwidth: float) -> Row:
    """Adds to a row what must be read, written and computed, whatever passes a system takes."""
    values = row.nbytes // 4
    if row.system == "memcpy":
        return replace(row, traffic_nbytes=8 * values)
    if row.system == "memory":
        return replace(row, traffic_nbytes=moved, reference=REFERENCES[kernel.traffic][2])
    traffic = int((kernel.read + kernel.write) * values)
    return replace(
        row, traffic_nbytes=traffic, flops=kernel.flops * values,
        bandwidth_share=traffic / row.median_s / bandwidth,
        reference=REFERENCES[kernel.traffic][2],
    )  # fmt: skip


def peak(rounds: int, round_s: float) -> Row:
    """Measures what this processor computes without waiting for memory: the picture's roof."""
    a, b, c = (torch.ones(PEAK_SIDE, PEAK_SIDE) for _ in range(3))
    trial = Trial(bench="kernels", system="torch_mm", case="peak", nbytes=4 * PEAK_SIDE**2)
    times = in_turn(rounds, round_s, {trial: alone(lambda: torch.mm(a, b, out=c))}, KERNEL_WARMUP_S)
    return make_row(trial, times[trial], flops=2 * PEAK_SIDE**3)


def main(argv: Sequence[str] | None = None) -> int:
    return bench_main("kernels", argv)


if __name__ == "__main__":
    raise SystemExit(main())
