"""Writes the two logs that the SSP demo left, so that what people plot from them goes on working.

Both have columns between tabs, and no header::

    trainlossMODEL.txt   a line for each epoch: 0 (the server's rank), mean loss, variance of the
                         staleness, seconds of this epoch, seconds so far, epoch from 0, test
                         accuracy such as 97.8900%
    stalenessMODEL.txt   a line for each step: epoch from 0, worker, batch size, staleness

MODEL is the model's name as it was given. An epoch that was not evaluated, or in which no worker
reported a loss, has nan there.
"""

import math
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leash.ps.runs.disk import THIS_HOST, Disk
from leash.ps.runs.unwritten import OnTrouble, PatientFile


@dataclass(slots=True)
class EpochSums:
    """What a line of trainlossMODEL.txt is made of."""

    loss: float = 0.0  # a sum over samples
    samples: int = 0  # with a loss
    steps: int = 0
    staleness: int = 0  # a sum over steps
    staleness_squared: int = 0  # likewise
    ended_s: float = math.nan  # seconds of training at its end
    accuracy: float = math.nan  # 0 to 1

    @property
    def mean_loss(self) -> float:
        """The mean over samples; NaN without any."""
        return self.loss / self.samples if self.samples else math.nan

    @property
    def staleness_variance(self) -> float:
        """The variance over steps; NaN without any."""
        if not self.steps:
            return math.nan
        return self.staleness_squared / self.steps - (self.staleness / self.steps) ** 2


class DemoLogs:
    """The two logs of one run. Epochs are counted from 0."""

    def __init__(self, folder: Path, model: str, disk: Disk = THIS_HOST) -> None:
        """Opens the logs.

        Args:
            folder: where they go.
            model: what their names end in.
            disk: where the folder is.
        """
        self._on_trouble: OnTrouble | None = None
        self._troubles: Final[dict[Path, OSError]] = {}  # until somebody hears of them
        self._disk: Final = disk
        self._trainloss: Final = folder / f"trainloss{model}.txt"
        self._loss_fails = False
        path = folder / f"staleness{model}.txt"
        self._staleness: Final = PatientFile(path, disk, time.monotonic, self._tell)
        self._epochs: Final[list[EpochSums]] = []  # those that have ended come first
        self._ended = 0  # how many have
        self._reported: Final[dict[int, int]] = {}  # worker ▸ its samples at its newest report

    def add_step(self, epoch: int, worker: int, samples: int, staleness: int) -> None:
        """Notes a step that was answered."""
        sums = self._sums(epoch)
        sums.steps += 1
        sums.staleness += staleness
        sums.staleness_squared += staleness**2
        self._staleness.write(f"{epoch}\t{worker}\t{samples}\t{staleness}\n".encode())

    def add_loss(self, epoch: int, worker: int, samples: int, loss: float) -> None:
        """Notes a report of a worker.

        Args:
            epoch: that it is in.
            worker: its rank.
            samples: how many its process has trained on so far.
            loss: the mean over those since its last report; NaN if there are none.
        """
        before = self._reported.get(worker, 0)
        new = samples - before if samples >= before else samples  # another process counts from 0
        self._reported[worker] = samples
        if math.isfinite(loss):
            sums = self._sums(epoch)
            sums.loss += loss * new
            sums.samples += new

    def end_epochs(self, ended: int, seconds: float) -> None:
        """Notes that so many epochs have ended by now.

        Args:
            ended: how many.
            seconds: of training so far.
        """
        for epoch in range(self._ended, ended):
            self._sums(epoch).ended_s = seconds
        self._ended = ended
        self._staleness.flush()
        self._write_epochs()

    def add_accuracy(self, epoch: int, accuracy: float | None) -> None:
        """Notes the test accuracy after an epoch, from 0 to 1."""
        if accuracy is not None:
            self._sums(epoch).accuracy = accuracy
            self._write_epochs()

    def flush(self) -> None:
        """Has the steps so far reach their file, if that can be."""
        self._staleness.flush()

    def close(self) -> None:
        """Writes what is left."""
        self._write_epochs()
        self._staleness.close()

    @property
    def missing(self) -> int:
        """How many lines of the steps are not in their file now."""
        return self._staleness.missing

    def hear(self, on_trouble: OnTrouble) -> None:
        """Has this function hear of what cannot be written, also of what could not before."""
        self._on_trouble = on_trouble
        for path, error in self._troubles.items():
            on_trouble(path, error)

    def _tell(self, path: Path, error: OSError | None) -> None:
        if self._on_trouble is not None:
            self._on_trouble(path, error)
        elif error is not None:
            self._troubles[path] = error

    def _sums(self, epoch: int) -> EpochSums:
        while len(self._epochs) <= epoch:
            self._epochs.append(EpochSums())
        return self._epochs[epoch]

    def _write_epochs(self) -> None:
        """Writes the file anew: a report or an evaluation may come after the end of its epoch."""
        lines, began_s = [], 0.0
        for epoch, sums in enumerate(self._epochs[: self._ended]):
            columns = (
                0, sums.mean_loss, sums.staleness_variance, sums.ended_s - began_s, sums.ended_s,
                epoch, f"{sums.accuracy:.4%}",
            )  # fmt: skip
            lines.append("\t".join(map(str, columns)) + "\n")
            began_s = sums.ended_s
        try:
            with closing(self._disk.create(self._trainloss)) as file:
                rest = "".join(lines).encode()
                while rest:
                    rest = rest[file.write(rest) or 0 :]
        except OSError as error:
            self._loss_fails = True
            self._tell(self._trainloss, error)
            return
        if self._loss_fails:
            self._loss_fails = False
            self._tell(self._trainloss, None)
