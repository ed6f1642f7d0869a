"""The loop of `leash worker`: batch, forward, backward, push and pull."""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from rich.progress import Progress, TaskID
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import Tensor, nn

from leash.ps.errors import FencedError, LeashError, StoppingError, UsageError
from leash.ps.interrupt import Interrupted, ToldToLeave
from leash.ps.options.plan import parse_local_steps
from leash.ps.options.worker import WorkerOptions
from leash.ps.wire.messages import STOPPED_BY_TIMEOUT, Report
from leash.ps.words import (
    BACKWARD,
    DONE,
    FAILED,
    FORWARD,
    LOADING,
    STOPPED,
    TIMED_OUT,
    epoch_after,
    is_good_end,
    percent,
    wait_fraction,
    why_stopped,
)
from leash.worker.datasets import Dataset, Positions
from leash.worker.optim.optimizer import PSOptimizer
from leash.worker.train.leasing import LeaseWork, Speed
from leash.worker.train.slowdown import Slowdown
from leash.worker.train.task import Task, loss_for
from leash.worker.train.work import Piece, StaticWork, Work

REPORT_S: Final = 0.25  # seconds between two reports of the training


@dataclass(slots=True)
class Totals:
    """What a worker has done so far.

    Attributes:
        steps: how many pushes.
        local_steps: how many steps are behind these pushes, or still to be pushed.
        samples: how many it has trained on; one that it saw twice counts twice.
        compute_s: seconds spent computing, data included.
        wait_s: seconds spent waiting for the answers to pushes.
        loss_by_epoch: the mean loss of each epoch; NaN for one without samples.
    """

    steps: int = 0
    local_steps: int = 0
    samples: int = 0
    compute_s: float = 0.0
    wait_s: float = 0.0
    loss_by_epoch: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _MeanLoss:
    """A mean over samples. Its sum stays a tensor until `value`, for which the GPU must finish."""

    total: Tensor | float = 0.0
    samples: int = 0

    def add(self, loss: Tensor, samples: int) -> None:
        self.total = self.total + loss.detach() * samples
        self.samples += samples

    def value(self) -> float:
        """The mean; NaN if there was nothing to average, or it has overflowed."""
        mean = float(self.total) / self.samples if self.samples else math.nan
        return mean if math.isfinite(mean) else math.nan


