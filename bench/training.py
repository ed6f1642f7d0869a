"""What does the parameter server cost a training?

Steps a second of mnist_cnn and resnet18 with 1, 2 and 4 workers under asp, which never waits,
beside one bare process that trains the same model on the same batch with torch.optim.SGD.
The samples are random tensors of the data sets' shapes; torch has one thread in each process. All
take turns.

`compute` is forward and backward alone. The rest of a step is the exchange; its hidden share is the
part that overlapping takes away.

    python -m leash.bench.training [--short] [--workers 1,2] [--json FILE] [--picture FILE]
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from leash.bench.command import bench_main
from leash.bench.harness.crew import Join, crew
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.trial import Exchange, Round, Trial, in_turn
from leash.bench.options import TRANSPORTS, BenchOptions
from leash.bench.systems.leash import server
from leash.ps.options.base import parse_counts

TITLE = "training, steps/s of all workers together"
PEERS = ("bare",)

TRAINING_WORKERS, SHORT_TRAINING_WORKERS = "1,2,4", "1,2"
TRAINING_LR: Final = 0.01


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """A model, and a batch of its data set's shape."""

    shape: tuple[int, ...]  # that of a sample
    batch_size: int
    classes: int = 10


TASKS: Final = {
    "mnist_cnn": TrainingTask((1, 28, 28), batch_size=100),
    "resnet18": TrainingTask((3, 32, 32), batch_size=16),
}
SHORT_TASKS: Final = ("mnist_cnn",)


def measure(options: BenchOptions, doing: Callable[[str, float], None]) -> list[Row]:
    """Measures all rows; leash.bench.push_pull explains the arguments."""
    counts = parse_counts(
        "--workers",
        options.workers or (SHORT_TRAINING_WORKERS if options.short else TRAINING_WORKERS),
    )
    rounds, round_s = options.rounds or (2 if options.short else 5), options.round_s or 2.0
    models = SHORT_TASKS if options.short else tuple(TASKS)
    rows: list[Row] = []
    for i, model in enumerate(models):
        doing(model, i / len(models))
        rows += measure_model(model, counts, rounds, round_s)
    return rows


def measure_model(model: str, counts: list[int], rounds: int, round_s: float) -> list[Row]:
    nbytes = model_nbytes(model)
    with ExitStack() as stack:
        running = {
            trial: start_training(trial, stack) for trial in training_trials(model, nbytes, counts)
        }
        times = in_turn(rounds, round_s, running)
    return with_hidden_shares([make_row(trial, times[trial]) for trial in running])


def training_trials(model: str, nbytes: int, counts: list[int]) -> Iterator[Trial]:
    common = Trial(bench="training", system="bare", case=model, nbytes=nbytes)
    yield common
    yield replace(common, system="compute")
    for transport, workers in itertools.product(TRANSPORTS, counts):
        yield replace(common, system="leash", transport=transport, workers=workers)
    for transport in TRANSPORTS:
        yield replace(common, system="leash_overlap", transport=transport)


def start_training(trial: Trial, stack: ExitStack) -> Round:
    if trial.system in BASELINES:
        return stack.enter_context(crew(trial, BASELINES[trial.system], ""))
    options = (
        "--policy=asp",
        f"--workers={trial.workers}",
        f"--lr={TRAINING_LR}",
        "--nonfinite=apply",
    )
    address, _ = stack.enter_context(server(*options))
    return stack.enter_context(crew(trial, training_worker, address))


# In a worker's process, a step is timed.


@contextmanager
def bare(trial: Trial, _: str, __: int) -> Iterator[Exchange]:
    import torch

    model, backward = model_of(trial)
    optimizer = torch.optim.SGD(model.parameters(), lr=TRAINING_LR)

    def step() -> None:
        optimizer.zero_grad()
        backward()
        optimizer.step()

    yield step


@contextmanager
def compute(trial: Trial, _: str, __: int) -> Iterator[Exchange]:
    model, backward = model_of(trial)

    def step() -> None:
        model.zero_grad()
        backward()

    yield step


@contextmanager
def training_worker(trial: Trial, address: str, rank: int) -> Iterator[Exchange]:
    from leash.worker.optim.optimizer import PSOptimizer

    model, backward = model_of(trial)
    with PSOptimizer(
        model.named_parameters(), address, rank, transport=trial.transport,
        overlap=trial.system == "leash_overlap",
    ) as optimizer:  # fmt: skip

        def step() -> None:
            optimizer.zero_grad()
            optimizer.begin_step()
            backward()
            optimizer.step()

        yield step


BASELINES: Final[dict[str, Join]] = {"bare": bare, "compute": compute}


def model_of(trial: Trial) -> tuple[Any, Exchange]:
    """Makes the model, and a function that does forward and backward for one batch."""
    import torch

    from leash.ps._core import keep_freed_memory
    from leash.worker.models import BUILDERS

    keep_freed_memory()  # as `leash worker` does, and so that page faults slow down nobody else
    task = TASKS[trial.case]
    torch.set_num_threads(trial.threads)
    torch.manual_seed(1)
    model = BUILDERS[trial.case].build(task.shape, task.classes)
    samples = torch.randn(task.batch_size, *task.shape)
    targets = torch.randint(task.classes, (task.batch_size,))

    def backward() -> None:
        loss: Any = torch.nn.functional.cross_entropy(model(samples), targets)
        loss.backward()

    return model, backward


def model_nbytes(model: str) -> int:
    built, _ = model_of(Trial(bench="training", system="bare", case=model))
    return sum(p.numel() * 4 for p in built.parameters())


# Overlap.


def with_hidden_shares(rows: list[Row]) -> list[Row]:
    """Adds the hidden share, 1 - (overlapped step - compute) / (step - compute), for one worker."""
    step_s = {(row.system, row.transport): row.median_s for row in rows if row.workers == 1}
    compute_s = step_s["compute", ""]

    def hidden(row: Row) -> float | None:
        exchange_s = step_s.get(("leash", row.transport), compute_s) - compute_s
        # If noise is larger than the exchange, the share is unknown.
        return 1 - (row.median_s - compute_s) / exchange_s if exchange_s > 0 else None

    return [
        replace(row, hidden_share=hidden(row)) if row.system == "leash_overlap" else row
        for row in rows
    ]


def main(argv: Sequence[str] | None = None) -> int:
    return bench_main("training", argv)


if __name__ == "__main__":
    raise SystemExit(main())
