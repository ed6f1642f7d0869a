"""The datasets that ``--dataset`` names, a user's own, and which worker gets which samples.

Imports: options, for the names; data files, to find them; plugins and torchvision, as worker/ has
them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from leash.ps.options.catalog import DATASETS, choose, is_reference
from leash.worker.datasets.base import (
    DEFAULT_IMAGE_SIZE,
    DEFAULT_SYNTHETIC_CLASSES,
    DEFAULT_SYNTHETIC_SHAPE,
    DEFAULT_SYNTHETIC_SIZE,
    Batch,
    Dataset,
    DatasetOptions,
    Positions,
)
from leash.worker.datasets.cifar10 import load_cifar10
from leash.worker.datasets.digits import load_digits
from leash.worker.datasets.imagefolder import load_imagefolder
from leash.worker.datasets.mnist import load_mnist
from leash.worker.datasets.plugin import load_plugin
from leash.worker.datasets.splits import epoch_order, permutation, shares
from leash.worker.datasets.synthetic import load_synthetic

__all__ = [
    "Batch",
    "Dataset",
    "Positions",
    "epoch_order",
    "load_dataset",
    "permutation",
    "shares",
]


LOADERS: Final[dict[str, Callable[[DatasetOptions], Dataset]]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "cifar10": load_cifar10,
    "imagefolder": load_imagefolder,
    "synthetic": load_synthetic,
}  # by the names of leash.ps.options.catalog.DATASETS


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    seed: int = 0,
    train: bool = True,
    test: bool = True,
    limit: int | None = None,
    keep: Callable[[int], Positions] | None = None,
    image_size: int = DEFAULT_IMAGE_SIZE,
    loader_workers: int = 0,
    synthetic_shape: tuple[int, ...] = DEFAULT_SYNTHETIC_SHAPE,
    synthetic_classes: int = DEFAULT_SYNTHETIC_CLASSES,
    synthetic_size: int = DEFAULT_SYNTHETIC_SIZE,
) -> Dataset:
    """Loads the dataset called ``name``.

    Args:
        name: one of leash.ps.options.catalog, or ``module:function``.
        data_dir: the folder with its files.
        download: fetch them first, where they can be fetched.
        seed: of a synthetic dataset; no other depends on it.
        train: whether to load the training split. An evaluator does without.
        test: whether to load the test split. A worker does without.
        limit: use only the first so many training samples.
        keep: from the size of the training split to the positions that will be asked for, for
            example ``lambda n: shares(n, weights, seed)[rank - 1]``. The others need not be read.
            Positions go on meaning places in the whole split.
        image_size: pixels per side of an image from a folder.
        loader_workers: processes that read images from a folder; 0 reads in this process.
        synthetic_shape: of one sample.
        synthetic_classes: how many.
        synthetic_size: training samples; the test split has a fifth as many.

    Returns:
        The dataset; a split that was not asked for is empty.

    Raises:
        UsageError: the name is unknown, an argument cannot be, or files are absent or unreadable.
    """
    options = DatasetOptions(
        data_dir=data_dir,
        download=download,
        seed=seed,
        train=train,
        test=test,
        limit=limit,
        keep=keep,
        image_size=image_size,
        loader_workers=loader_workers,
        synthetic_shape=synthetic_shape,
        synthetic_classes=synthetic_classes,
        synthetic_size=synthetic_size,
    )
    if is_reference(name):
        return load_plugin(name, options)
    return LOADERS[choose(name, DATASETS, "dataset").name](options)
