"""What a dataset is to the trainer, and what it may be asked when it is loaded."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from leash.ps.errors import UsageError

Positions = npt.NDArray[np.int64]  # of samples in the training split, from 0
Batch = tuple[Tensor, Tensor]  # (samples, labels or targets), of equal length

DEFAULT_IMAGE_SIZE: Final = 64
DEFAULT_SYNTHETIC_SHAPE: Final = (3, 32, 32)
DEFAULT_SYNTHETIC_CLASSES: Final = 10
DEFAULT_SYNTHETIC_SIZE: Final = 10_000


class Dataset(ABC):
    """Training and test samples, cut into batches.

    A split that was not asked for has size 0 and gives no batches.
    """

    name: str
    sample_shape: tuple[int, ...]  # of one sample, without the batch dimension
    classes: int  # 0: regression
    train_size: int
    test_size: int

    @abstractmethod
    def train_batches(self, positions: Positions, batch_size: int) -> Iterator[Batch]:
        """The training samples at ``positions``, in that order; the last batch may be smaller.

        A batch is float32 of shape (batch, *sample_shape) and int64 labels of shape (batch,); a
        user's own dataset may give other types.

        Raises:
            IndexError: a position that is outside the split, or that ``keep`` left out.
        """

    @abstractmethod
    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """All test samples, in a fixed order; types and shapes are those of `train_batches`."""

    def close(self) -> None:  # noqa: B027 - most datasets have nothing to end
        """End the loader processes, if there are any."""


@dataclass(frozen=True)
class DatasetOptions:
    """What `load_dataset` was asked for. Each dataset reads those that concern it."""

    data_dir: Path | None = None
    download: bool = False
    seed: int = 0
    train: bool = True  # False: an evaluator, which needs no training samples
    test: bool = True  # False: a worker, which needs no test samples
    limit: int | None = None  # train on the first `limit` samples only
    # From the size of the training split to the positions that will be asked for. Ten workers on
    # one machine hold, and decode, one copy of the data together instead of ten.
    keep: Callable[[int], Positions] | None = None
    image_size: int = DEFAULT_IMAGE_SIZE  # pixels per side
    loader_workers: int = 0  # processes that read samples; 0: read in this one
    synthetic_shape: tuple[int, ...] = DEFAULT_SYNTHETIC_SHAPE
    synthetic_classes: int = DEFAULT_SYNTHETIC_CLASSES
    synthetic_size: int = DEFAULT_SYNTHETIC_SIZE  # training samples; a fifth of it for the test

    def __post_init__(self) -> None:
        _require_at_least(1, self.limit, "--len-train-data")
        _require_at_least(1, self.image_size, "--image-size")
        _require_at_least(0, self.loader_workers, "--loader-workers")
        _require_at_least(1, self.synthetic_size, "--synthetic-size")
        _require_at_least(1, self.synthetic_classes, "--synthetic-classes")
        for side in self.synthetic_shape:
            _require_at_least(1, side, "--synthetic-shape")

    def train_size(self, available: int) -> int:
        """How many of the ``available`` training samples to use."""
        return available if self.limit is None else min(self.limit, available)

    def kept(self, train_size: int) -> Positions | None:
        """The positions to hold in memory, ascending; None is all of them."""
        return None if self.keep is None else np.unique(self.keep(train_size))


Sliceable = TypeVar("Sliceable", Tensor, list[int])


def in_batches(positions: Sliceable, batch_size: int) -> Iterator[Sliceable]:
    """Cut into pieces of ``batch_size``; the last one may be smaller."""
    for start in range(0, len(positions), batch_size):
        yield positions[start : start + batch_size]


def _require_at_least(least: int, value: int | None, flag: str) -> None:
    if value is not None and value < least:
        raise UsageError(f"{flag}: expected {least} or more, got {value}")
