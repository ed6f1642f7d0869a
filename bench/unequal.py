"""How much faster does a run come to the same accuracy that does not wait for its slowest machine?

Four workers train, of which the last is eight or four times slower: before each step the others
sleep 50 ms, and it so many times as long. `ddp` is torch's DistributedDataParallel over gloo;
`leash` is `leash launch` under bsp, ssp with a bound of 3, and asp, with each policy's own data
plan: equal shares under bsp as with DDP, leases otherwise. Model, data, seed, batches and epochs
are the same, and so is the learning rate of a worker's gradient: DDP's mean of N gradients is
applied with N times that rate, as Leash does under bsp. torch has one thread in each process.

A row's /s are the steps of all workers together. `to target` counts from the first step until a
test accuracy was known to be reached, which is looked at after each epoch. Leash measures it
beside the training, in a process of its own; DDP's workers stop for it, and that time is not
counted.

With MNIST (`--data-dir`, or the environment variable MNIST) it is mnist_cnn on 4,864 of its
digits; without it logistic regression on scikit-learn's digits.

    python -m leash.bench.unequal [--short] [--data-dir DIR] [--json FILE] [--picture FILE]
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from leash.bench.command import bench_main
from leash.bench.harness.crew import SPAWN, be_quiet, end
from leash.bench.harness.foreign import watched
from leash.bench.harness.needs import require
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.trial import Times, Trial
from leash.bench.harness.workload import SSP_BOUND
from leash.bench.options import MEASURED_POLICIES, BenchOptions
from leash.ps.demo.outcome import SideOutcome, read_side
from leash.ps.errors import LeashError
from leash.ps.options.catalog import FOLDER_VARIABLES
from leash.ps.processes import module_argv

TITLE = "one of four machines is slower: steps/s of all workers, and seconds to the same accuracy"
PEERS = ("ddp",)

MACHINES: Final = 4
TIMES_SLOWER, SHORT_TIMES_SLOWER = (8, 4), (8,)
SEED: Final = 1
WAIT_S: Final = 900.0  # for a run to end
EVALUATION_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class UnequalTask:
    """What is trained, and how."""

    model: str
    dataset: str
    batch_size: int
    lr: float
    epochs: int
    limit: int | None  # so many training samples
    target: float  # of the test accuracy
    step_s: float = 0.05  # what a fast machine sleeps before each step
    data_dir: str | None = None


MNIST_TASK: Final = UnequalTask("mnist_cnn", "mnist", 32, 0.04, 4, 4864, 0.92)
DIGITS_TASK: Final = UnequalTask("linear", "digits", 16, 0.012, 6, None, 0.9)
SHORT_CHANGES: Final[dict[str, Any]] = {"epochs": 1, "step_s": 0.01}


def measure(options: BenchOptions, doing: Callable[[str, float], None]) -> list[Row]:
    """Measures all rows; leash.bench.push_pull explains the arguments. Rounds are whole runs."""
    task, rounds = task_of(options), options.rounds or 1
    if task.dataset == DIGITS_TASK.dataset:
        require("sklearn", "unequal, without MNIST,")
    slower = SHORT_TIMES_SLOWER if options.short else TIMES_SLOWER
    trials = {trial: times for times in slower for trial in unequal_trials(task, times)}
    found: dict[Trial, list[tuple[SideOutcome, float | None]]] = {trial: [] for trial in trials}
    for number in range(rounds):
        for i, (trial, times) in enumerate(trials.items()):
            done = (number + i / len(trials)) / rounds
            doing(f"{trial.case}, {trial.system} {trial.policy}", done)
            train = _train_ddp if trial.system == "ddp" else _train_leash
            found[trial].append(watched(partial(train, task, trial, times)))
    return [row_of(task, trial, outcomes) for trial, outcomes in found.items()]


def task_of(options: BenchOptions) -> UnequalTask:
    """Chooses what is trained: MNIST where somebody says where it is."""
    folder = options.data_dir or os.environ.get(FOLDER_VARIABLES["mnist"])
    task = replace(MNIST_TASK, data_dir=folder) if folder else DIGITS_TASK
    return replace(task, **SHORT_CHANGES) if options.short else task


def unequal_trials(task: UnequalTask, times: int) -> list[Trial]:
    """Makes the trials with a machine that is so many times slower."""
    common = Trial(bench="unequal", system="ddp", workers=MACHINES,
                   case=f"{task.model} on {task.dataset}, one {times} times slower")  # fmt: skip
    of_leash = (replace(common, system="leash", policy=policy) for policy in MEASURED_POLICIES)
    return [common, *of_leash]


def row_of(
    task: UnequalTask, trial: Trial, found: Sequence[tuple[SideOutcome, float | None]]
) -> Row:
    """Makes a row of one or several runs: its figures are their medians.

    A target that one of them did not reach was not reached.
    """
    step_s = [1 / outcome.steps_per_second for outcome, _ in found]
    shares = [share for _, share in found if share is not None]
    to_target = [outcome.seconds_to(task.target) for outcome, _ in found]
    reached = [seconds for seconds in to_target if seconds is not None]
    accuracies = [outcome.accuracy for outcome, _ in found if outcome.accuracy is not None]
    return make_row(
        trial, Times(0, (step_s,), max(shares, default=None)), lr=task.lr, target=task.target,
        to_target_s=statistics.median(reached) if len(reached) == len(found) else None,
        accuracy=statistics.median(accuracies) if accuracies else None,
    )  # fmt: skip


def slow_of(task: UnequalTask, times: int) -> list[float]:
    """Gives what each worker sleeps before a step, in seconds, by rank."""
    return [task.step_s] * (MACHINES - 1) + [task.step_s * times]


# Leash.


def _train_leash(task: UnequalTask, trial: Trial, times: int) -> SideOutcome:
    options = {
        "workers": MACHINES, "policy": trial.policy, "model": task.model, "dataset": task.dataset,
        "batch-size": task.batch_size, "lr": task.lr, "epochs": task.epochs, "seed": SEED,
        "slow": ",".join(map(str, slow_of(task, times))), "data-dir": task.data_dir,
        "len-train-data": task.limit, "bound": SSP_BOUND if trial.policy == "ssp" else None,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in options.items() if value is not None]
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        done = subprocess.run(
            module_argv("leash.ps.cli", "launch", *words, f"--run-dir={run_dir}"),
            capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise LeashError(f"leash launch: {done.stderr.strip() or done.stdout.strip()}")
        return read_side(run_dir)


# DistributedDataParallel.


def _train_ddp(task: UnequalTask, _: Trial, times: int) -> SideOutcome:
    here, there = SPAWN.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            SPAWN.Process(
                target=ddp_worker, daemon=True,
                args=(task, slow_of(task, times)[rank - 1], f"file://{folder}/group", rank,
                      there if rank == 1 else None),
            )
            for rank in range(1, MACHINES + 1)
        ]  # fmt: skip
        for process in processes:
            process.start()
        there.close()
        try:
            if not here.poll(WAIT_S):
                raise LeashError(f"ddp: has said nothing for {WAIT_S:.0f} s")
            outcome: SideOutcome = here.recv()
        except EOFError:
            raise LeashError("ddp: a worker has ended too early; see above") from None
        finally:
            for process in processes:
                end(process)
    return outcome


def ddp_worker(task: UnequalTask, slow_s: float, group: str, rank: int, pipe: Any) -> None:
    """Trains as one of several; the first of them tells the outcome through its pipe."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from leash.worker.datasets import epoch_order, load_dataset, shares
    from leash.worker.models import BUILDERS
    from leash.worker.train.evaluator import evaluate

    be_quiet()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", group, rank=rank - 1, world_size=MACHINES)
    folder = Path(task.data_dir) if task.data_dir is not None else None
    data = load_dataset(task.dataset, data_dir=folder, limit=task.limit, test=rank == 1)
    torch.manual_seed(SEED)
    model = BUILDERS[task.model].build(data.sample_shape, data.classes)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=task.lr * MACHINES)
    share = shares(data.train_size, [1.0] * MACHINES, SEED)[rank - 1]
    clock, steps, accuracies = Stopwatch(dist.barrier), 0, []
    for epoch in range(1, task.epochs + 1):
        with clock.running():
            for inputs, targets in data.train_batches(
                epoch_order(share, SEED, rank, epoch), task.batch_size
            ):
                time.sleep(slow_s)
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(parallel(inputs), targets).backward()
                optimizer.step()
                steps += 1
        if rank == 1:
            accuracies.append((clock.seconds, evaluate(model, data, EVALUATION_BATCH)[1]))
    if pipe is not None:
        together = steps * MACHINES
        pipe.send(SideOutcome(clock.seconds, together, together / clock.seconds, (),
                              tuple(accuracies)))  # fmt: skip
    dist.barrier()
    dist.destroy_process_group()


class Stopwatch:
    """Adds up the seconds in which all workers train.

    Attributes:
        seconds: so far.
    """

    def __init__(self, meet: Callable[[], Any]) -> None:
        """Stands still.

        Args:
            meet: returns once all workers have called it.
        """
        self.seconds: float = 0.0
        self._meet: Final = meet

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs within this context, which all workers enter and leave together."""
        self._meet()
        began_s = time.perf_counter()
        yield
        self._meet()
        self.seconds += time.perf_counter() - began_s


def main(argv: Sequence[str] | None = None) -> int:
    return bench_main("unequal", argv)


if __name__ == "__main__":
    raise SystemExit(main())
