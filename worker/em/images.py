"""MNIST as EM wants it: flat images, and the features that mixtures are fitted to."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from leash.ps.errors import UsageError
from leash.ps.options.em import EmOptions
from leash.worker.em.family import Floats, Samples

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

RAW: Final = Path("MNIST") / "raw"
SPLITS: Final = ("train", "t10k")
KINDS: Final = ("images-idx3-ubyte", "labels-idx1-ubyte")
INK: Final = 0.5  # of white, from which a pixel is a one
CLASSES: Final = 10
BLOCK_ROWS: Final = 4096


@dataclass(frozen=True, eq=False)
class Images:
    """Both splits; images (n, 784) of bytes, labels (n,)."""

    train: Bytes
    train_labels: Labels
    test: Bytes
    test_labels: Labels

    def positions(self, digit: int) -> npt.NDArray[np.intp]:
        """Where this digit is in the training split."""
        return np.flatnonzero(self.train_labels == digit)


def require_files(path: str) -> Path:
    """The folder, if all four files are there: before anything heavy is imported or started.

    Raises:
        UsageError: what is missing, images or labels.
    """
    folder = Path(path)
    for split in SPLITS:
        for kind in KINDS:
            name = RAW / f"{split}-{kind}"
            if not (folder / name).is_file():
                raise UsageError(f"--path {folder}: no {name} there; give the folder that holds "
                                 "MNIST/raw with images and labels")  # fmt: skip
    return folder


def load_images(path: str, limit: int | None = None) -> Images:
    """Reads MNIST.

    Args:
        limit: use only so many training images.

    Raises:
        UsageError: files are missing or damaged, or a digit has no image.
    """
    folder = require_files(path)
    from leash.worker.datasets.mnist import read_split  # imports torch

    parts = []
    for split in SPLITS:
        images, labels = read_split(folder, split)
        parts += [images.numpy().reshape(len(images), -1), labels.numpy()]
    train, train_labels, test, test_labels = parts
    return Images(train[:limit], train_labels[:limit], test, test_labels)


def require_enough(images: Images, components: int) -> None:
    """Raises UsageError for a digit with fewer training images than components."""
    counts = np.bincount(images.train_labels, minlength=CLASSES)
    digit = int(counts.argmin())
    if counts[digit] < components:
        raise UsageError(f"--k {components}: digit {digit} has only {counts[digit]} training "
                         "images; give a smaller k, or more images")  # fmt: skip


class Features(ABC):
    """Images ▸ samples of a mixture, and means of a mixture ▸ images."""

    @abstractmethod
    def samples(self, images: Bytes) -> Samples:
        """(n, 784) bytes ▸ (n, d)."""

    @abstractmethod
    def pictures(self, means: Floats) -> Floats:
        """(k, d) ▸ (k, 28, 28), from 0 to 1."""


class Components(Features):
    """Principal components of pixels from 0 to 1, of all digits together."""

    def __init__(self, images: Bytes, dimensions: int) -> None:
        """Raises UsageError if there are fewer images than dimensions."""
        if len(images) < dimensions:
            raise UsageError(f"--pca {dimensions}: give at most the number of training images, "
                             f"{len(images)}")  # fmt: skip
        # In float32 half a gigabyte less is held; the components are a choice of axes, no result.
        pixels = images.astype(np.float32) / np.float32(255)
        self._pca: Final = PCA(dimensions, svd_solver="covariance_eigh").fit(pixels)
        self._axes: Final[Floats] = self._pca.components_.astype(np.float64)
        self._mean: Final[Floats] = self._pca.mean_.astype(np.float64)

    def samples(self, images: Bytes) -> Samples:
        blocks = [
            (images[i : i + BLOCK_ROWS] / 255 - self._mean) @ self._axes.T
            for i in range(0, len(images), BLOCK_ROWS)
        ]
        return np.concatenate(blocks)

    def pictures(self, means: Floats) -> Floats:
        pixels = np.clip(means @ self._axes + self._mean, 0, 1)
        return pixels.reshape(-1, 28, 28)


class Ink(Features):
    """Pixels that are ink or paper, as bytes of 1 or 0."""

    def samples(self, images: Bytes) -> Samples:
        return (images > INK * 255).astype(np.uint8)

    def pictures(self, means: Floats) -> Floats:
        return means.reshape(-1, 28, 28)


def features_for(options: EmOptions, images: Images) -> Features:
    return Ink() if options.model == "bmm" else Components(images.train, options.pca)
