"""`leash evaluate`: an observer that measures test accuracy, so that no trainer stops for it.

It pulls the parameters when every worker has completed an epoch, evaluates them, and reports. The
training goes on meanwhile, so an epoch's figure is that of the moment just after its end. If two
epochs end while the evaluator is still busy with an earlier one, only the second has a figure.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from leash._extras import install_command
from leash._log import logged
from leash.ps.errors import EvictedError, StoppingError, UnknownWorkerError
from leash.ps.options.addresses import address_of
from leash.ps.options.base import check_positive, make_folder
from leash.ps.options.commands import EvaluateOptions
from leash.ps.processes import say_line
from leash.ps.wire.control import ControlChannel, await_state
from leash.ps.wire.keys import key_for
from leash.ps.wire.messages import Beaten, Report
from leash.ps.words import why_stopped
from leash.worker.client import Client
from leash.worker.datasets import Dataset, load_dataset
from leash.worker.optim.slabs import ModelSlabs
from leash.worker.train.task import choose_device, difference, loss_for, make_model, resolve_task

BOARD_S: Final = 1.0  # seconds between two points of a TensorBoard curve

_say: Final = logged(lambda text: say_line(f"leash evaluate: {text}"), __name__)


def run(options: EvaluateOptions) -> int:
    """Evaluates until the run is over; returns the exit status.

    Raises:
        UsageError: the options do not fit each other, the run or this machine.
        LeashError: the server is gone, or refuses.
    """
    check_positive(options, "test_batch_size", "threads", "wait_s")
    if options.run_dir is not None:
        make_folder("--run-dir", Path(options.run_dir))
    address = address_of(options.server, options.ps_ip, options.ps_port)
    with ControlChannel(address, key=key_for(options.key)) as channel:
        state = await_state(channel, options.wait_s, lambda _: None)
    task = resolve_task(options, state)
    if other := difference(task, state):
        _say(other)
    device = choose_device(options.device)
    torch.set_num_threads(options.threads)
    dataset = load_dataset(
        task.dataset, data_dir=task.data_dir, download=options.download, seed=task.seed,
        train=False, image_size=options.image_size, loader_workers=options.loader_workers,
    )  # fmt: skip
    model = make_model(task, dataset, device)
    slabs = ModelSlabs(model.named_parameters(), model.named_buffers())
    client = Client(
        address, slabs.layout, wait_s=options.wait_s, memory=slabs.memory, key=options.key
    )
    try:
        Evaluator(options, client, slabs, model, dataset).run()
    except StoppingError as stopping:
        _say(f"the run is over: {why_stopped(str(stopping))}")
    finally:
        client.close()
        slabs.close()
        dataset.close()
    return 0


class Evaluator:
    """Watches one run, and evaluates its parameters after every epoch."""

    def __init__(
        self,
        options: EvaluateOptions,
        client: Client,
        slabs: ModelSlabs,
        model: nn.Module,
        dataset: Dataset,
    ) -> None:
        self._options: Final = options
        self._client: Final = client
        self._slabs: Final = slabs
        self._model: Final = model
        self._dataset: Final = dataset
        self._board: Final = Board(options.run_dir)

    def run(self) -> None:
        """Evaluates after every epoch, and returns after the evaluation behind the last bye."""
        seen, is_over = 0, False
        try:
            while not is_over:
                try:
                    beaten = self._await_epoch(seen)
                    is_over = beaten.finished
                    if not is_over or beaten.initialized:
                        self._evaluate(beaten.epoch)
                    seen = beaten.epoch
                except (EvictedError, UnknownWorkerError):  # noqa: PERF203
                    is_over = False
                    self._client.rejoin()  # after an outage, in which the run went on
        finally:
            self._board.close()

    def _await_epoch(self, seen: int) -> Beaten:
        return self._client.wait_until(
            lambda b: b.finished or b.epoch > seen, lambda _: self._watch()
        )

    def _evaluate(self, epoch: int) -> None:
        version = self._client.pull(self._slabs.parameters)
        self._slabs.scatter()
        loss, accuracy = evaluate(self._model, self._dataset, self._options.test_batch_size)
        report = Report(
            0, self._client.incarnation, "evaluation", epoch, version, self._dataset.test_size,
            loss, accuracy, 0.0, 0.0,
        )  # fmt: skip
        self._client.report(report)
        self._board.add("test/loss", loss, epoch)
        self._board.add("test/accuracy", accuracy, epoch)

    def _watch(self) -> None:
        """Adds the state of the training to TensorBoard's curves, about once a second."""
        if self._board.is_due():
            self._board.add_state(self._client.state())


@torch.no_grad()
def evaluate(model: nn.Module, dataset: Dataset, batch_size: int) -> tuple[float, float]:
    """Evaluates a model on the whole test set.

    Args:
        model: is put into evaluation mode, and back into its own afterwards.
        dataset: whose test split to use.
        batch_size: samples that go through the model together.

    Returns:
        The mean loss, NaN if it has overflowed; and the accuracy from 0 to 1, NaN if there are no
        classes.
    """
    was_training, device = model.training, next(model.parameters()).device
    loss_of, total_loss, correct, samples = loss_for(dataset), 0.0, 0, 0
    model.eval()
    for inputs, targets in dataset.test_batches(batch_size):
        outputs = model(inputs.to(device))
        wanted = targets.to(device)
        total_loss += float(loss_of(outputs, wanted)) * len(targets)
        if dataset.classes:
            correct += int((outputs.argmax(1) == wanted).sum())
        samples += len(targets)
    model.train(was_training)
    mean = total_loss / samples if samples else math.nan
    accuracy = correct / samples if samples and dataset.classes else math.nan
    return mean if math.isfinite(mean) else math.nan, accuracy


class Board:
    """Writes TensorBoard curves below the run directory.

    Without a run directory, or without TensorBoard, it writes nothing.
    """

    def __init__(self, run_dir: str | None, now: Callable[[], float] = time.monotonic) -> None:
        """Opens the curves; says so on standard output if TensorBoard is missing.

        Args:
            run_dir: where to write; None for nowhere.
            now: seconds on a clock that never goes back.
        """
        self._now: Final = now
        self._next_s = 0.0
        self._writer: Any = None
        if run_dir is None:
            return
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            _say(f"no TensorBoard files: {install_command('tensorboard')}")
            return
        self._writer = SummaryWriter(str(Path(run_dir, "tensorboard")))

    def is_due(self) -> bool:
        """Whether it is time for the next point of the training's curves."""
        return self._writer is not None and self._now() >= self._next_s

    def add(self, name: str, value: float, step: int) -> None:
        """Adds a point to a curve, unless its value is not finite."""
        if self._writer is not None and math.isfinite(value):
            self._writer.add_scalar(name, value, step)

    def add_state(self, state: dict[str, Any]) -> None:
        """Adds a point to every curve of the training, over the steps of all workers.

        Args:
            state: the run's, as `Client.state` returns it.
        """
        self._next_s = self._now() + BOARD_S
        step = state["steps"]
        self.add("train/steps_per_second", state["steps_per_second"], step)
        for row in state["table"]:
            worker = row["worker"]
            self.add(f"lag/worker_{worker}", row["lag"], step)
            if row["wait_fraction"] is not None:
                self.add(f"waiting/worker_{worker}", row["wait_fraction"], step)
            if row["loss"] is not None:
                self.add(f"train_loss/worker_{worker}", row["loss"], step)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
