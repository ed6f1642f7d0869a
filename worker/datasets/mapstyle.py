"""Datasets that are read sample by sample, in this process or in loader processes."""

import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from leash.ps.errors import UsageError
from leash.worker.datasets.base import Batch, Dataset, Positions, in_batches


class MapStyle(Protocol):
    """torch's map-style dataset: a length, and a pair (sample, label or target) per index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class MapStyleDataset(Dataset):
    """A dataset that is read sample by sample."""

    def __init__(
        self,
        name: str,
        train: MapStyle | None,
        test: MapStyle | None,
        *,
        sample_shape: Sequence[int],
        classes: int,
        train_size: int,
        loader_workers: int,
    ) -> None:
        """Starts no process yet.

        Args:
            name: as ``--dataset`` takes it.
            train: the training split; None if it was not asked for.
            test: the test split; None if it was not asked for.
            sample_shape: of one sample.
            classes: how many there are; 0 for a regression.
            train_size: how many of the training samples to use.
            loader_workers: how many processes read ahead; they stay from epoch to epoch until
                `close`. 0 reads in this process.
        """
        self.name = name
        self.sample_shape = tuple(sample_shape)
        self.classes = classes
        self.train_size = train_size
        self.test_size = len(test) if test is not None else 0
        self._train = _Reader(train, loader_workers) if train is not None else None
        self._test = _Reader(test, loader_workers) if test is not None else None

    def train_batches(self, positions: Positions, batch_size: int) -> Iterator[Batch]:
        if self._train is None:
            return iter(())
        indices: list[int] = positions.tolist()
        for position in indices:
            # Checked here, before anything is read: a list would take -1 for its last element.
            if not 0 <= position < self.train_size:
                raise IndexError(f"position {position} is outside the {self.train_size} samples")
        return self._train.batches(indices, batch_size)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        if self._test is None:
            return iter(())
        return self._test.batches(list(range(self.test_size)), batch_size)

    def close(self) -> None:
        for reader in (self._train, self._test):
            if reader is not None:
                reader.close()


class _Reader:
    """Reads one split through one loader."""

    def __init__(self, samples: MapStyle, loader_workers: int) -> None:
        self._batches: list[list[int]] = []
        self._loader: DataLoader[Batch] | None = DataLoader(
            samples,  # type: ignore[arg-type]  # a protocol to us, a base class to torch
            # The loader asks this list anew whenever it is iterated. So one loader, and one set of
            # processes, serves all epochs.
            batch_sampler=self._batches,
            num_workers=loader_workers,
            persistent_workers=loader_workers > 0,
            # Spawned: a ZeroMQ context is poison in a forked child.
            multiprocessing_context=(
                multiprocessing.get_context("spawn") if loader_workers else None
            ),
        )

    def batches(self, indices: list[int], batch_size: int) -> Iterator[Batch]:
        assert self._loader is not None, "batches after close"
        self._batches[:] = in_batches(indices, batch_size)
        try:
            for samples, labels in self._loader:
                yield samples, torch.as_tensor(labels)
        except UsageError as error:
            raise UsageError(_own_line(error)) from error

    def close(self) -> None:
        # The loader's iterator ends its processes when the last reference to it goes.
        self._loader = None


def _own_line(error: UsageError) -> str:
    # The text of an error from a loader process is that process's traceback, whose last line is
    # what the error said there.
    last = str(error).strip().splitlines()[-1]
    return last.removeprefix(f"{UsageError.__module__}.{UsageError.__qualname__}: ")
