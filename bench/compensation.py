"""How much staleness does training bear, and what changes if stale updates are softened?

Sixteen workers train a small network on scikit-learn's digits under asp, all in one process: the
core's shard is the real one, the workers are virtual. Each step takes a random time, from the seed,
so workers finish in a changing order, and an update is 15 others old on average. The losses do not
depend on the machine's speed. The sweep goes over learning rates and ways; the edge is
the largest rate at which plain asp ends, with every seed, below the loss that it began with.

    python -m leash.bench.compensation [--short] [--json FILE] [--picture FILE]
"""

import heapq
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from leash.bench.command import bench_main
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.trial import Times, Trial
from leash.bench.harness.workload import F32
from leash.bench.options import BenchOptions
from leash.ps._core import (
    ChunkSpec,
    DelayCompensation,
    Nonfinite,
    Rule,
    SgdOptions,
    Shard,
    StalenessRate,
)
from leash.worker.datasets.base import DatasetOptions
from leash.worker.datasets.digits import load_digits

TITLE = "training loss after so many updates of 16 workers under asp"
PEERS = ()

WORKERS: Final = 16
BATCH: Final = 16
SEEDS: Final = (1, 2, 3)
HIDDEN: Final = 64
UPDATES, SHORT_UPDATES = 800, 200
POINTS: Final = 20  # points of a curve, evenly over the updates, after the loss before the first
RATES, SHORT_RATES = (0.05, 0.1, 0.14, 0.2, 0.28, 0.4, 0.57, 0.8, 1.13), (0.1, 0.2)
STEP_SHAPE: Final = 4.0  # a step's time is from a gamma distribution of this shape and mean 1

# The papers' own strengths are 0.04 and 2. The first is of per-sample gradients' size on another
# task: the square of a mean of b gradients is about 1/b of their mean square, so b is tried too.
WAYS: Final[dict[str, dict[str, Any]]] = {
    "asp": {},
    "lr/τ": {"staleness_rate": StalenessRate("inverse")},
    "lr/√(1+τ)": {"staleness_rate": StalenessRate("poly", power=0.5)},
    "dc, λ 0.04": {"compensation": DelayCompensation("constant", strength=0.04)},
    "dc, λ 16": {"compensation": DelayCompensation("constant", strength=float(BATCH))},
    "dc adaptive, λ 2": {"compensation": DelayCompensation("adaptive", strength=2.0, decay=0.95)},
}


def measure(options: BenchOptions, doing: Callable[[str, float], None]) -> list[Row]:
    """Measures all rows; leash.bench.push_pull explains the arguments."""
    torch.set_num_threads(1)
    task = DigitsTask()
    rates = SHORT_RATES if options.short else RATES
    updates = SHORT_UPDATES if options.short else UPDATES
    rows = []
    for i, lr in enumerate(rates):
        for k, way in enumerate(WAYS):
            doing(f"{way}, lr {lr:g}", (i + k / len(WAYS)) / len(rates))
            rows.append(measure_way(task, way, lr, updates))
    return rows


def measure_way(task: "DigitsTask", way: str, lr: float, updates: int) -> Row:
    """Trains once for each seed, and makes the row."""
    times: list[float] = []
    losses = [train(task, way, lr, updates, seed, times) for seed in SEEDS]
    trial = Trial(bench="compensation", system=way, case=f"lr {lr:g}", workers=WORKERS)
    return make_row(trial, Times(0, (times,)), lr=lr, losses=losses)


class DigitsTask:
    """A network and its samples; gives the loss and gradient at a flat array of parameters."""

    def __init__(self) -> None:
        digits = load_digits(DatasetOptions(test=False))
        inputs, self.targets = next(
            digits.train_batches(range(digits.train_size), digits.train_size)
        )
        self.inputs = inputs.flatten(1)
        self.model = nn.Sequential(
            nn.Linear(self.inputs.shape[1], HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10)
        )
        self.values = sum(p.numel() for p in self.model.parameters())
        self._w, self._g = torch.zeros(self.values), torch.zeros(self.values)
        begin = 0
        for p in self.model.parameters():
            end = begin + p.numel()
            p.data, p.grad = self._w[begin:end].view_as(p), self._g[begin:end].view_as(p)
            begin = end

    def first_values(self, seed: int) -> F32:
        torch.manual_seed(seed)
        for layer in self.model:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        return self._w.numpy().copy()

    def gradient(self, parameters: F32, batch: npt.NDArray[np.int64]) -> F32:
        """The gradient at these parameters, in an array that the next call overwrites."""
        self._w.copy_(torch.from_numpy(parameters))
        self._g.zero_()
        rows = torch.from_numpy(batch)
        self._loss(self.inputs[rows], self.targets[rows]).backward()  # type: ignore[no-untyped-call]
        found: F32 = self._g.numpy()
        return found

    @torch.no_grad()
    def loss(self, parameters: F32) -> float | None:
        """The loss over all training samples; None if it is no number."""
        self._w.copy_(torch.from_numpy(parameters))
        loss = float(self._loss(self.inputs, self.targets))
        return loss if math.isfinite(loss) else None

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.model(inputs), targets)


def train(
    task: DigitsTask, way: str, lr: float, updates: int, seed: int, times: list[float]
) -> list[float | None]:
    """Trains; gives the losses at the start and at POINTS later updates, and notes times."""
    rng = np.random.default_rng(seed)
    shard = Shard(
        [ChunkSpec(values=task.values, dtype="f32", kind="parameter")], SgdOptions(lr=lr),
        rule=Rule(), nonfinite=Nonfinite.APPLY, **WAYS[way],
    )  # fmt: skip
    shard.init(0, task.first_values(seed))
    have = _join(shard, task.values)
    losses = [_loss_of(task, shard)]
    steps = dict.fromkeys(have, 0)
    for number, worker in zip(range(1, updates + 1), finishing(rng), strict=False):
        began_s = time.perf_counter()
        batch = rng.integers(len(task.inputs), size=BATCH)
        have[worker][:] = task.gradient(have[worker], batch)
        steps[worker] += 1
        shard.push(0, worker, steps[worker], BATCH, have[worker], True)
        times.append(time.perf_counter() - began_s)
        if number % (updates // POINTS) == 0:
            losses.append(_loss_of(task, shard))
    return losses


def finishing(rng: np.random.Generator) -> Iterator[int]:
    """Yields the workers in the order in which they finish their steps."""

    def takes() -> float:
        return float(rng.gamma(STEP_SHAPE, 1 / STEP_SHAPE))

    running = [(takes(), worker) for worker in range(1, WORKERS + 1)]
    heapq.heapify(running)
    while True:
        now, worker = running[0]
        yield worker
        heapq.heapreplace(running, (now + takes(), worker))


def _join(shard: Shard, values: int) -> dict[int, F32]:
    """Joins the workers; gives each one's parameters, as it pulls them."""
    have: dict[int, F32] = {
        worker: np.empty(values, np.float32) for worker in range(1, WORKERS + 1)
    }
    for worker in have:
        shard.join(worker, 0)
    for worker, parameters in have.items():
        shard.pull(0, worker, parameters)
    return have


def _loss_of(task: DigitsTask, shard: Shard) -> float | None:
    parameters: F32 = np.empty(task.values, np.float32)
    shard.pull(0, None, parameters)
    return task.loss(parameters)


def main(argv: Sequence[str] | None = None) -> int:
    return bench_main("compensation", argv)


if __name__ == "__main__":
    raise SystemExit(main())
