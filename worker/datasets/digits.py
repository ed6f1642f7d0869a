"""scikit-learn's handwritten digits: 1,797 images of 8×8 pixels. No files, no download."""

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from leash._extras import install_command
from leash.ps.errors import UsageError
from leash.worker.datasets.base import TEST_FRACTION, Dataset, DatasetOptions, Positions
from leash.worker.datasets.memory import InMemoryDataset, StoredSamples, training_samples

SPLIT_SEED: Final = 1797  # fixed, so that runs with different seeds share one test set


def load_digits(options: DatasetOptions) -> Dataset:
    """Loads images of 1×8×8, scaled to zero mean and unit deviation over the training split.

    Raises:
        UsageError: scikit-learn, which has the images, is not installed.
    """
    pixels, digits = _read()
    train, test = _stratified_split(digits)
    scaled = (pixels - pixels[train].mean()) / pixels[train].std()
    x = torch.from_numpy(scaled.astype(np.float32)).view(-1, 1, 8, 8)
    y = torch.from_numpy(digits)
    return InMemoryDataset(
        "digits",
        training_samples(x[train], y[train], options) if options.train else None,
        StoredSamples(x[test], y[test]) if options.test else None,
        sample_shape=(1, 8, 8),
        classes=10,
    )


def _read() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Reads pixels (1797, 64) from 0 to 16, and digits (1797,)."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UsageError(f"dataset digits: scikit-learn is missing: {install_command('sklearn')}")
    # Read without importing scikit-learn, which takes a worker 1.1 s of processor time.
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        with gzip.open(path, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    return _read_by_scikit_learn()


def _read_by_scikit_learn() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    # scikit-learn may put the file elsewhere at any time; this is its public function.
    from sklearn.datasets import load_digits as load

    pixels, digits = load(return_X_y=True)
    return pixels, digits.astype(np.int64)


def _stratified_split(labels: npt.NDArray[np.int64]) -> tuple[Positions, Positions]:
    """Chooses the rows of the training and of the test split; every class is in both."""
    rng = np.random.default_rng(SPLIT_SEED)
    train, test = [], []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        held_out = round(TEST_FRACTION * len(rows))
        test.append(rows[:held_out])
        train.append(rows[held_out:])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))
