"""`leash worker`: from its settings to a trainer that runs."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from leash._log import Say, logged
from leash.ps.errors import UsageError
from leash.ps.interrupt import hand_termination_to
from leash.ps.options.addresses import AUTO_RANK, address_of
from leash.ps.options.base import check_positive, make_folder
from leash.ps.options.plan import STATIC, data_plan_of_worker
from leash.ps.options.worker import WorkerOptions
from leash.ps.processes import keep_memory, say_line
from leash.ps.slowness.by_rank import parse_allocation
from leash.ps.wire.control import ControlChannel, await_state
from leash.ps.wire.keys import key_for
from leash.ps.words import FAILED
from leash.worker.client.control.waiting import Waiting
from leash.worker.client.encoding import Encoding
from leash.worker.datasets import Dataset, Positions, load_dataset, shares
from leash.worker.optim.local_steps import takes_differences
from leash.worker.optim.optimizer import PSOptimizer
from leash.worker.optim.param_groups import hyperparameters
from leash.worker.optim.slabs import NamedTensors
from leash.worker.train.slowdown import Slowdown
from leash.worker.train.task import Task, choose_device, difference, make_model, resolve_task
from leash.worker.train.trainer import Trainer

INNER_OPTIMIZERS: Final[dict[str, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
}  # fmt: skip


def run(options: WorkerOptions) -> int:
    """Trains until this worker's epochs, its time or the run are over; returns the exit status.

    Raises:
        UsageError: the options do not fit each other, the run or this machine.
        LeashError: whatever else ends this worker's part.
    """
    check_positive(options, "batch_size", "threads", "wait_s", "timeout_s")
    if options.save_path is not None:
        make_folder("--save-path", Path(options.save_path))  # now, not only when all is trained
    shown = [str(options.rank)]  # who this worker is, for people

    def show(text: str) -> None:
        say_line(f"leash worker {shown[-1]}: {text}")

    say = logged(show, __name__)
    keep_memory(say)
    address = address_of(options.server, options.ps_ip, options.ps_port)
    with ControlChannel(address, key=key_for(options.key)) as channel:
        waiting = Waiting(say)
        state = await_state(
            channel, options.wait_s, lambda s: waiting.server(address, s, options.wait_s)
        )
    task = resolve_task(options, state)
    if other := difference(task, state):
        say(other)
    device = choose_device(options.device)
    torch.set_num_threads(options.threads)
    share_of = _share(options, task)
    plan = data_plan_of_worker(state, has_allocation=options.hetero_allocation is not None)
    dataset = load_dataset(
        task.dataset, data_dir=task.data_dir, download=options.download, seed=task.seed, test=False,
        limit=options.len_train_data,
        keep=share_of if plan == STATIC and options.rank != AUTO_RANK else None,
        image_size=options.image_size, loader_workers=options.loader_workers,
    )  # fmt: skip

    def make_optimizer(parameters: NamedTensors, **more: Any) -> PSOptimizer:
        optimizer = PSOptimizer(
            parameters, server=address, rank=options.rank, on_wait=waiting.workers,
            key=options.key, patience=options.patience, grace_s=options.grace_s,
            preempt_file=options.preempt_file, **more,
        )  # fmt: skip
        hand_termination_to(optimizer.client.tell_to_leave)
        shown.append(str(optimizer.client.rank))
        return optimizer

    try:
        return make_trainer(
            options, state, task, dataset, device, say=say, show=show, make_slowdown=Slowdown,
            make_optimizer=make_optimizer, kind=Trainer,
        ).run()  # fmt: skip
    finally:
        hand_termination_to(None)
        dataset.close()


def make_trainer(
    options: WorkerOptions, state: dict[str, Any], task: Task, dataset: Dataset,
    device: torch.device, *, say: Say, show: Say, make_slowdown: Callable[..., Slowdown],
    make_optimizer: Callable[..., PSOptimizer], kind: Callable[..., Trainer],
) -> Trainer:  # fmt: skip
    """Makes a worker's model and optimizer, which joins the run, and the trainer of both.

    Args:
        options: what the worker was started with.
        state: of the run, as the server tells it.
        task: what to train, on what.
        dataset: where the batches come from.
        device: on which to train.
        say: shows a line, and logs it.
        show: shows a line.
        make_slowdown: makes what slows the worker down, from the arguments of `Slowdown`.
        make_optimizer: makes the optimizer, from the arguments of `PSOptimizer` that this knows.
        kind: makes the trainer, from the arguments of `Trainer`.

    Raises:
        UsageError: the options do not fit each other, the run or this machine.
        LeashError: whatever else keeps this worker from taking part.
    """
    share_of = _share(options, task)
    plan = data_plan_of_worker(state, has_allocation=options.hetero_allocation is not None)
    share = None
    if plan == STATIC:  # one that has no rank yet has at least the smallest share
        share = share_of(dataset.train_size) if options.rank != AUTO_RANK else None
        _require_a_batch(options, dataset.train_size // len(task.ranks) if share is None
                         else len(share))  # fmt: skip
    else:
        _require_a_batch(options, dataset.train_size)
    model = make_model(task, dataset, device, dropout=options.dropout)
    encoding = Encoding(options.codec, options.int8_block, options.topk_ratio, options.answer_codec)
    inner = inner_optimizer(state, model.parameters())
    overlap = options.overlap and inner is None
    optimizer = make_optimizer(
        model.named_parameters(), buffers=model.named_buffers(),
        overlap=overlap and _spans_chunks(model, state["chunk_nbytes"]), inner=inner,
        transport=options.transport, encoding=encoding,
        say=show,  # it logs its lines itself
    )  # fmt: skip
    try:
        rank = optimizer.client.rank
        if plan == STATIC and share is None:
            share = _share(replace(options, rank=rank), task)(dataset.train_size)
        slowdown = make_slowdown(
            options.slowness, options.ratio, time_scale=options.time_scale, seed=task.seed,
            rank=rank,
        )  # fmt: skip
    except BaseException:
        optimizer.close(FAILED)
        raise
    return kind(options, task, dataset, share, model, optimizer, slowdown, say)


def _spans_chunks(model: nn.Module, chunk_nbytes: int) -> bool:
    """Whether the gradients are more than one chunk, so that the first can leave before the last.

    With one chunk, overlap hides nothing, and its hooks cost a step of mnist_cnn a millisecond.
    """
    return sum(4 * parameter.numel() for parameter in model.parameters()) > chunk_nbytes


def _share(options: WorkerOptions, task: Task) -> Callable[[int], Positions]:
    """Makes the function from the size of the training split to this worker's positions in it."""
    if isinstance(options.rank, str):
        return lambda _: np.empty(0, np.int64)  # nobody asks before the server has given a rank
    if options.rank not in task.ranks:
        ranks = ", ".join(map(str, task.ranks))
        raise UsageError(f"--rank {options.rank}: the workers of this run are {ranks}")
    count, place = len(task.ranks), task.ranks.index(options.rank)
    weights = [1.0] * count
    if options.hetero_allocation is not None:
        weights = parse_allocation(options.hetero_allocation, count)
    return lambda size: shares(size, weights, task.seed)[place]


def _require_a_batch(options: WorkerOptions, samples: int) -> None:
    """Refuses to train on so many samples, if --drop-last would leave all of them out."""
    if options.drop_last and samples < options.batch_size:
        raise UsageError(f"--drop-last: leaves out all of this worker's {samples} samples, which "
                         f"fill no batch of {options.batch_size}; give a smaller --batch-size, or "
                         "leave it out")  # fmt: skip


def inner_optimizer(
    settings: dict[str, Any], parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer | None:
    """Makes the optimizer that takes a worker's local steps.

    Args:
        settings: the run's, as the server tells them.
        parameters: the model's.

    Returns:
        That optimizer; None if the run has no local steps, so that every step pushes gradients.
    """
    if not takes_differences(settings):
        return None
    return INNER_OPTIMIZERS[settings["optimizer"]](parameters, **hyperparameters(settings))
