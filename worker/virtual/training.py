"""What the machines of a run in virtual time do: workers train, an observer evaluates."""

import statistics
import time
from contextlib import suppress
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from leash._log import Say
from leash.ps.errors import StoppingError
from leash.ps.interrupt import ToldToLeave
from leash.ps.options.commands import EvaluateOptions
from leash.ps.options.worker import WorkerOptions
from leash.ps.slowness.delays import COMPUTING, Delays
from leash.ps.slowness.grammar import Slowness
from leash.ps.wire.control import request_state
from leash.ps.wire.layout import Layout
from leash.worker.client import Client
from leash.worker.datasets import Dataset
from leash.worker.optim.optimizer import PSOptimizer
from leash.worker.optim.slabs import ModelSlabs
from leash.worker.train.command import make_trainer
from leash.worker.train.evaluator import Evaluator
from leash.worker.train.slowdown import Slowdown
from leash.worker.train.task import Task, choose_device, loss_for, make_model, resolve_task
from leash.worker.train.trainer import Trainer
from leash.worker.virtual.client import Machine, VirtualClient, VirtualControl
from leash.worker.virtual.world import BEGINS_S

WARM_UP: Final = 5  # batches that are not measured
MEASURED: Final = 25


class Computing:
    """How long a machine computes."""

    def __init__(self, slowness: Slowness, *, seed: int, rank: int, batch_size: int) -> None:
        """Draws nothing yet.

        Args:
            slowness: what a batch takes.
            seed: of the run.
            rank: of the worker.
            batch_size: of a whole batch; one of fewer samples takes so much less.
        """
        self._delays: Final = Delays(slowness, seed=seed, rank=rank, use=COMPUTING)
        self._batch_size: Final = batch_size

    def seconds(self, now_s: float, samples: int) -> float:
        """Draws how long the next batch takes.

        Args:
            now_s: the virtual time.
            samples: of the batch.
        """
        return self._delays.next(now_s - BEGINS_S) * samples / self._batch_size


class VirtualTrainer(Trainer):
    """Trains one worker's model; the time that it computes is virtual."""

    def __init__(
        self, machine: Machine, computing: Computing, options: WorkerOptions, *parts: Any
    ) -> None:
        """Begins nothing yet.

        Args:
            machine: on which it trains.
            computing: how long that computes.
            options: what the worker was started with.
            parts: the other arguments of `Trainer`, without a clock.
        """
        task, dataset, share, model, optimizer, slowdown, say = parts
        super().__init__(
            options, task, dataset, share, model, optimizer, slowdown, say, machine.world.clock
        )
        self._machine: Final = machine
        self._computing: Final = computing

    def _compute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = super()._compute(inputs, targets)
        # Only afterwards: the seed that this step has given torch is all machines' in this process.
        self._machine.fiber.sleep(self._computing.seconds(self._machine.world.now_s, len(targets)))
        return loss


class VirtualOptimizer(PSOptimizer):
    """The optimizer of a worker in virtual time."""

    def __init__(self, machine: Machine, *settings: Any, **more: Any) -> None:
        """Joins the run.

        Args:
            machine: on which it runs.
            settings: arguments of `PSOptimizer`.
            more: further arguments of it.
        """
        self._machine: Final = machine
        super().__init__(*settings, **more)

    def _join_run(
        self, group: None, device: torch.device, layout: Layout, *_: Any, say: Say | None,
        **settings: Any,
    ) -> Client:  # fmt: skip
        return VirtualClient(self._machine, layout, say=say, **settings)


def train(
    machine: Machine, options: WorkerOptions, compute: Slowness, dataset: Dataset, say: Say
) -> None:
    """Trains as `leash worker` does, to the end of the run.

    Args:
        machine: on which to train; its fiber calls this.
        options: of the worker.
        compute: what a batch takes.
        dataset: with the training split; all workers may have the same.
        say: shows a line.

    Raises:
        LeashError: whatever ends this worker's part before it is done.
    """
    torch.set_num_threads(options.threads)  # each thread asks for its own
    with VirtualControl(machine) as channel:
        state = request_state(channel)
    task = resolve_task(options, state)
    computing = Computing(compute, seed=task.seed, rank=machine.rank, batch_size=options.batch_size)
    with suppress(ToldToLeave):
        make_trainer(
            options, state, task, dataset, choose_device(options.device), say=say, show=say,
            make_slowdown=partial(Slowdown, sleep=machine.fiber.sleep, now=machine.world.clock),
            make_optimizer=partial(VirtualOptimizer, machine),
            kind=partial(VirtualTrainer, machine, computing),
        ).run()  # fmt: skip


def observe(machine: Machine, options: EvaluateOptions, dataset: Dataset) -> None:
    """Evaluates after every epoch as `leash evaluate` does. That takes no virtual time.

    Args:
        machine: on which to evaluate; its fiber calls this.
        options: of the evaluator.
        dataset: with the test split.

    Raises:
        LeashError: whatever ends its part.
    """
    torch.set_num_threads(options.threads)
    with VirtualControl(machine) as channel:
        state = request_state(channel)
    model = make_model(resolve_task(options, state), dataset, choose_device(options.device))
    slabs = ModelSlabs(model.named_parameters(), model.named_buffers())
    client = VirtualClient(machine, slabs.layout, memory=slabs.memory)
    try:
        Evaluator(options, client, slabs, model, dataset).run()
    except StoppingError:
        return  # the run is over
    finally:
        client.close()
        slabs.close()


def measured_seconds(options: WorkerOptions, task: Task, dataset: Dataset) -> float:
    """Measures how long this machine computes on a batch: the median of some.

    One thread is measured by its own processor time, so that what else runs here counts less;
    several by the clock.

    Args:
        options: of a worker.
        task: what to train.
        dataset: with the training split.
    """
    torch.set_num_threads(options.threads)
    now = time.thread_time if options.threads == 1 else time.perf_counter
    model = make_model(task, dataset, choose_device(options.device), dropout=options.dropout)
    model.train()
    loss_of = loss_for(dataset)
    size = min(options.batch_size, dataset.train_size)
    positions = torch.arange(size * (WARM_UP + MEASURED)).remainder(dataset.train_size).numpy()
    seconds = []
    began_s = now()
    for inputs, targets in dataset.train_batches(positions, size):
        model.zero_grad()
        loss = loss_of(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        seconds.append((now() - began_s) * options.batch_size / len(targets))
        began_s = now()
    return statistics.median(seconds[WARM_UP:])
