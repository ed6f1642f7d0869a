"""Random images for benchmarks: any shape, no files, next to no memory."""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from leash.worker.datasets.base import (
    TEST_FRACTION,
    Batch,
    Dataset,
    DatasetOptions,
    Positions,
    in_batches,
)

# How many images of noise a split has. A sample is its class's image plus one of these, added when
# its batch is asked for: 10,000 samples of 3×224×224 would take 6 GB.
NOISES: Final = 64
# The deviation of the classes' images; that of the noise is 1. In d numbers two classes lie
# 0.2·√(2d) apart: 16 deviations for 3×32×32, so a line separates them, yet a model needs more than
# one step to find it.
CLASS_DEVIATION: Final = 0.2


def load_synthetic(options: DatasetOptions) -> Dataset:
    """Makes Gaussian samples, from the seed alone, in classes that a linear model can separate."""
    return SyntheticDataset(options)


class SyntheticDataset(Dataset):
    """Random images around an image for each class; position p has the label p mod classes."""

    def __init__(self, options: DatasetOptions) -> None:
        self.name = "synthetic"
        self.sample_shape = options.synthetic_shape
        self.classes = options.synthetic_classes
        size = options.synthetic_size
        self.train_size = options.train_size(size) if options.train else 0
        self.test_size = max(1, int(size * TEST_FRACTION)) if options.test else 0
        random = torch.Generator().manual_seed(options.seed)
        self._centres = CLASS_DEVIATION * self._images(self.classes, random)
        self._train_noises = self._images(NOISES, random)
        self._test_noises = self._images(NOISES, random)

    def train_batches(self, positions: Positions, batch_size: int) -> Iterator[Batch]:
        chosen = torch.tensor(positions, dtype=torch.int64)
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < self.train_size:
            raise IndexError(f"a position is outside the {self.train_size} samples")
        return self._batches(chosen, self._train_noises, batch_size)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        return self._batches(torch.arange(self.test_size), self._test_noises, batch_size)

    def _images(self, n: int, random: torch.Generator) -> Tensor:
        return torch.randn((n, *self.sample_shape), generator=random)

    def _batches(self, positions: Tensor, noises: Tensor, batch_size: int) -> Iterator[Batch]:
        for chosen in in_batches(positions, batch_size):
            labels = chosen % self.classes
            # The division comes first: without it the samples of a class would share few noises if
            # the number of classes had factors in common with 64.
            noise = noises.index_select(0, (chosen // self.classes) % NOISES)
            yield noise.add_(self._centres.index_select(0, labels)), labels
