"""Datasets that fit into memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leash.worker.datasets.base import Batch, Dataset, DatasetOptions, Positions, in_batches


@dataclass(frozen=True)
class PixelScale:
    """From bytes to numbers of about zero mean and unit deviation; one pair per channel.

    Bit for bit what torchvision's ``ToTensor`` and ``Normalize`` give, but for a whole batch: per
    image, they cost more than a training step of a small CNN.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Scale uint8 (batch, channels, height, width) to float32 of the same shape."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return pixels.float().div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Samples:
    """One split.

    Images stay bytes until their batch is asked for. To gather 100 MNIST images and scale them
    takes 0.055 ms, no longer than to gather them as float32 (a fourth of the memory traffic pays
    for the arithmetic), and ten workers hold 47 MB each instead of 188.
    """

    x: Tensor  # (rows, *sample_shape)
    y: Tensor  # (rows,), or (rows, *target_shape) for regression
    scale: PixelScale | None = None
    row_of: Tensor | None = None  # position ▸ row, -1: not kept; None: they are the same

    @property
    def size(self) -> int:
        """Positions in the split, whether kept or not."""
        return len(self.y if self.row_of is None else self.row_of)

    def batches(self, positions: Tensor, batch_size: int) -> Iterator[Batch]:
        """The samples at these int64 positions, in this order."""
        for chosen in in_batches(positions, batch_size):
            yield self._at(self._rows(chosen))

    def _at(self, rows: Tensor) -> Batch:
        x = self.x.index_select(0, rows)
        return (self.scale(x) if self.scale else x), self.y.index_select(0, rows)

    def _rows(self, positions: Tensor) -> Tensor:
        if self.row_of is None:
            return positions
        rows = self.row_of.index_select(0, positions)
        if (rows < 0).any():
            absent = int(positions[rows < 0][0])
            raise IndexError(f"position {absent} is not among those kept when loading")
        return rows


class InMemoryDataset(Dataset):
    """Splits of `Samples`; None for a split that was not asked for."""

    def __init__(
        self,
        name: str,
        train: Samples | None,
        test: Samples | None,
        *,
        sample_shape: Sequence[int],
        classes: int,
    ) -> None:
        self.name = name
        self.sample_shape = tuple(sample_shape)
        self.classes = classes
        self.train_size = train.size if train else 0
        self.test_size = test.size if test else 0
        self._train = train
        self._test = test

    def train_batches(self, positions: Positions, batch_size: int) -> Iterator[Batch]:
        if self._train is None:
            return iter(())
        # A copy: torch will not borrow from a read-only array.
        return self._train.batches(torch.tensor(positions, dtype=torch.int64), batch_size)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        if self._test is None:
            return iter(())
        return self._test.batches(torch.arange(self.test_size), batch_size)


def training_samples(
    x: Tensor, y: Tensor, options: DatasetOptions, scale: PixelScale | None = None
) -> Samples:
    """Of a whole training split, what ``options`` limit it to and keep."""
    size = options.train_size(len(y))
    kept = options.kept(size)
    if kept is None:
        return Samples(x[:size], y[:size], scale)
    rows = torch.from_numpy(kept)
    return Samples(x[rows], y[rows], scale, rows_by_position(kept, size))


def rows_by_position(kept: Positions, size: int) -> Tensor:
    """`Samples.row_of`, for rows that hold the ``kept`` positions of a split of ``size``."""
    row_of = torch.full((size,), -1)
    row_of[torch.from_numpy(kept)] = torch.arange(len(kept))
    return row_of
