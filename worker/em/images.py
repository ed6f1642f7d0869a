"""MNIST for EM: flat images, and the features that mixtures are fitted to."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from leash.ps.datafiles.mnist import find_mnist
from leash.ps.errors import UsageError
from leash.ps.options.em import EmOptions
from leash.worker.em.family import Floats, Samples

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

INK: Final = 0.5  # a pixel brighter than this share of white is a one
DIGITS: Final = 10
PROJECTED_ROWS: Final = 4096


@dataclass(frozen=True, eq=False)
class Images:
    """Both splits of MNIST: images (n, 784) of bytes, and labels (n,)."""

    train: Bytes
    train_labels: Labels
    test: Bytes
    test_labels: Labels

    def positions(self, digit: int) -> npt.NDArray[np.intp]:
        """Finds the rows of the training split that are of this digit."""
        return np.flatnonzero(self.train_labels == digit)


def require_files(path: str | None) -> dict[str, tuple[Path, Path]]:
    """Finds all four files, before anything heavy is imported or started.

    Args:
        path: the folder that --path names; None for the one that the environment names.

    Returns:
        Split ▸ its file of images, and its file of labels.

    Raises:
        UsageError: a file is missing; the text names it.
    """
    given = Path(path) if path is not None else None
    return find_mnist(given, ("train", "test"), option="--path")


def load_images(path: str | None, limit: int | None = None) -> Images:
    """Reads MNIST.

    Args:
        path: as in `require_files`.
        limit: how many training images to use; all by default.

    Returns:
        Both splits.

    Raises:
        UsageError: files are missing or damaged.
    """
    files = require_files(path)
    from leash.worker.datasets.mnist import read_split  # imports torch

    parts = []
    for split in ("train", "test"):
        images, labels = read_split(*files[split])
        parts += [images.numpy().reshape(len(images), -1), labels.numpy()]
    train, train_labels, test, test_labels = parts
    return Images(train[:limit], train_labels[:limit], test, test_labels)


def require_enough(images: Images, components: int) -> None:
    """Refuses more components than some digit has training images.

    Raises:
        UsageError: the text names the digit.
    """
    counts = np.bincount(images.train_labels, minlength=DIGITS)
    digit = int(counts.argmin())
    if counts[digit] < components:
        raise UsageError(f"--k {components}: digit {digit} has only {counts[digit]} training "
                         "images; give a smaller k, or more images")  # fmt: skip


class Features(ABC):
    """Makes samples of images, and images of a mixture's means."""

    @abstractmethod
    def samples(self, images: Bytes) -> Samples:
        """Makes samples (n, d) of images (n, 784)."""

    @abstractmethod
    def pictures(self, means: Floats) -> Floats:
        """Makes images (k, 28, 28), from 0 to 1, of means (k, d)."""


class Components(Features):
    """Takes the principal components of the pixels, those of all digits together."""

    def __init__(self, images: Bytes, dimensions: int) -> None:
        """Computes the principal axes.

        Args:
            images: (n, 784), of the training split.
            dimensions: how many axes, at most n.

        Raises:
            UsageError: there are fewer images than dimensions.
        """
        if len(images) < dimensions:
            raise UsageError(f"--pca {dimensions}: give at most the number of training images, "
                             f"{len(images)}")  # fmt: skip
        # float32 saves half a gigabyte, and costs nothing: the axes are a choice, not a result.
        pixels = images.astype(np.float32) / np.float32(255)
        self._pca: Final = PCA(dimensions, svd_solver="covariance_eigh").fit(pixels)
        self._axes: Final[Floats] = self._pca.components_.astype(np.float64)
        self._mean: Final[Floats] = self._pca.mean_.astype(np.float64)

    def samples(self, images: Bytes) -> Samples:
        blocks = [
            (images[i : i + PROJECTED_ROWS] / 255 - self._mean) @ self._axes.T
            for i in range(0, len(images), PROJECTED_ROWS)
        ]
        return np.concatenate(blocks)

    def pictures(self, means: Floats) -> Floats:
        pixels = np.clip(means @ self._axes + self._mean, 0, 1)
        return pixels.reshape(-1, 28, 28)


class Ink(Features):
    """Takes each pixel for ink or paper: a byte of 1 or 0."""

    def samples(self, images: Bytes) -> Samples:
        return (images > INK * 255).astype(np.uint8)

    def pictures(self, means: Floats) -> Floats:
        return means.reshape(-1, 28, 28)


def features_for(options: EmOptions, images: Images) -> Features:
    """Makes the features that the chosen kind of mixture is fitted to."""
    return Ink() if options.model == "bmm" else Components(images.train, options.pca)