class Trainer:
    """Trains one worker's model, from its first batch to its bye.

    Attributes:
        totals: what it has done so far.
    """

    def __init__(
        self,
        options: WorkerOptions,
        task: Task,
        dataset: Dataset,
        share: Positions | None,
        model: nn.Module,
        optimizer: PSOptimizer,
        slowdown: Slowdown,
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins nothing yet, except that the time of ``--timeout`` runs from here.

        Args:
            options: what the worker was started with.
            task: what to train, on what, for how long.
            dataset: where the batches come from.
            share: this worker's part of the training samples; None if the server leases them out.
            model: on the device on which to train it.
            optimizer: of the model's parameters; it has joined the run.
            slowdown: slows this worker down.
            say: shows a line of progress.
            now: seconds on a clock that never goes back.
        """
        self.totals: Final = Totals()
        self._options: Final = options
        self._task: Final = task
        self._dataset: Final = dataset
        self._share: Final = share
        self._speed: Final = Speed()
        self._model: Final = model
        self._optimizer: Final = optimizer
        self._client: Final = optimizer.client
        self._rank: Final = optimizer.client.rank  # whose share this worker has, if it has one
        self._slowdown: Final = slowdown
        self._say: Final = say
        self._now: Final = now
        self._device: Final = next(model.parameters()).device
        # With overlap, step() sends what is ready while the GPU still computes, and tells computing
        # from waiting.
        self._waits_for_gpu: Final = self._device.type == "cuda" and (
            slowdown.goes_by_compute or not optimizer.overlap
        )
        self._loss: Final = loss_for(dataset)
        self._since_report = _MeanLoss()
        self._epoch = 0  # the epoch that this worker is in; 0 before the first
        self._of_epoch = _MeanLoss()
        self._incarnation = 0  # the one that reported last
        self._told_s = (0.0, 0.0)  # of computing and waiting: the totals at the last report
        self._earlier_s = (0.0, 0.0)  # likewise, at the last report of the incarnation before
        self._next_report_s = now()
        self._client.deadline_s = now() + (options.timeout_s or math.inf)

    def run(self) -> int:
        """Trains until all work is done. Whatever happens, the server hears a bye.

        Returns:
            The exit status, 0.

        Raises:
            StoppingError: the server ends the run, and that is no good end.
            LeashError: whatever else ends this worker's part.
            ToldToLeave: it was told to go.
        """
        reason = STOPPED  # by a signal, unless it turns out otherwise
        try:
            self._train()
            reason = DONE
        except StoppingError as stopping:
            if not is_good_end(str(stopping)):
                raise
            is_timeout = str(stopping) == STOPPED_BY_TIMEOUT
            reason = TIMED_OUT if is_timeout else STOPPED
            self._say("the time is over" if is_timeout else why_stopped(str(stopping)))
        except (Interrupted, ToldToLeave) as told:
            self._say(self._how_far(str(told)))
            raise
        except Exception:
            reason = FAILED
            raise
        finally:
            self._optimizer.close(reason)
        if complaint := self._slowdown.complaint():
            self._say(complaint)
        self._save()
        return 0

    def _how_far(self, signal: str) -> str:
        epoch = epoch_after(max(0, self._epoch - 1), self._task.epochs)
        return (
            f"{why_stopped(signal)}, in {epoch} after {self.totals.steps} steps; the same command "
            "line takes part again while the run goes on"
        )

    def _train(self) -> None:
        self._model.train()
        work = self._work()
        if self._share is not None:
            self._report("plan", self._task.epochs, samples=self._samples_of(self._share))
        with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
            bar = progress.add_task("")
            for piece in work.pieces():
                if piece.epoch > self._epoch:
                    self._end_epoch()
                    self._epoch = piece.epoch
                about = f"epoch {piece.epoch} of {self._task.epochs}"
                progress.update(bar, description=about, total=piece.epoch_samples)
                self._piece(piece, work, progress, bar)
        self._end_epoch()

    def _piece(self, piece: Piece, work: Work, progress: Progress, bar: TaskID) -> None:
        done, began_s = piece.begins_at, self._now()
        pushed, evictions = 0, self._optimizer.evictions  # how many of its samples were answered
        self._optimizer.local_steps = piece.local_steps
        doing = self._client.doing
        doing.begin(LOADING)
        positions = piece.whole_batches() if self._options.drop_last else piece.positions
        for inputs, targets in self._dataset.train_batches(positions, piece.batch_size):
            compute_s = self.totals.compute_s
            loss = self._step(inputs, targets, began_s)
            if work.is_held():  # if not, it was in this step that the worker found itself evicted
                self._speed.add(len(targets), self.totals.compute_s - compute_s)
            self._of_epoch.add(loss, len(targets))
            self._report_now_and_then(self._epoch - 1)
            done += len(targets)
            progress.update(bar, completed=done)
            self._require_own_share()
            if not self._optimizer.pending_steps:
                if self._optimizer.evictions > evictions:
                    work.lose(self._answered(piece, pushed))
                pushed, evictions = done - piece.begins_at, self._optimizer.evictions
            if not work.is_held():
                break
            began_s = self._now()
            doing.begin(LOADING)
        if self._optimizer.pending_steps:
            self._optimizer.flush()
            self._count_time(began_s)
            self.totals.steps += 1
            if self._optimizer.evictions > evictions:
                work.lose(self._answered(piece, pushed))

    def _require_own_share(self) -> None:
        """Ends a worker whose rank, with its share, is another process's since it was evicted.

        Raises:
            FencedError: it is.
        """
        if self._share is not None and self._client.rank != self._rank:
            raise FencedError(
                f"worker {self._rank}: another process has taken this rank and its share of the "
                "data while this one was away: start it again"
            )

    def _answered(self, piece: Piece, pushed: int) -> int:
        """How many samples of a piece count as trained on, after an eviction in the midst of it.

        The server knows best: an answer may have been lost, to a push that was applied.

        Args:
            piece: of this worker's share.
            pushed: how many this worker has had the answers for.
        """
        told = self._client.welcome
        if self._share is None or told.share != self._samples_of(self._share):
            return pushed
        epochs = told.epochs - (piece.epoch - 1)
        answered = epochs * told.share + told.samples - piece.begins_at
        return max(pushed, min(answered, len(piece.positions)))

    def _end_epoch(self) -> None:
        """Ends the epoch that this worker is in: reports its loss and says it."""
        if not self._epoch:
            return
        mean, self._of_epoch = self._of_epoch, _MeanLoss()
        self.totals.loss_by_epoch.append(mean.value())
        self._report("epoch", self._epoch)
        waiting = wait_fraction(self.totals.wait_s, self.totals.compute_s) or 0.0
        self._say(
            f"epoch {self._epoch}: loss {mean.value():.4f}, waiting {percent(waiting)} of its time "
            "so far"
        )

    def _step(self, inputs: Tensor, targets: Tensor, began_s: float) -> Tensor:
        self._client.doing.begin(FORWARD)
        self._slowdown.before_step()
        compute_began_s = self._now()
        loss = self._compute(inputs, targets)
        self._slowdown.after_compute(self._now() - compute_began_s, len(targets))
        self._optimizer.step()
        self._count_time(began_s)
        self.totals.steps += not self._optimizer.pending_steps
        self.totals.local_steps += 1
        self.totals.samples += len(targets)
        self._since_report.add(loss, len(targets))
        return loss.detach()

    def _compute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Computes the gradients of a step; returns its loss."""
        inputs = inputs.to(self._device, non_blocking=True)
        targets = targets.to(self._device, non_blocking=True)
        self._seed_step()
        self._optimizer.zero_grad()
        self._optimizer.begin_step(samples=len(targets))
        loss = self._loss(self._model(inputs), targets)
        self._client.doing.begin(BACKWARD)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._waits_for_gpu:
            torch.cuda.synchronize(self._device)
        return loss

    def _count_time(self, began_s: float) -> None:
        """Counts the time since then: what the last push waited, and the rest as computing."""
        self.totals.compute_s += self._now() - began_s - self._optimizer.wait_seconds
        self.totals.wait_s += self._optimizer.wait_seconds

    def _report_now_and_then(self, epoch: int) -> None:
        if self._now() >= self._next_report_s:
            self._next_report_s = self._now() + REPORT_S
            self._report("training", epoch)

    def _report(self, kind: str, epoch: int, samples: int | None = None) -> None:
        totals, client = self.totals, self._client
        if client.incarnation != self._incarnation:  # its seconds count from 0 again
            self._incarnation, self._earlier_s = client.incarnation, self._told_s
        self._told_s = (totals.compute_s, totals.wait_s)
        compute_s, wait_s = (
            now - before for now, before in zip(self._told_s, self._earlier_s, strict=True)
        )
        report = Report(
            client.rank, client.incarnation, kind, epoch, client.steps,
            totals.samples if samples is None else samples, self._since_report.value(), 0.0,
            compute_s, wait_s,
        )  # fmt: skip
        client.report(report)
        self._since_report = _MeanLoss()

    def _work(self) -> Work:
        batch_size = self._options.batch_size
        if self._share is None:
            return LeaseWork(
                self._optimizer, self._speed, size=self._dataset.train_size,
                epochs=self._task.epochs, batch_size=batch_size,
            )  # fmt: skip
        completed, begins_at = self._begins_at(self._samples_of(self._share))
        return StaticWork(
            self._share, seed=self._task.seed, rank=self._rank, completed=completed,
            begins_at=begins_at, epochs=self._task.epochs, batch_size=batch_size,
            local_steps=self._fixed_local_steps(),
        )  # fmt: skip

    def _samples_of(self, share: Positions) -> int:
        """How many samples of its share an epoch of this worker has."""
        left_over = len(share) % self._options.batch_size if self._options.drop_last else 0
        return len(share) - left_over

    def _fixed_local_steps(self) -> int:
        return parse_local_steps(self._client.settings["local_steps"]) or 1

    def _begins_at(self, share: int) -> tuple[int, int]:
        """Where this rank was: the epochs that it has completed, and samples of the next one.

        A process that replaces another goes on there, and so does a run that was resumed.

        Args:
            share: how many samples an epoch has.

        Raises:
            UsageError: it had another number of them.
        """
        told = self._client.welcome
        if told.share not in (0, share):
            raise UsageError(
                f"an epoch of rank {self._rank} had {told.share} samples in the run that "
                f"goes on here, and has {share} now; give the same data and --drop-last, or begin "
                "anew without --resume"
            )
        return told.epochs, told.samples

    def _seed_step(self) -> None:
        """Seeds torch for the next step, so that dropout is the same whenever it is taken."""
        # No other seed of a training run begins with the word 0.
        entropy = np.random.SeedSequence(
            [0, self._task.seed, self._client.rank, self._client.steps + 1,
             self._optimizer.pending_steps]
        )  # fmt: skip
        number = int(entropy.generate_state(1)[0])
        torch.default_generator.manual_seed(number)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(number)

    def _save(self) -> None:
        """Writes what this worker did and the parameters that it ended with to `--save-path`."""
        if self._options.save_path is None:
            return
        folder = Path(self._options.save_path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._write_to(folder / f"worker-{self._client.rank}")
        except (OSError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise LeashError(
                f"--save-path {folder}: cannot write this worker's files there: {why}; its part in "
                "the run is done, and the model is among the run's checkpoints"
            ) from error

    def _write_to(self, stem: Path) -> None:
        """Writes a file of figures, and one of parameters, which is there as a whole or not."""
        totals = self.totals
        summary = {
            "rank": self._client.rank,
            "model": self._task.model,
            "dataset": self._task.dataset,
            "steps": totals.steps,
            "local_steps": totals.local_steps,
            "samples": totals.samples,
            "loss_by_epoch": [None if math.isnan(x) else x for x in totals.loss_by_epoch],
            "compute_seconds": round(totals.compute_s, 3),
            "wait_seconds": round(totals.wait_s, 3),
            "evictions": self._optimizer.evictions,
        }
        stem.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
        model = stem.with_suffix(".safetensors")
        unfinished = model.with_name(f"{model.name}.unfinished")
        try:
            save_model(self._model, str(unfinished))
            unfinished.replace(model)
        finally:
            unfinished.unlink(missing_ok=True)
