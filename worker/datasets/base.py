"""The interface of datasets, as the trainer uses it, and the options for loading one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from leash.ps.errors import UsageError

Positions = npt.NDArray[np.int64]  # each the place of a sample in the training split, from 0
Batch = tuple[Tensor, Tensor]  # (samples, labels or targets), of equal length

TEST_FRACTION: Final = 0.2  # of the samples, where a data set has no test split of its own
DEFAULT_IMAGE_SIZE: Final = 64
DEFAULT_SYNTHETIC_SHAPE: Final = (3, 32, 32)
DEFAULT_SYNTHETIC_CLASSES: Final = 10
DEFAULT_SYNTHETIC_SIZE: Final = 10_000


class Dataset(ABC):
    """Training and test samples, cut into batches.

    A split that was not asked for has size 0 and gives no batches.

    Attributes:
        name: as ``--dataset`` takes it.
        sample_shape: of one sample, without the batch dimension.
        classes: how many there are; 0 for a regression.
        train_size: samples of the training split that are used.
        test_size: samples of the test split.
    """

    name: str
    sample_shape: tuple[int, ...]
    classes: int
    train_size: int
    test_size: int

    @abstractmethod
    def train_batches(self, positions: Positions, batch_size: int) -> Iterator[Batch]:
        """Gives the training samples at some positions, in that order.

        Args:
            positions: in the training split, from 0.
            batch_size: samples of a batch. The last one may have fewer, or one more, as
                `in_batches` says.

        Returns:
            Batches of samples, float32 of shape (batch, *sample_shape), and labels, int64 of shape
            (batch,). A user's own dataset may give other types.

        Raises:
            IndexError: a position is outside the split, or ``keep`` left it out.
        """

    @abstractmethod
    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Gives all test samples, in a fixed order.

        Args:
            batch_size: likewise.

        Returns:
            Batches as `train_batches` gives them.
        """

    def close(self) -> None:  # noqa: B027 - most datasets have nothing to end
        """Ends the loader processes, if there are any."""


@dataclass(frozen=True)
class DatasetOptions:
    """The arguments of `load_dataset`, each documented there. A dataset reads what concerns it."""

    data_dir: Path | None = None
    download: bool = False
    seed: int = 0
    train: bool = True
    test: bool = True
    limit: int | None = None
    # With it ten workers on one machine hold, and decode, one copy of the data together, not ten.
    keep: Callable[[int], Positions] | None = None
    image_size: int = DEFAULT_IMAGE_SIZE
    loader_workers: int = 0
    synthetic_shape: tuple[int, ...] = DEFAULT_SYNTHETIC_SHAPE
    synthetic_classes: int = DEFAULT_SYNTHETIC_CLASSES
    synthetic_size: int = DEFAULT_SYNTHETIC_SIZE

    def __post_init__(self) -> None:
        _require_at_least(1, self.limit, "--len-train-data")
        _require_at_least(1, self.image_size, "--image-size")
        _require_at_least(0, self.loader_workers, "--loader-workers")
        _require_at_least(1, self.synthetic_size, "--synthetic-size")
        _require_at_least(1, self.synthetic_classes, "--synthetic-classes")
        for side in self.synthetic_shape:
            _require_at_least(1, side, "--synthetic-shape")

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits to load: "train", "test"."""
        return ("train",) * self.train + ("test",) * self.test

    def train_size(self, available: int) -> int:
        """How many of so many available training samples to use."""
        return available if self.limit is None else min(self.limit, available)

    def kept(self, train_size: int) -> Positions | None:
        """The positions to hold in memory, ascending; None for all of them."""
        return None if self.keep is None else np.unique(self.keep(train_size))


Sliceable = TypeVar("Sliceable", Tensor, list[int])


def in_batches(positions: Sliceable, batch_size: int) -> Iterator[Sliceable]:
    """Cuts positions into pieces of ``batch_size``; the last one may be smaller.

    A single position that is left over joins the piece before it: batch normalization fails on a
    batch of one. That piece then has one more than ``batch_size``.
    """
    size = len(positions)
    joins = size % batch_size == 1 and size > batch_size > 1
    last = size - 1 if joins else size
    for start in range(0, last, batch_size):
        end = start + batch_size
        yield positions[start : size if end >= last else end]


def _require_at_least(least: int, value: int | None, flag: str) -> None:
    if value is not None and value < least:
        raise UsageError(f"{flag}: expected {least} or more, got {value}")
