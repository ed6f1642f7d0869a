"""What a process trains or evaluates: its own options say it, else the server's, else defaults."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leash.ps.errors import UsageError
from leash.ps.options.addresses import parse_learners
from leash.ps.options.base import flag
from leash.ps.options.catalog import choose_task, is_reference
from leash.ps.options.task import TaskGroup
from leash.worker.datasets import Dataset
from leash.worker.models import build_model


@dataclass(frozen=True, slots=True)
class Task:
    """What to train, on what, and for how long.

    Attributes:
        model: a name of the catalog, or ``module:function``.
        dataset: the same.
        data_dir: the folder with the data set's files, if it needs any.
        epochs: how many a worker trains for.
        seed: of the model's first values and of the order of samples.
        ranks: the workers that take part, ascending; a worker's share goes by its place here.
    """

    model: str
    dataset: str
    data_dir: Path | None
    epochs: int
    seed: int
    ranks: tuple[int, ...]


def resolve_task(options: TaskGroup, settings: dict[str, Any]) -> Task:
    """Decides what a process trains or evaluates.

    A ``module:function`` is code, so it comes from the command line alone: of what the server
    tells, only names of the catalog are taken.

    Args:
        options: what its command line says.
        settings: what the server was started with.

    Returns:
        The task.

    Raises:
        UsageError: neither says which model and data, the server tells a ``module:function``, or a
            number is out of range.
    """
    # Its own model with the server's data set, or the other way round, is no pair.
    own = (options.model, options.dataset)
    model, dataset = choose_task(*own) if any(own) else _told_task(settings)
    if model is None or dataset is None:
        raise UsageError("nothing to train: give --model or --dataset, such as --dataset digits")
    epochs = options.epochs if options.epochs is not None else settings["planned_epochs"] or 1
    if epochs < 1:
        raise UsageError(f"--epochs {epochs}: give 1 or more")
    return Task(
        model,
        dataset,
        Path(options.data_dir) if options.data_dir is not None else None,
        epochs,
        options.seed if options.seed is not None else settings["seed"],
        tuple(sorted(parse_learners(settings["learners"], 0))),
    )


def difference(task: Task, settings: dict[str, Any]) -> str | None:
    """Compares a task with what the server was started with.

    Args:
        task: what this process trains or evaluates.
        settings: what the server was started with.

    Returns:
        A line for people, if this process's model or data set is another; otherwise None.
    """
    told = (settings["model"], settings["dataset"])
    own = (task.model, task.dataset)
    if told in ((None, None), own):
        return None
    return (
        f"this command line says {own[0]} on {own[1]}, but the server was started with "
        f"{told[0]} on {told[1]}; this process goes by its own"
    )


def _told_task(settings: dict[str, Any]) -> tuple[str | None, str | None]:
    """Takes model and data set from what the server tells, unless they name code."""
    told = {kind: str(settings[kind]) for kind in ("model", "dataset") if settings[kind]}
    if any(map(is_reference, told.values())):
        words = shlex.join(f"{flag(kind)}={name}" for kind, name in told.items())
        raise UsageError(
            "the server was started with your own code, which a process runs only where its own "
            f"command line names it: add {words} here, and have the module at hand"
        )
    return choose_task(told.get("model"), told.get("dataset"))


def choose_device(name: str) -> torch.device:
    """Finds the device of this name.

    Args:
        name: "cpu", "cuda" or "cuda:N".

    Returns:
        The device as torch knows it.

    Raises:
        UsageError: it is no device of torch, or this machine does not have it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: expected cpu, cuda, or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: torch finds {torch.cuda.device_count()} GPUs here; "
            "take --device cpu, or see leash doctor"
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: expected cpu, cuda, or cuda:N")
    return device


Loss = Callable[[Tensor, Tensor], Tensor]


def make_model(
    task: Task, dataset: Dataset, device: torch.device, *, dropout: bool = True
) -> nn.Module:
    """Builds the task's model, with the same first values in every process of the run.

    Args:
        task: names the model and the seed.
        dataset: whose samples it takes, and whose classes it tells apart.
        device: where it is to be.
        dropout: False switches every dropout off.

    Returns:
        The model.

    Raises:
        UsageError: there is no such model, or it cannot take these samples.
    """
    torch.manual_seed(task.seed)
    return build_model(task.model, dataset.sample_shape, dataset.classes, dropout=dropout).to(
        device
    )


def loss_for(dataset: Dataset) -> Loss:
    """Chooses the loss: cross-entropy for classes, mean squared error for a regression."""
    return F.cross_entropy if dataset.classes else F.mse_loss
