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
    """Splits of `MapStyle`; None for a split that was not asked for.

    ``train_size`` is how many of the training samples to use. ``loader_workers`` processes read
    ahead, and stay from epoch to epoch until `close`.
    """

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
            # Ours, and before anything is read: a list would take -1 for its last element.
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
    """One split, and the loader over it."""

    def __init__(self, samples: MapStyle, loader_workers: int) -> None:
        self._batches: list[list[int]] = []
        self._loader: DataLoader[Batch] | None = DataLoader(
            samples,  # type: ignore[arg-type]  # a protocol to us, a base class to torch
            # One loader, and so one set of processes, for all epochs: it asks this list anew
            # whenever it is iterated.
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
    # From a loader process an error comes with that process's traceback for its text, which ends
    # with what the error said there.
    last = str(error).strip().splitlines()[-1]
    return last.removeprefix(f"{UsageError.__module__}.{UsageError.__qualname__}: ")
